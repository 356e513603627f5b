"""Commits: files added to and removed from tables, planned again from what landed until they fit.

An Iceberg append never conflicts, so two jobs could both add an image. Here every commit names the state it was planned
on; when another writer moved a table, nothing lands and the caller's plan is made again on the new state
(optimistic concurrency).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow.parquet as pq
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import ManageSnapshots
from pyiceberg.typedef import Record

from ferstore.errors import ConflictError, CorruptionError, SchemaError
from ferstore.store.attempts import Attempts
from ferstore.store.catalog import commit_transactions
from ferstore.store.files import StoredFile, filesystem
from ferstore.store.pin import Pin
from ferstore.store.properties import ERASURES
from ferstore.store.reach import patiently, reaching
from ferstore.store.schema import TableSchema
from ferstore.store.store import Store

T = TypeVar("T")

_READERS = 8  # footers that are read at once, each a request or two to an object store


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does to one table.

    Attributes:
        table: its name.
        add: files to add; each is checked against the schema first.
        remove: data files of the pinned snapshot that leave the table (rows kept are in ``add``, rewritten).
    """

    table: str
    add: tuple[StoredFile, ...] = ()
    remove: tuple[DataFile, ...] = ()


Plan = Callable[[Pin], Sequence[Change]]


def transact(
    store: Store, plan: Plan, summary: Mapping[str, str], *, since: Pin | None = None, tag: str | None = None
) -> Pin:
    """Plan and commit until it fits; return the state after it.

    Args:
        store: where to.
        plan: from a pinned state to changes. It is called again on a newer state after a conflict, so it must look at
            nothing but its argument; an empty plan commits nothing.
        summary: what made the snapshot (command, run id, extractor, counts), as strings.
        since: the state that a long job read its images at: nothing of it is committed after an erasure.
        tag: names the state that was planned on, with the changes, in the same commit.

    Raises:
        ConflictError: others kept getting there first, or somebody was erased.
        UnavailableError: files or catalog cannot be reached, read or written.
        SchemaError: a file does not conform to its table; nothing was committed.
    """
    commit_id = uuid.uuid4().hex
    open_outcomes: list[set[str]] = []  # tables of tries of which nobody knows whether they landed
    for attempt in (attempts := Attempts(f"the store {store.url}")):
        pin = store.pin()
        landed = {name for name in store.schemas if attempt and _has(pin, name, commit_id)}
        if any(tables <= landed for tables in open_outcomes):
            return pin
        if since is not None and erasures(pin) != erasures(since):
            raise ConflictError(
                "a person or picture was erased while this ran, and its results could hold them",
                hint="run the same command again; what was committed before stays",
            )
        changes: list[Change] = []
        with reaching(f"the store {store.url}"):
            with attempts.landing(), as_of(store, pin):
                changes = [c for c in plan(pin) if c.table not in landed and (c.add or c.remove)]
                if not changes:
                    return pin
                _commit(store, pin, changes, commit_id, summary, tag)
            if attempts.landed:
                return store.pin()
        if attempts.unsure and changes:
            open_outcomes.append({change.table for change in changes})
    raise AssertionError("attempts end with an error")


@contextlib.contextmanager
def as_of(store: Store, pin: Pin) -> Iterator[None]:
    """A file that an erasure or a vacuum removed meanwhile, and the pin still names, is a conflict and no damage."""
    try:
        yield
    except (FileNotFoundError, CorruptionError) as error:
        if not _moved(store, pin):
            raise
        raise CommitFailedException(f"planned on what is gone: {error}") from error


def on_newest(store: Store, look: Callable[[Pin], T]) -> T:
    """Look at the newest state; again at a newer one, where what it names was removed meanwhile."""
    while True:
        pin = store.pin()
        try:
            return look(pin)
        except (FileNotFoundError, CorruptionError):
            if not _moved(store, pin):
                raise


def _moved(store: Store, pin: Pin) -> bool:
    now = store.pin().tables
    return any(now[name].metadata_location != table.metadata_location for name, table in pin.tables.items())


