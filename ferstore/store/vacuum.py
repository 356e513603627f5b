"""``ferstore vacuum``: old snapshots expire, and files that nothing needs any more are removed.

What is kept: the newest snapshot of every table, every tagged one, those that a running job reads, and those that were
the newest at some moment of the last ``keep``. A snapshot's age counts from when another took its place: a reader may
have pinned a snapshot of last year a second before that.

What is removed: files that only expired snapshots named, and files that no snapshot ever named once they are older than
``grace`` and than every running job, since a job writes first and commits later. A job that is not known to run and
comes back after that cannot commit what is gone: every table from which files are removed is changed first, so that its
commit is planned again, and a missing file stops it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import ExpireSnapshots

from ferstore.progress import Progress, Silent
from ferstore.store.at_work import Working, runs_at_work
from ferstore.store.attempts import Attempts
from ferstore.store.catalog import commit_transactions
from ferstore.store.commit import as_of, on_newest
from ferstore.store.erase import finish_erasures
from ferstore.store.files import remove_files
from ferstore.store.pin import Pin
from ferstore.store.properties import HISTORY_GAP
from ferstore.store.reach import reaching
from ferstore.store.references import Leftover, References, leftovers, references
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store

KEEP = timedelta(days=7)
GRACE = timedelta(days=1)
_SLACK = timedelta(hours=1)  # clocks of several machines and of an object store differ


@dataclass(frozen=True, slots=True)
class VacuumReport:
    """What was removed, or would be.

    Attributes:
        snapshots: expired snapshots by table.
        files: files removed.
        nbytes: their size.
        leftovers: how many of them no snapshot had ever named.
        held: runs at work, whose files and snapshots stay.
        run_id: the run; None where nothing was to do, or for a dry run.
    """

    snapshots: Mapping[str, int]
    files: int
    nbytes: int
    leftovers: int
    held: tuple[str, ...]
    run_id: str | None


def expired(table: Table, *, before: datetime, needed: Iterable[int]) -> list[int]:
    """Snapshots of a table that nobody needs: not referred to by a branch or tag, not read by a job, and no longer the
    newest at ``before``.

    Args:
        table: as loaded.
        before: the earliest moment whose state is kept.
        needed: snapshots that running jobs read.
    """
    moment = int(before.timestamp() * 1000)
    kept = {ref.snapshot_id for ref in table.metadata.refs.values()} | set(needed)
    replaced = {s.parent_snapshot_id: s.timestamp_ms for s in table.metadata.snapshots if s.parent_snapshot_id}
    return [
        s.snapshot_id
        for s in table.metadata.snapshots
        if s.snapshot_id not in kept and replaced.get(s.snapshot_id, s.timestamp_ms) < moment
    ]


def removable(
    found: Iterable[Leftover], *, now: datetime, grace: timedelta, working: Iterable[Working]
) -> list[Leftover]:
    """Files of no snapshot that no job can still be about to commit.

    Args:
        found: files that no snapshot names.
        now: the time.
        grace: age from which a file of no known job is left over.
        working: runs at work.
    """
    limit = min([now - grace, *(run.started_at - _SLACK for run in working if run.alive)])
    return [file for file in found if file.modified is not None and file.modified < limit]


@reaching("the store")
def vacuum(
    store: Store,
    *,
    keep: timedelta = KEEP,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> VacuumReport:
    """Expire snapshots and remove files. Cut short at any moment, the next one goes on.

    Args:
        store: the store.
        keep: for how long a past state can be read after it was replaced.
        grace: age from which a file of no snapshot is taken for left over.
        dry_run: say what would be removed; change nothing.
        progress: told of every file.

    Raises:
        ConflictError: other writers kept getting there first.
        UnavailableError: files or catalog cannot be reached, read or written.
        StoreError: the catalog cannot do this safely (REST).
    """
    progress = progress or Silent()
    if not dry_run:
        finish_erasures(store)
    named: dict[str, int] = {}  # files that a snapshot named at the beginning
    counted: Mapping[str, list[int]] = {}
    for _ in (attempts := Attempts("the store")):
        now = datetime.now(UTC)
        pin = store.pin()
        with attempts.landing(), as_of(store, pin):
            working = runs_at_work(store, pin)
            gone = {
                name: expired(table, before=now - keep, needed=_needed(working, name))
                for name, table in pin.tables.items()
            }
            before = references(pin)
            old = removable(leftovers(store, before), now=now, grace=grace, working=working)
            if dry_run:
                return _report(gone, _only(pin, before, gone), old, working, None)
            if not old and not any(gone.values()):
                if not attempts.was_unsure:
                    return _report(gone, {}, [], working, None)
                break  # an earlier try landed, and only its reply was lost
            named |= {url: before.data.get(url, 0) for url in before.urls}
            counted = gone if any(gone.values()) else counted
            _expire(store, pin, gone, {_table_of(store, file.url) for file in old})
        if attempts.landed:
            break
    still = on_newest(store, references)
    sizes = {url: size for url, size in named.items() if url not in still.urls}
    unneeded = [file for file in old if file.url not in still.urls]
    progress.start("vacuum", len(sizes) + len(unneeded))
    remove_files([*sizes, *(file.url for file in unneeded)], progress.advance)
    run = new_run("vacuum", {"keep": str(keep), "grace": str(grace)})
    report = _report(counted, sizes, unneeded, working, run.run_id)
    record_run(store, run, "done", {"snapshots": sum(report.snapshots.values()), "files": report.files})
    return report


def _needed(working: Iterable[Working], table: str) -> list[int]:
    return [run.snapshots[table] for run in working if run.alive and table in run.snapshots]


def _only(pin: Pin, before: References, gone: Mapping[str, list[int]]) -> dict[str, int]:
    """Files that only those snapshots need, with their sizes (metadata: 0)."""
    kept = references(pin, without={snapshot for ids in gone.values() for snapshot in ids})
    return {url: before.data.get(url, 0) for url in before.urls - kept.urls}


def _expire(store: Store, pin: Pin, gone: Mapping[str, list[int]], touched: set[str]) -> None:
    """Remove snapshots, and change every table that loses a file.

    Raises:
        CommitFailedException: a table moved on; nothing was changed.
    """
    transactions = []
    for name, table in pin.tables.items():
        if not gone[name] and name not in touched:
            continue
        transaction = table.transaction()
        properties = {"ferstore.vacuumed-at": datetime.now(UTC).isoformat(timespec="seconds")}
        if gone[name]:
            ExpireSnapshots(transaction).by_ids(gone[name]).commit()
            properties[HISTORY_GAP] = "vacuumed"
        transactions.append(transaction.set_properties(properties))
    commit_transactions(store.catalog, transactions, exact=True)


def _table_of(store: Store, url: str) -> str:
    return url.removeprefix(f"{store.url}/tables/").partition("/")[0]


def _report(
    gone: Mapping[str, list[int]],
    sizes: Mapping[str, int],
    unneeded: Sequence[Leftover],
    working: Sequence[Working],
    run_id: str | None,
) -> VacuumReport:
    return VacuumReport(
        snapshots={name: len(ids) for name, ids in gone.items() if ids},
        files=len(sizes) + len(unneeded),
        nbytes=sum(sizes.values()) + sum(file.nbytes for file in unneeded),
        leftovers=len(unneeded),
        held=tuple(f"{run.command} {run.run_id} on {run.host}" for run in working if run.alive),
        run_id=run_id,
    )
