"""A pin: one consistent state of all tables, at which everything is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.exceptions import RESTError
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot
from sqlalchemy.exc import SQLAlchemyError

from ferstore.errors import CorruptionError, FerstoreError, InputError, StoreError
from ferstore.store.properties import HISTORY_GAP
from ferstore.store.reach import unavailable


@contextmanager
def readable_metadata(what: str) -> Iterator[None]:
    """Tell a lost or damaged metadata file as damage of the store, which no query mends; a busy one is no damage.

    Raises:
        CorruptionError: it is gone.
        UnavailableError: it cannot be reached.
    """
    try:
        yield
    except (FerstoreError, SQLAlchemyError):
        raise
    except (OSError, RESTError) as error:
        if not isinstance(error, FileNotFoundError):
            raise unavailable(what, error) from error
        raise _lost(what, error) from error
    except Exception as error:  # the parsers raise whatever a damaged file of another engine makes them run into
        raise _lost(what, error) from error


def _lost(what: str, error: Exception) -> CorruptionError:
    return CorruptionError(
        f"metadata of {what} cannot be read: {str(error)[:300]}", hint="restore the store's folder from a backup"
    )


@dataclass(frozen=True, slots=True)
class Pin:
    """Tables as loaded at one instant, and the snapshot of each that is read.

    Attributes:
        tables: every table of the store, by name.
        snapshots: the snapshot read of each table; None where it is empty there.
        at: what was asked for, for messages; None is the current state.
    """

    tables: Mapping[str, Table]
    snapshots: Mapping[str, int | None]
    at: str | None = None

    @staticmethod
    def current(tables: Mapping[str, Table]) -> Pin:
        """The newest state."""
        return Pin(tables, {name: table.metadata.current_snapshot_id for name, table in tables.items()})

    def resolve(self, at: str) -> Pin:
        """The state at a tag, a snapshot id or a time.

        A tag and a snapshot id stand for the whole store: for a snapshot, every other table is read as of the same
        commit. A time is ISO 8601, UTC unless it has an offset.

        Raises:
            InputError: it is none of them; the message lists the tags.
        """
        if at in (tags := self.tags()):
            return Pin(self.tables, {name: tags[at].get(name) for name in self.tables}, at)
        commits = _commit_times(self.tables)
        own: dict[str, int] = {}
        if at.isdecimal() and len(at) > 8:
            commit = next((_commit_of(s) for _, s in self.all_snapshots() if s.snapshot_id == int(at)), None)
            if commit is None:
                raise InputError(f"no snapshot {at}", hint="list them with: ferstore snapshots")
            moment = commits[commit]
            # By id, not time: clocks of several writers may disagree.
            own = {name: s.snapshot_id for name, s in self.all_snapshots() if _commit_of(s) == commit}
        else:
            moment = _parse_time(at, tags)
        return Pin(
            self.tables, {n: own.get(n) or _newest_until(t, commits, moment) for n, t in self.tables.items()}, at
        )

    def reading(self, snapshots: Mapping[str, int | None]) -> Pin:
        """This state, but the named tables as of other snapshots; those that are no longer kept stay as they are."""
        kept = {
            name: snapshot
            for name, snapshot in snapshots.items()
            if snapshot is not None and self.tables[name].metadata.snapshot_by_id(snapshot) is not None
        }
        return Pin(self.tables, {**self.snapshots, **kept}, self.at)

    def tags(self) -> dict[str, dict[str, int]]:
        """Snapshot of each table, by tag and table."""
        found: dict[str, dict[str, int]] = {}
        for name, table in self.tables.items():
            for ref, target in table.metadata.refs.items():
                if target.snapshot_ref_type == SnapshotRefType.TAG:
                    found.setdefault(ref, {})[name] = target.snapshot_id
        return found

    def all_snapshots(self) -> Iterator[tuple[str, Snapshot]]:
        """Every kept snapshot with its table's name, oldest first."""
        every = [(name, s) for name, table in self.tables.items() for s in table.metadata.snapshots]
        return iter(sorted(every, key=lambda pair: (pair[1].timestamp_ms, pair[0])))

    def data_files(self, table: str) -> list[DataFile]:
        """Live data files of a table in this state.

        Raises:
            StoreError: another engine left delete files, which reading the Parquet files alone would ignore.
            CorruptionError: a manifest is missing or damaged.
        """
        snapshot_id = self.snapshots.get(table)
        if snapshot_id is None:
            return []
        with readable_metadata(f"table {table!r}"):
            tasks = list(self.tables[table].scan(snapshot_id=snapshot_id).plan_files())
            snapshot = self.tables[table].metadata.snapshot_by_id(snapshot_id)
            said = snapshot.summary.get("total-data-files") if snapshot and snapshot.summary else None
        if said is not None and int(said) != len(tasks):
            raise CorruptionError(
                f"manifests of table {table!r} list {len(tasks)} data files, snapshot {snapshot_id} has {said}",
                hint="restore the store's folder from a backup",
            )
        if any(task.delete_files for task in tasks):
            raise StoreError(
                f"table {table!r} has row-level delete files, which ferstore does not write or apply",
                hint="rewrite its data files with the engine that made them (Spark: rewrite_data_files)",
            )
        return [task.file for task in tasks]

    def added_since(self, table: str, since: int | None) -> list[DataFile] | None:
        """Data files that were added after an older snapshot; None where that is not all that was done, or not known.

        Its cost is that of the snapshots in between, however many files there are.

        Raises:
            CorruptionError: a manifest is missing or damaged.
        """
        found = self.tables[table]
        snapshot_id = self.snapshots[table]
        if since is None or snapshot_id is None:
            return None
        at: int | None = snapshot_id
        while at != since:
            snapshot = found.metadata.snapshot_by_id(at) if at is not None else None
            if snapshot is None or snapshot.summary is None or snapshot.summary.operation != Operation.APPEND:
                return None
            at = snapshot.parent_snapshot_id
        if since == snapshot_id:
            return []
        with readable_metadata(f"table {table!r}"):
            scan = found.incremental_append_scan(from_snapshot_id_exclusive=since, to_snapshot_id_inclusive=snapshot_id)
            return [task.file for task in scan.plan_files()]