def erasures(pin: Pin) -> int:
    """How many erasures the store has seen."""
    return int(pin.tables["images"].properties.get(ERASURES, "0"))


def _has(pin: Pin, table: str, commit_id: str) -> bool:
    summaries = (snapshot.summary for snapshot in pin.tables[table].metadata.snapshots)
    return any(said and said.additional_properties.get("ferstore.commit-id") == commit_id for said in summaries)


def _commit(
    store: Store, pin: Pin, changes: Sequence[Change], commit_id: str, summary: Mapping[str, str], tag: str | None
) -> None:
    properties = {
        "ferstore.commit-id": commit_id,
        **{f"ferstore.{key}": value for key, value in summary.items()},
    }
    # All files are checked before the first manifest is written.
    added = [describe_files(pin.tables[change.table], store.schemas[change.table], change.add) for change in changes]
    transactions = {}
    for change, data_files in zip(changes, added, strict=True):
        table = pin.tables[change.table]
        transaction = table.transaction()
        update = transaction.update_snapshot(snapshot_properties=properties)
        with update.overwrite() if change.remove else update.merge_append() as producer:
            for data_file in data_files:
                producer.append_data_file(data_file)
            for data_file in change.remove:
                producer.delete_data_file(data_file)
        transactions[change.table] = transaction
    if tag:
        for name, table in pin.tables.items():
            transaction = transactions.get(name) or table.transaction()
            if (snapshot := transaction.table_metadata.current_snapshot_id) is not None:
                ManageSnapshots(transaction).create_tag(snapshot, tag).commit()
                transactions[name] = transaction
    commit_transactions(store.catalog, list(transactions.values()))


def describe_files(table: Table, schema: TableSchema, files: Sequence[StoredFile]) -> list[DataFile]:
    """Check files against their table and describe them for the manifest, from their footers, a few at once.

    Raises:
        SchemaError: columns, types or nullability of one differ from the declared ones.
        ConflictError: one is gone.
    """
    if not files:
        return []
    # Readers need none of it, and it imports Arrow's datasets, and pandas where that is installed.
    from pyiceberg.io.pyarrow import (
        compute_statistics_plan,
        data_file_statistics_from_parquet_metadata,
        parquet_path_to_id_mapping,
    )

    measured = compute_statistics_plan(table.schema(), table.metadata.properties)
    numbered = parquet_path_to_id_mapping(table.schema())
    found = []
    with ThreadPoolExecutor(min(len(files), _READERS)) as threads:
        for file, footer in zip(files, threads.map(_footer, [file.url for file in files]), strict=True):
            columns = footer.schema.to_arrow_schema().remove_metadata()
            if not columns.equals(schema.arrow()):
                raise SchemaError(
                    f"{file.url} does not conform to table {schema.name!r}: it has {_columns(columns)}",
                    allowed=_columns(schema.arrow()),
                    hint="nothing was committed; this is a fault in the writer",
                )
            figures = data_file_statistics_from_parquet_metadata(footer, measured, numbered)
            # As pyiceberg.io.pyarrow.parquet_file_to_data_file, which reads the footer once more.
            found.append(
                DataFile.from_args(
                    content=DataFileContent.DATA,
                    file_path=file.url,
                    file_format=FileFormat.PARQUET,
                    partition=Record(),
                    file_size_in_bytes=file.nbytes,
                    sort_order_id=None,
                    spec_id=table.metadata.default_spec_id,
                    equality_ids=None,
                    key_metadata=None,
                    **figures.to_serialized_dict(),
                )
            )
    return found


def _footer(url: str) -> pq.FileMetaData:
    def read() -> pq.FileMetaData:
        with filesystem(url).open(url, "rb") as stream:
            return pq.read_metadata(stream)

    try:
        return patiently(read)
    except FileNotFoundError as error:
        raise ConflictError(
            f"{url} is gone: it was taken for the leftover of a dead job",
            hint="run the same command again, and give vacuum a longer --grace",
        ) from error


def _columns(schema: object) -> str:
    return ", ".join(str(schema).splitlines())
