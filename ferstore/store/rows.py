"""Small tables as rows: read at a pin, replaced by key with copy-on-write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ferstore.store.commit import Change
from ferstore.store.digests import damaged, read_checked
from ferstore.store.files import StoredFile, filesystem, local_path, write_data_file
from ferstore.store.pin import Pin
from ferstore.store.reach import patiently, reaching
from ferstore.store.store import Store
from ferstore.store.writer import encode

_ROWS_A_FILE = 500_000
_READERS = 8  # files that are read at once where only their keys are
_KEYS = pa.schema([("image_id", pa.string()), ("view", pa.string())])


def read_rows(
    store: Store, pin: Pin, table: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """Rows of a table at a pin, in no order. Never ask for a map column of a whole table.

    Raises:
        CorruptionError: a file is missing or damaged. Files of features are not read whole, and so are not held
            against their digests here.
    """
    schema = store.schemas[table].arrow()
    wanted = pa.schema([schema.field(name) for name in columns]) if columns else schema
    whole = store.schemas[table].value is None
    parts = [read_file(data_file.file_path, columns, where, whole=whole) for data_file in pin.data_files(table)]
    return pa.concat_tables([part.cast(wanted) for part in parts]) if parts else wanted.empty_table()


def read_keys(pin: Pin, table: str, extractor_id: str) -> pa.Table:
    """Keys (image_id, view) that an extractor has in a table of features; nothing else is read, by page checksums.

    Raises:
        CorruptionError: a file is missing or damaged.
    """
    urls = [data_file.file_path for data_file in pin.data_files(table)]
    with ThreadPoolExecutor(_READERS) as threads:
        parts = list(threads.map(partial(keys_of_file, extractor_id=extractor_id), urls))
    return pa.concat_tables(parts) if parts else _KEYS.empty_table()


def keys_of_file(url: str, extractor_id: str) -> pa.Table:
    """Keys (image_id, view) that an extractor has in one data file of features; errors as in `read_file`."""

    def read(source: Any) -> pa.Table:
        # Without the scanner of pq.read_table, which takes most of the time of a small file.
        file = pq.ParquetFile(source, page_checksum_verification=True)
        rows = file.read(columns=["image_id", "view", "extractor_id"], use_threads=False)
        rows = rows.filter(pc.equal(rows["extractor_id"], extractor_id))
        return rows.select(["image_id", "view"]).cast(_KEYS)

    def in_place() -> pa.Table:
        if (path := local_path(url)) is not None:
            return read(str(path))
        with filesystem(url).open(url, "rb") as stream:
            return read(stream)

    with _readable(url):
        return patiently(in_place)


def read_file(
    url: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None, *, whole: bool = True
) -> pa.Table:
    """Rows of one data file.

    Args:
        url: of the file.
        columns: all unless named.
        where: rows to keep.
        whole: read all of it and hold it against its digest; else only what the columns need, by page checksums.

    Raises:
        CorruptionError: it is missing or damaged.
        UnavailableError: it cannot be reached.
    """

    def read(source: Any) -> pa.Table:
        if where is None:  # Arrow's datasets, which filters need, take a fifth of a second to import
            found = pq.ParquetFile(source, page_checksum_verification=True).read(columns=columns)
            return found.select(columns) if columns is not None else found
        from pyarrow.fs import LocalFileSystem

        at = LocalFileSystem() if isinstance(source, str) else None  # Arrow's, see `_arrows_own`
        return pq.read_table(source, columns=columns, filters=where, filesystem=at, page_checksum_verification=True)

    def in_place() -> pa.Table:
        if (path := local_path(url)) is not None:
            return read(str(path))
        # Given the filesystem, Arrow would ask it whether the file exists, and take a 503 for a no.
        with filesystem(url).open(url, "rb") as stream:
            return read(stream)

    with _readable(url):
        if not whole:
            return patiently(in_place)
        data = read_checked(url)
        return read(pa.BufferReader(data if where is None else _arrows_own(data)))


def _arrows_own(data: bytes) -> pa.Buffer:
    """A copy in Arrow's memory.

    Threads of Arrow's datasets let go of their source some time after its rows were given; where that is an object of
    Python's and the interpreter is just ending, the process aborts.
    """
    stream = pa.BufferOutputStream()
    stream.write(data)
    return stream.getvalue()


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Tell what reading a data file runs into; errors as in `read_file`."""
    with reaching(url):
        try:
            yield
        except FileNotFoundError as error:
            raise damaged(url, error) from error
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise damaged(url, error) from error
        except OSError as error:
            if error.errno is None:  # Arrow's word for bytes that are no Parquet
                raise damaged(url, error) from error
            raise


def write_rows(store: Store, table: str, rows: pa.Table) -> tuple[StoredFile, ...]:
    """Write rows as data files, which no reader sees before they are committed."""
    schema = store.schemas[table]
    ordered = rows.select(schema.names).cast(schema.arrow())
    pieces = [ordered.slice(start, _ROWS_A_FILE) for start in range(0, len(ordered), _ROWS_A_FILE)]
    return tuple(
        write_data_file(store.data_folder(table), "rows", encode(schema, piece), len(piece)) for piece in pieces
    )


def replace_rows(store: Store, pin: Pin, table: str, rows: pa.Table, removed: pa.Table | None = None) -> Change:
    """Plan: ``rows`` take the place of those with the same key, ``removed`` keys leave, all others stay.

    Args:
        store: the store.
        pin: the state it is planned on.
        table: its name.
        rows: new and changed rows, all columns.
        removed: keys of rows to take out, key columns only.
    """
    key = list(store.schemas[table].key)
    gone = rows.select(key)
    if removed is not None:
        gone = pa.concat_tables([gone, removed.select(key)], promote_options="permissive")
    marked = gone.append_column("_gone", pa.array([True] * len(gone)))
    kept: list[pa.Table] = []
    replaced = []
    whole = store.schemas[table].value is None
    for data_file in pin.data_files(table) if len(gone) else []:
        keys = read_file(data_file.file_path, key, whole=whole)
        stays = _without(keys, marked, key)
        if len(stays) < len(keys):
            replaced.append(data_file)
            kept.append(read_file(data_file.file_path).take(stays["_row"]))
    merged = pa.concat_tables([rows.select(store.schemas[table].names), *kept], promote_options="permissive")
    return Change(table, write_rows(store, table, merged) if len(merged) else (), tuple(replaced))


def _without(keys: pa.Table, marked: pa.Table, key: list[str]) -> pa.Table:
    """Row numbers of ``keys`` that are not among the marked keys; null equals null, unlike in a join."""
    numbered = keys.append_column("_row", pa.array(range(len(keys)), pa.int64()))
    joined = _null_safe(numbered, key).join(_null_safe(marked, key), key, join_type="left outer")
    return joined.filter(pc.is_null(joined["_gone"])).select(["_row"]).sort_by("_row")


def _null_safe(table: pa.Table, key: list[str]) -> pa.Table:
    for name in key:
        table = table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], "\0"))
    return table
