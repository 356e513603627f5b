"""A session over one pinned state of the store, whose queries can read that state and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

import duckdb
import pyarrow as pa

from ferstore.errors import QueryError
from ferstore.query.engine import Job, TableFiles, start, told
from ferstore.query.isolated import Process, Remote
from ferstore.query.limits import Limits
from ferstore.query.statement import asks_for_tables, words_of
from ferstore.store.files import filesystem, local_path
from ferstore.store.pin import Pin
from ferstore.store.schema import TableSchema, declared_views
from ferstore.store.store import Store

_SQL_TYPES = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "timestamptz": "TIMESTAMPTZ",
    "list<string>": "VARCHAR[]",
    "list<int>": "INTEGER[]",
    "list<float>": "FLOAT[]",
    "tensor": "BLOB",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """What a result's columns are called and which DuckDB types they have."""

    names: tuple[str, ...]
    types: tuple[str, ...]


class Session:
    """Runs queries over a pin. Every query gets a new connection with only the tables it can name.

    A connection is locked before the query runs: its own data files are the only paths it may open, and no setting,
    extension, secret or Python variable is within its reach. Where it keeps its process, use it in a ``with``.

    Args:
        store: the store.
        pin: the state to read; what is committed later is not seen.
        limits: what each query may use, in a process of its own that the system bounds. None is for ferstore's own
            queries: they run in this process, with what DuckDB takes.
        keep: whether a process whose query was read to its end serves the next one, which then starts in milliseconds.
    """

    def __init__(self, store: Store, pin: Pin, limits: Limits | None = None, *, keep: bool = False) -> None:
        self._store = store
        self._pin = pin
        self._limits = limits
        self._keep = keep
        self._kept: list[Process] = []
        self._files: dict[str, list[str]] = {}

    @property
    def pin(self) -> Pin:
        """The state that is read."""
        return self._pin

    def execute(self, query: str) -> Cursor:
        """Run one read-only statement.

        Raises:
            QueryError: it is not one, names what is not there, fails, or reaches a limit.
            CorruptionError: a data file of the store is missing or no Parquet file.
        """
        protocol = None if local_path(self._store.url) is not None else urlparse(self._store.url).scheme
        if self._limits is None or protocol == "memory":  # what only this process's memory holds, no other can read
            return _Here(self._job(query), filesystem(self._store.url) if protocol else None, self._limits)
        # A new one's imports overlap with the planning of files.
        remote = Remote(self._limits, protocol, self._take(), self._kept.append if self._keep else None)
        try:
            return _Isolated(remote, remote.begin(self._job(query)), self._limits)
        except BaseException:
            remote.close()
            raise

    def _take(self) -> Process | None:
        """A kept process, if it is still there; of those that served queries side by side one is enough."""
        alive = [process for process in self._kept if process.popen.poll() is None]
        self._kept.clear()
        for process in alive[1:]:
            process.end()
        return alive[0] if alive else None

    def close(self) -> None:
        """End the process that was kept for the next query."""
        if process := self._take():
            process.end()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def tables_named(self, query: str) -> frozenset[str]:
        """Tables a query can name, through views too."""
        return frozenset(self._needed(query) & set(self._store.schemas))

    def _needed(self, query: str) -> set[str]:
        known = {**dict.fromkeys(self._store.schemas, ""), **declared_views()}
        needed = set(known) if asks_for_tables(query) else words_of(query) & set(known)
        frontier = set(needed)
        while frontier:
            words = {word for name in frontier for word in _words(known[name])}
            frontier = (words & set(known)) - needed
            needed |= frontier
        return needed

    def _job(self, query: str) -> Job:
        schemas = self._store.schemas
        needed = self._needed(query)
        tables = [_table_files(schemas[name], self._data_files(name)) for name in sorted(needed & set(schemas))]
        tensors: dict[str, str] = {}
        for schema in schemas.values():
            if schema.feature and schema.tensor:
                tensors |= {str(schema.feature.values * 2): "<f2", str(schema.feature.values * 4): "<f4"}
        return Job(
            query=query,
            tables=tables,
            views=list(_in_order({name: text for name, text in declared_views().items() if name in needed})),
            allowed=self._spellings([file for table in tables for file in table.files]),
            tensors=tensors,
            known=sorted({*schemas, *declared_views()}),
            # The rest of its memory is for values in flight, which DuckDB does not count.
            memory=self._limits.memory * 4 // 5 if self._limits else None,
            threads=self._limits.threads if self._limits else None,
        )

    def _spellings(self, paths: Sequence[str]) -> list[str]:
        """Paths, and as their filesystem's listing spells them, which is what DuckDB then opens."""
        if local_path(self._store.url) is not None:
            return list(paths)
        fs = filesystem(self._store.url)
        return sorted({*paths, *(fs.unstrip_protocol(fs._strip_protocol(path)) for path in paths)})

    def _data_files(self, table: str) -> list[str]:
        if table not in self._files:
            urls = [data_file.file_path for data_file in self._pin.data_files(table)] if self._has(table) else []
            self._files[table] = [url.removeprefix("file://") for url in urls]  # DuckDB takes paths, and other URLs
        return self._files[table]

    def _has(self, table: str) -> bool:
        return table in self._pin.tables


