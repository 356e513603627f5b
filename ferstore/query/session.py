"""A DuckDB session over one pinned state of the store, which can read that state and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ferstore.errors import CorruptionError, FerstoreError, QueryError
from ferstore.query.statement import Statement, one_line, parse
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
    extension, secret or Python variable is within its reach.

    Args:
        store: the store.
        pin: the state to read; what is committed later is not seen.
    """

    def __init__(self, store: Store, pin: Pin) -> None:
        self._store = store
        self._pin = pin
        self._files: dict[str, list[str]] = {}

    @property
    def pin(self) -> Pin:
        """The state that is read."""
        return self._pin

    def execute(self, query: str) -> Cursor:
        """Run one read-only statement.

        Raises:
            QueryError: it is not one, names what is not there, or fails.
            CorruptionError: a data file of the store is missing or no Parquet file.
        """
        statement = parse(query)
        connection = duckdb.connect(config=dict(_SETTINGS))
        try:
            self._prepare(connection, statement)
            return Cursor(connection, connection.sql(statement.text))
        except duckdb.Error as error:
            connection.close()
            raise self._query_error(error) from error
        except FerstoreError:
            connection.close()
            raise

    def tables_named(self, query: str) -> frozenset[str]:
        """Tables a query can name, through views too."""
        return frozenset(self._needed(parse(query)) & set(self._store.schemas))

    def _needed(self, statement: Statement) -> set[str]:
        known = {**dict.fromkeys(self._store.schemas, ""), **declared_views()}
        needed = set(known) if statement.lists_tables else set(statement.words) & set(known)
        frontier = set(needed)
        while frontier:
            words = {word for name in frontier for word in _words(known[name])}
            frontier = (words & set(known)) - needed
            needed |= frontier
        return needed

    def _prepare(self, connection: duckdb.DuckDBPyConnection, statement: Statement) -> None:
        connection.execute("set TimeZone = 'UTC'")
        needed = self._needed(statement)
        paths: list[str] = []
        if local_path(self._store.url) is None:
            connection.register_filesystem(filesystem(self._store.url))
        for name in sorted(needed & set(self._store.schemas)):
            files = self._data_files(name)
            paths += files
            try:
                connection.execute(_table_view(self._store.schemas[name], files, statement.columns))
            except duckdb.Error as error:
                raise CorruptionError(
                    f"files of table {name!r} cannot be read: {one_line(error)}", hint="find out which: ferstore verify"
                ) from error
        for name, text in _in_order({n: t for n, t in declared_views().items() if n in needed}):
            connection.execute(f"create view {_quote(name)} as {text}")
        connection.create_function("tensor", _tensor(self._store.schemas), ["BLOB"], "FLOAT[]", type="arrow")
        connection.execute(f"set allowed_paths = [{', '.join(map(_literal, self._spellings(paths)))}]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")

    def _spellings(self, paths: Sequence[str]) -> list[str]:
        """Paths, and as their filesystem's listing spells them, which is what DuckDB then opens."""
        if local_path(self._store.url) is not None:
            return list(paths)
        fs = filesystem(self._store.url)
        return sorted({*paths, *(fs.unstrip_protocol(fs._strip_protocol(path)) for path in paths)})

    def _data_files(self, table: str) -> list[str]:
        if table not in self._files:
            urls = [data_file.file_path for data_file in self._pin.data_files(table)] if self._has(table) else []
            self._files[table] = [str(local_path(url) or url) for url in urls]
        return self._files[table]

    def _has(self, table: str) -> bool:
        return table in self._pin.tables

    def _query_error(self, error: duckdb.Error) -> QueryError:
        if isinstance(error, duckdb.PermissionException):
            return QueryError("a query can reach nothing but the store's tables", hint="see: ferstore tables")
        if isinstance(error, duckdb.CatalogException):
            names = ", ".join(sorted({*self._store.schemas, *declared_views()}))
            return QueryError(one_line(error).split(" Did you mean")[0], allowed=f"tables and views {names}")
        return QueryError(one_line(error), hint="mend the query")


class Cursor:
    """Rows of one query, fetched as they are asked for. Close it, or use it in a ``with``."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation) -> None:
        self._connection = connection
        self._relation = relation
        self.columns = Columns(tuple(relation.columns), tuple(str(kind) for kind in relation.types))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows as Python values, a batch at a time."""
        try:
            for batch in self.batches():
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise QueryError(one_line(error), hint="mend the query") from error

    def batches(self, rows: int = 2048) -> pa.RecordBatchReader:
        """Rows as Arrow record batches."""
        return self._relation.to_arrow_reader(rows)

    def arrow(self) -> pa.Table:
        """All rows as one Arrow table."""
        try:
            return self.batches().read_all()
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise QueryError(one_line(error), hint="mend the query") from error

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


_SETTINGS: Mapping[str, str | bool] = {
    "temp_directory": "",  # spill nowhere: a query must not write
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "allow_persistent_secrets": False,
}


def _table_view(schema: TableSchema, files: Sequence[str], named: frozenset[str]) -> str:
    """The view of one table. A map column is in it only where the query names it: 2,048 maps are half a gigabyte."""
    columns = [c for c in schema.columns if c.type != "tensor" or c.name in named]
    if files:
        shown = ", ".join(_quote(column.name) for column in columns)
        rows = f"select {shown} from read_parquet([{', '.join(map(_literal, files))}])"  # noqa: S608  quoted
    else:
        nulls = ", ".join(f"null::{_SQL_TYPES[column.type]} as {_quote(column.name)}" for column in columns)
        rows = f"select {nulls} where false"
    return f"create view {_quote(schema.name)} as {rows}"


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


def _tensor(schemas: Mapping[str, TableSchema]) -> Any:
    """``tensor(map)``: stored bytes as a flat list of float, row-major; the dtype follows from the length."""
    dtypes: dict[int, np.dtype[Any]] = {}
    for schema in schemas.values():
        if schema.feature and schema.tensor:
            dtypes[schema.feature.values * 2] = np.dtype("<f2")
            dtypes[schema.feature.values * 4] = np.dtype("<f4")

    def tensor(maps: pa.ChunkedArray | pa.Array) -> pa.Array:
        lists: list[np.ndarray[Any, np.dtype[np.float32]] | None] = []
        for value in maps:
            data = value.as_buffer()
            if data is None:
                lists.append(None)
                continue
            if len(data) not in dtypes:
                raise ValueError(f"tensor() of {len(data)} bytes: not a stored map")
            lists.append(np.frombuffer(data, dtypes[len(data)]).astype(np.float32))
        return pa.array(lists, pa.list_(pa.float32()))

    return tensor


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
