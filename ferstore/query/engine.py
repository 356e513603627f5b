"""One query on a DuckDB connection that can read its files of the store and nothing else.

It needs DuckDB, Arrow and NumPy only, so that the process of a stranger's query starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ferstore.errors import CorruptionError, FerstoreError, QueryError
from ferstore.query.statement import one_line, parse

_SETTINGS: Mapping[str, str | bool] = {
    "temp_directory": "",  # spill nowhere: a query must not write
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "allow_persistent_secrets": False,
}


@dataclass(frozen=True, slots=True)
class TableFiles:
    """A table and the data files of the state that is read.

    Attributes:
        name: of the table.
        columns: name and DuckDB type of each.
        maps: those that are left out unless the query names them: 2,048 maps are half a gigabyte.
        files: paths or URLs.
    """

    name: str
    columns: Sequence[tuple[str, str]]
    maps: Sequence[str]
    files: Sequence[str]


@dataclass(frozen=True, slots=True)
class Job:
    """All a query needs, in types that JSON holds.

    Attributes:
        query: as given.
        tables: those it can name.
        views: name and text of those it can name, each after those it names itself.
        allowed: how the tables' files are spelled when they are opened.
        tensors: dtype of a stored map by its bytes.
        known: every table and view of the store, for messages.
        memory: bytes DuckDB may use; None is DuckDB's own default.
        threads: it may use; None is DuckDB's own default.
    """

    query: str
    tables: Sequence[TableFiles]
    views: Sequence[tuple[str, str]]
    allowed: Sequence[str]
    tensors: Mapping[str, str]
    known: Sequence[str]
    memory: int | None = None
    threads: int | None = None

    @staticmethod
    def of(value: Mapping[str, Any]) -> Job:
        """From what JSON made of one."""
        return Job(**{**value, "tables": [TableFiles(**table) for table in value["tables"]]})


def start(job: Job, filesystem: object | None = None) -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyRelation]:
    """Check the query, lock a new connection around its files, and begin.

    Raises:
        QueryError: it is not one reading statement, names what is not there, or fails.
        CorruptionError: a data file of the store is missing or no Parquet file.
    """
    statement = parse(job.query, job.known)
    settings: dict[str, Any] = dict(_SETTINGS)
    if job.memory is not None:
        settings["memory_limit"] = f"{job.memory}B"
    if job.threads is not None:
        settings["threads"] = job.threads
    connection = duckdb.connect(config=settings)
    try:
        lock(connection, job, statement.columns, filesystem)
        return connection, connection.sql(statement.text)
    except (duckdb.Error, MemoryError) as error:
        connection.close()
        raise told(error, job.known) from error
    except FerstoreError:
        connection.close()
        raise


def lock(
    connection: duckdb.DuckDBPyConnection, job: Job, named: frozenset[str], filesystem: object | None = None
) -> None:
    """Define what the query can name, then close everything else for good."""
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("set enable_progress_bar = false")  # DuckDB prints one where it takes a program for a prompt
    if filesystem is not None:
        connection.register_filesystem(filesystem)
    for table in job.tables:
        try:
            connection.execute(_table_view(table, named))
        except duckdb.Error as error:
            raise CorruptionError(
                f"files of table {table.name!r} cannot be read: {one_line(error)}",
                hint="find out which: ferstore verify",
            ) from error
    for name, text in job.views:
        connection.execute(f"create view {_quote(name)} as {text}")
    connection.create_function("tensor", _tensor(job.tensors), ["BLOB"], "FLOAT[]", type="arrow")
    connection.execute(f"set allowed_paths = [{', '.join(map(_literal, job.allowed))}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def told(error: Exception, known: Sequence[str] = ()) -> QueryError:
    """An error of DuckDB or Arrow as one line."""
    if isinstance(error, FerstoreError):  # Arrow hands on what its source raised
        raise error
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError) or "Out of Memory Error" in str(error):
        return QueryError(
            "the query needs more memory than it may use", hint="ask for less, or raise --memory (Limits)"
        )
    if isinstance(error, duckdb.PermissionException):
        return QueryError("a query can reach nothing but the store's tables", hint="see: ferstore tables")
    if isinstance(error, duckdb.CatalogException) and known:
        return QueryError(one_line(error).split(" Did you mean")[0], allowed=f"tables and views {', '.join(known)}")
    return QueryError(one_line(error), hint="mend the query")


def _table_view(table: TableFiles, named: frozenset[str]) -> str:
    columns = [(name, kind) for name, kind in table.columns if name not in table.maps or name in named]
    if table.files:
        shown = ", ".join(_quote(name) for name, _ in columns)
        rows = f"select {shown} from read_parquet([{', '.join(map(_literal, table.files))}])"  # noqa: S608  quoted
    else:
        nulls = ", ".join(f"null::{kind} as {_quote(name)}" for name, kind in columns)
        rows = f"select {nulls} where false"
    return f"create view {_quote(table.name)} as {rows}"


def _tensor(dtypes: Mapping[str, str]) -> Any:
    """``tensor(map)``: stored bytes as a flat list of float, row-major; the dtype follows from the length."""

    def tensor(maps: pa.ChunkedArray | pa.Array) -> pa.Array:
        lists: list[np.ndarray[Any, np.dtype[np.float32]] | None] = []
        for value in maps:
            data = value.as_buffer()
            if data is None:
                lists.append(None)
                continue
            if str(len(data)) not in dtypes:
                raise ValueError(f"tensor() of {len(data)} bytes: not a stored map")
            lists.append(np.frombuffer(data, dtypes[str(len(data))]).astype(np.float32))
        return pa.array(lists, pa.list_(pa.float32()))

    return tensor


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
