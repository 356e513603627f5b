"""The commit of an erasure: main and tags move to snapshots without somebody, others expire, in all tables at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotRefUpdate, SetSnapshotRefUpdate
from pyiceberg.table.update.snapshot import ExpireSnapshots, ManageSnapshots

from ferstore.errors import InputError
from ferstore.store.catalog import commit_transactions
from ferstore.store.commit import describe_files
from ferstore.store.files import StoredFile
from ferstore.store.pin import Pin
from ferstore.store.properties import ERASURES, HISTORY_GAP
from ferstore.store.references import files_of
from ferstore.store.runs import Run
from ferstore.store.store import Store


@dataclass(slots=True)
class TableWork:
    """One table: data files of any kept state that hold rows of the person, and how many in the newest."""

    touched: dict[str, DataFile] = field(default_factory=dict)
    rows: int = 0


def expiring(pin: Pin, work: Mapping[str, TableWork]) -> dict[str, list[int]]:
    """Snapshots that expire: of a table with rows of the person, all but tagged ones without any."""
    gone = {}
    for name, table in work.items():
        if table.touched:
            metadata = pin.tables[name].metadata
            stays = {
                ref.snapshot_id for ref in metadata.refs.values() if not holds(pin.tables[name], ref.snapshot_id, table)
            }
            gone[name] = [s.snapshot_id for s in metadata.snapshots if s.snapshot_id not in stays]
    return gone


def holds(table: Table, snapshot_id: int, work: TableWork) -> bool:
    return any(url in work.touched for url in files_of(table, [snapshot_id]))


def commit_erasure(
    store: Store,
    pin: Pin,
    work: Mapping[str, TableWork],
    cleaned: Mapping[str, StoredFile | None],
    gone: Mapping[str, list[int]],
    run: Run,
) -> None:
    """Put the rewritten files in place everywhere at once.

    Raises:
        CommitFailedException: a table moved on; nothing was changed.
    """
    summary = {f"ferstore.{key}": value for key, value in run.summary({}).items()}
    summary["ferstore.commit-id"] = uuid.uuid4().hex
    transactions = []
    for name, table in pin.tables.items():
        if name != "images" and not (name in work and work[name].touched):
            continue
        transaction = table.transaction()
        properties = {}
        if name == "images":
            properties[ERASURES] = str(int(table.properties.get(ERASURES, "0")) + 1)
        if work[name].touched:
            _rewrite_refs(store, name, table, transaction, work[name], cleaned, summary)
            if gone[name]:
                ExpireSnapshots(transaction).by_ids(gone[name]).commit()
                properties[HISTORY_GAP] = "erased"
        transactions.append(transaction.set_properties(properties) if properties else transaction)
    commit_transactions(store.catalog, transactions, exact=True)


def _rewrite_refs(
    store: Store,
    name: str,
    table: Table,
    transaction: Transaction,
    work: TableWork,
    cleaned: Mapping[str, StoredFile | None],
    summary: dict[str, str],
) -> None:
    """Move main, and every tag that holds the person, to a snapshot without."""
    described: dict[str, DataFile] = {}
    made: dict[int, int] = {}
    refs = sorted(table.metadata.refs.items(), key=lambda entry: entry[0] != MAIN_BRANCH)
    for ref, target in refs:
        if not holds(table, target.snapshot_id, work):
            continue
        if target.snapshot_ref_type == SnapshotRefType.BRANCH and ref != MAIN_BRANCH:
            raise InputError(
                f"table {name!r} has a branch {ref!r}, which ferstore did not make",
                hint="remove it with the engine that made it",
            )
        if ref != MAIN_BRANCH and target.snapshot_id in made:
            _move_tag(transaction, ref, target.snapshot_id, made[target.snapshot_id])
            continue
        branch = ref
        if ref != MAIN_BRANCH:  # only a branch can be written to
            branch = f"erase-{uuid.uuid4().hex}"
            ManageSnapshots(transaction).create_branch(target.snapshot_id, branch).commit()
        with transaction.update_snapshot(snapshot_properties=summary, branch=branch).overwrite() as producer:
            for url, old in files_of(table, [target.snapshot_id]).items():
                if url not in work.touched:
                    continue
                producer.delete_data_file(old)
                if (new := cleaned[url]) is not None:
                    if url not in described:
                        [described[url]] = describe_files(table, store.schemas[name], [new])
                    producer.append_data_file(described[url])
        made[target.snapshot_id] = transaction.table_metadata.refs[branch].snapshot_id
        if ref != MAIN_BRANCH:
            _move_tag(transaction, ref, target.snapshot_id, made[target.snapshot_id])
            transaction._stage((RemoveSnapshotRefUpdate.model_validate({"ref-name": branch}),))


def _move_tag(transaction: Transaction, tag: str, old: int, new: int) -> None:
    transaction._stage(
        (SetSnapshotRefUpdate.model_validate({"ref-name": tag, "type": SnapshotRefType.TAG, "snapshot-id": new}),),
        (AssertRefSnapshotId.model_validate({"ref": tag, "snapshot-id": old}),),
    )