class Cursor:
    """Rows of one query, fetched as they are asked for. Close it, or use it in a ``with``."""

    columns: Columns
    _limits: Limits | None

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows as Python values, a batch at a time.

        Raises:
            QueryError: the query fails, or its result is larger than it may be.
        """
        for batch in self.stream()[1]:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def batches(self) -> pa.RecordBatchReader:
        """Rows as Arrow record batches, without a limit of their number."""
        raise NotImplementedError

    def arrow(self) -> pa.Table:
        """All rows as one Arrow table; errors as in `rows`."""
        schema, batches = self.stream()
        return pa.Table.from_batches(batches, schema)

    def stream(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The rows' schema, and batches of them within the limit of rows; errors as in `rows`."""
        try:
            reader = self.batches()
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise told(error) from error
        return reader.schema, self._bounded(reader)

    def _bounded(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        most = self._limits.rows if self._limits else None
        rows = nbytes = 0
        try:
            for batch in reader:
                rows, nbytes = rows + batch.num_rows, nbytes + batch.nbytes
                if self._limits and most is not None and (rows > most or nbytes > self._limits.memory):
                    raise QueryError(
                        f"the result has more than {most:,} rows or {self._limits.memory:,} bytes",
                        hint="add a limit, write it with --output FILE, or raise --rows or --memory (Limits)",
                    )
                yield batch
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise told(error) from error

    def close(self) -> None:
        """Release the connection."""
        raise NotImplementedError

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class _Here(Cursor):
    def __init__(self, job: Job, fs: object | None, limits: Limits | None) -> None:
        self._limits = limits
        self._connection, self._relation = start(job, fs)
        self.columns = Columns(tuple(self._relation.columns), tuple(str(kind) for kind in self._relation.types))

    def batches(self) -> pa.RecordBatchReader:
        return self._relation.to_arrow_reader(2048)

    def close(self) -> None:
        self._connection.close()


class _Isolated(Cursor):
    def __init__(self, remote: Remote, columns: tuple[Sequence[str], Sequence[str]], limits: Limits) -> None:
        self._limits = limits
        self._remote = remote
        self.columns = Columns(tuple(columns[0]), tuple(columns[1]))

    def batches(self) -> pa.RecordBatchReader:
        return self._remote.reader()

    def close(self) -> None:
        self._remote.close()


def _table_files(schema: TableSchema, files: Sequence[str]) -> TableFiles:
    columns = [(column.name, _SQL_TYPES[column.type]) for column in schema.columns]
    return TableFiles(schema.name, columns, [c.name for c in schema.columns if c.type == "tensor"], files)


def _in_order(views: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Views after those they name."""
    left = dict(views)
    while left:
        ready = [name for name, text in left.items() if not (_words(text) & (set(left) - {name}))]
        for name in ready:
            yield name, left.pop(name)


def _words(text: str) -> set[str]:
    """Words of a view of ours outside its comments."""
    code = re.sub(r"--[^\n]*", " ", text)
    return {word.strip('"').lower() for word in re.sub(r"[(),]", " ", code).split()}
