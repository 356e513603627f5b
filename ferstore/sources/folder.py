"""Any labelled images: a folder a class (``classes``), or a CSV or Parquet file of URLs and labels (``table``)."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence

from ferstore.errors import FetchError, SourceError
from ferstore.image.fetch import Fetcher
from ferstore.image.location import normalise, redact, storage
from ferstore.sources.item import Item, Listing, Refused, settle
from ferstore.sources.tree import IMAGE_SUFFIXES, Tree

TABLE_SUFFIXES = (".csv", ".parquet")
_REQUIRED = ("url", "label")
_OPTIONAL = ("subject", "split")
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "publictest": "validation",
    "test": "test",
    "privatetest": "test",
}


def listing(tree: Tree) -> Listing:
    """List ``<class>/.../<file>``: every file below a class folder is an item, whatever its name ends in.

    A file that is no image is so found by the decoder and quarantined, not passed over. Images at the root have no
    label. An archive that holds all in one folder of several folders is listed from there, since its root cannot be
    chosen; a folder's can.

    Raises:
        SourceError: there is nothing to list.
    """
    wrapper = _wrapper(tree)
    entries = tree.settled(_class_entries(tree, wrapper))
    if not entries:
        raise tree.mismatch("folder", "images in a folder for each class: <class>/<file>")
    return tree.listing("folder", "classes", entries)


def _wrapper(tree: Tree) -> str:
    """The archive's single top folder with its slash, if it holds nothing but two or more folders; else empty."""
    tops = {name.partition("/")[0] for name in tree.files}
    paths = [name.split("/") for name in tree.files]
    wrapped = tree.is_archive and len(tops) == 1 and all(len(path) > 2 for path in paths)
    return f"{tops.pop()}/" if wrapped and len({path[1] for path in paths}) > 1 else ""


def _class_entries(tree: Tree, wrapper: str) -> Iterator[Item]:
    for name in tree.files:
        label, below, _ = name.removeprefix(wrapper).partition("/")
        if below or name.casefold().endswith(IMAGE_SUFFIXES):
            yield Item(name, tree.url_of(name), label if below else None)


def table_listing(url: str) -> Listing:
    """List a table with the columns ``url`` and ``label``, and optionally ``subject`` and ``split``.

    A relative URL is below the table's folder. ``item_id`` is the URL as written. A table on this machine may list what
    it likes; one from elsewhere the web (see ``ferstore.image.web``) and its own kind of storage, nothing here: whoever
    wrote it would else have files of this machine, or of the user's account with another storage, read at their word.

    Args:
        url: of a CSV file (UTF-8, with a header) or a Parquet file, at most 256 MiB.

    Raises:
        SourceError: the table cannot be read, lacks a column, or has no rows.
    """
    root = normalise(url)
    try:
        with Fetcher() as fetcher:
            content = fetcher.read(root)
    except FetchError as error:
        raise SourceError(error.problem, hint="check the path for a typo") from error
    read = _parquet_rows if root.casefold().endswith(".parquet") else _csv_rows
    entries = settle(_row_entry(root, number, row) for number, row in enumerate(read(root, content), start=1))
    if not entries:
        raise SourceError(f"{redact(root)} has no rows")
    return Listing("folder", "table", root, entries, (), ())


def _row_entry(table: str, number: int, row: Sequence[str] | str) -> Item | Refused:
    """One row as (url, label, subject, split), or what is wrong with it."""
    if isinstance(row, str):
        return Refused(f"row {number}", redact(table), row)
    written, label, subject, split = (value.strip() for value in row)
    if not written:
        return Refused(f"row {number}", redact(table), "the url is empty")
    try:
        url = _absolute(table, written)
    except SourceError as error:  # it may be refused for its credentials, which no table may hold
        return Refused(redact(written), redact(written), str(error))
    if split and split.casefold() not in _SPLITS:
        return Refused(written, url, f"split {split!r}; allowed: train, validation, test")
    official_split = _SPLITS[split.casefold()] if split else None
    return Item(written, url, label or None, subject=subject or None, official_split=official_split)


def _absolute(table: str, written: str) -> str:
    if "://" in written or written.startswith("/"):
        url = normalise(written)
        here, there = storage(table), storage(url)
        if here not in ("file", "memory") and there not in (here, "http"):
            raise SourceError(
                f"a {here} table lists {redact(written)!r}",
                allowed=f"http and https URLs, {here} URLs, and paths below the table's folder",
                hint="copy the table to this machine and read it, if you trust it",
            )
        return url
    relative = posixpath.normpath(written)
    if relative in ("..", ".") or relative.startswith("../"):
        raise SourceError(f"{written!r} leaves the table's folder", hint="write an absolute URL")
    return normalise(f"{table.rpartition('/')[0]}/{relative}")


def _columns(table: str, names: Sequence[str]) -> list[int | None]:
    """Where url, label, subject and split are."""
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise SourceError(
            f"{redact(table)} has no column {' and no column '.join(missing)}, only {', '.join(names)[:200] or 'none'}",
            allowed="url,label[,subject][,split]",
        )
    wanted = (*_REQUIRED, *_OPTIONAL)
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise SourceError(f"{redact(table)} has the column {twice[0]} more than once")
    return [names.index(name) if name in names else None for name in wanted]


def _csv_rows(table: str, content: bytes) -> Iterator[Sequence[str] | str]:
    try:
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        header = [name.strip() for name in next(rows, [])]
        columns = _columns(table, header)
        for row in filter(None, rows):
            if len(row) != len(header):
                yield f"the row has {len(row)} fields, the header {len(header)}"
            else:
                yield [row[column] if column is not None else "" for column in columns]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{redact(table)} is not a CSV file in UTF-8: {error}") from error


def _parquet_rows(table: str, content: bytes) -> Iterable[Sequence[str] | str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content))
        columns = _columns(table, file.schema_arrow.names)
        names = [file.schema_arrow.names[column] for column in columns if column is not None]
        data = file.read(columns=names)
        values = [
            data.column(names.index(name)).cast(pa.string()).to_pylist() if name in names else [None] * data.num_rows
            for name in (*_REQUIRED, *_OPTIONAL)
        ]
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{redact(table)} is not a Parquet file ferstore reads: {error}") from error
    return [[value or "" for value in row] for row in zip(*values, strict=True)]