def _commit_of(snapshot: Snapshot) -> str:
    summary = snapshot.summary
    own = summary.additional_properties.get("ferstore.commit-id") if summary else None
    return own or str(snapshot.snapshot_id)


def _commit_times(tables: Mapping[str, Table]) -> dict[str, int]:
    """When each commit was complete: its snapshots in several tables carry slightly different times (ms)."""
    times: dict[str, int] = {}
    for table in tables.values():
        for snapshot in table.metadata.snapshots:
            commit = _commit_of(snapshot)
            times[commit] = max(times.get(commit, 0), snapshot.timestamp_ms)
    return times


def _newest_until(table: Table, commits: Mapping[str, int], moment: int) -> int | None:
    """The newest snapshot that was complete by then; None where the table was still empty.

    Raises:
        InputError: it was vacuumed or erased. A gap must not look like a table without rows.
    """
    snapshot = oldest = table.metadata.current_snapshot()
    while snapshot is not None and commits[_commit_of(snapshot)] > moment:
        oldest, parent = snapshot, snapshot.parent_snapshot_id
        snapshot = table.metadata.snapshot_by_id(parent) if parent is not None else None
    if snapshot is None and oldest is not None and HISTORY_GAP in table.properties:
        began = datetime.fromtimestamp(commits[_commit_of(oldest)] / 1000, UTC)
        raise InputError(
            f"the state of table {table.name()[-1]!r} at that time is no longer kept",
            allowed=f"{began:%Y-%m-%dT%H:%M:%SZ} or later, or a tag",
            hint="keep a state for ever with: ferstore tag",
        )
    return snapshot.snapshot_id if snapshot else None


def _parse_time(at: str, tags: Mapping[str, object]) -> int:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        known = ", ".join(sorted(tags)) or "none yet"
        raise InputError(
            f"{at!r} is no tag, snapshot id or time",
            allowed=f"a tag ({known}), a snapshot id (ferstore snapshots), or ISO 8601 such as 2026-11-23T08:00:00Z",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
