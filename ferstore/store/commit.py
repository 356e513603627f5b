"""Commits: files added to and removed from tables, planned again from what landed until they fit.

An Iceberg append never conflicts, so two jobs could both add an image. Here every commit names the state it was planned
on; when another writer moved a table, nothing lands and the caller's plan is made again on the new state
(optimistic concurrency).
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from sqlalchemy.exc import OperationalError

from ferstore.errors import ConflictError, CorruptionError, SchemaError
from ferstore.store.catalog import commit_transactions
from ferstore.store.files import StoredFile, filesystem
from ferstore.store.pin import Pin
from ferstore.store.properties import ERASURES
from ferstore.store.schema import TableSchema
from ferstore.store.store import Store

_ATTEMPTS = 40
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 2.0  # seconds; doubled at each attempt, with full jitter


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


def transact(store: Store, plan: Plan, summary: Mapping[str, str], *, since: Pin | None = None) -> Pin:
    """Plan and commit until it fits; return the state after it.

    Args:
        store: where to.
        plan: from a pinned state to changes. It is called again on a newer state after a conflict, so it must look at
            nothing but its argument; an empty plan commits nothing.
        summary: what made the snapshot (command, run id, extractor, counts), as strings.
        since: the state that a long job read its images at: nothing of it is committed after an erasure.

    Raises:
        ConflictError: others kept getting there first, or somebody was erased.
        SchemaError: a file does not conform to its table; nothing was committed.
    """
    for attempt in range(_ATTEMPTS):
        pin = store.pin()
        if since is not None and erasures(pin) != erasures(since):
            raise ConflictError(
                "a person or picture was erased while this ran, and its results could hold them",
                hint="run the same command again; what was committed before stays",
            )
        changes: list[Change] = []
        try:
            changes = [change for change in plan(pin) if change.add or change.remove]
            if not changes:
                return pin
            _commit(store, pin, changes, summary)
        except (CommitFailedException, OperationalError, FileNotFoundError, CorruptionError) as error:
            # OperationalError (a busy SQLite, a dropped connection) leaves the outcome open; the next plan sees it.
            if isinstance(error, FileNotFoundError | CorruptionError) and not _moved(store, pin):
                raise  # else an erasure or a vacuum removed what this pin still names
            time.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)))  # noqa: S311
            continue
        return store.pin()
    raise ConflictError(
        f"other writers changed {', '.join(change.table for change in changes)} {_ATTEMPTS} times in a row",
        hint="run the same command again; nothing is lost",
    )


def _moved(store: Store, pin: Pin) -> bool:
    now = store.pin().tables
    return any(now[name].metadata_location != table.metadata_location for name, table in pin.tables.items())


def erasures(pin: Pin) -> int:
    """How many erasures the store has seen."""
    return int(pin.tables["images"].properties.get(ERASURES, "0"))


def _commit(store: Store, pin: Pin, changes: Sequence[Change], summary: Mapping[str, str]) -> None:
    properties = {
        "ferstore.commit-id": uuid.uuid4().hex,
        **{f"ferstore.{key}": value for key, value in summary.items()},
    }
    # All files are checked before the first manifest is written.
    added = [
        [describe_file(pin.tables[change.table], store.schemas[change.table], file) for file in change.add]
        for change in changes
    ]
    transactions = []
    for change, data_files in zip(changes, added, strict=True):
        table = pin.tables[change.table]
        transaction = table.transaction()
        update = transaction.update_snapshot(snapshot_properties=properties)
        with update.overwrite() if change.remove else update.merge_append() as producer:
            for data_file in data_files:
                producer.append_data_file(data_file)
            for data_file in change.remove:
                producer.delete_data_file(data_file)
        transactions.append(transaction)
    commit_transactions(store.catalog, transactions)


def describe_file(table: Table, schema: TableSchema, file: StoredFile) -> DataFile:
    """Check a file against its table and describe it for the manifest.

    Raises:
        SchemaError: its columns, types or nullability differ from the declared ones.
        ConflictError: it is gone.
    """
    try:
        with filesystem(file.url).open(file.url, "rb") as stream:
            found = pq.read_schema(stream).remove_metadata()
    except FileNotFoundError as error:
        raise ConflictError(
            f"{file.url} is gone: it was taken for the leftover of a dead job",
            hint="run the same command again, and give vacuum a longer --grace",
        ) from error
    if not found.equals(schema.arrow()):
        raise SchemaError(
            f"{file.url} does not conform to table {schema.name!r}: it has {_columns(found)}",
            allowed=_columns(schema.arrow()),
            hint="nothing was committed; this is a fault in the writer",
        )
    return parquet_file_to_data_file(table.io, table.metadata, file.url)


def _columns(schema: object) -> str:
    return ", ".join(str(schema).splitlines())
