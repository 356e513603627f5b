"""What there is in a store: its tables and its snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ferstore.store.store import Store


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One table as of now: rows, data files and their bytes in its newest snapshot."""

    name: str
    rows: int
    files: int
    nbytes: int
    description: str


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One snapshot of one table, and what made it."""

    table: str
    snapshot_id: int
    committed_at: datetime
    operation: str
    command: str
    run_id: str
    extractor_id: str
    added: int
    removed: int
    tags: tuple[str, ...]


def list_tables(store: Store) -> list[TableInfo]:
    """Every declared table, also those that hold nothing yet."""
    pin = store.pin()
    found = []
    for name, schema in store.schemas.items():
        snapshot = pin.tables[name].metadata.current_snapshot() if name in pin.tables else None
        totals = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
        rows, files, size = (int(totals.get(f"total-{what}", 0)) for what in ("records", "data-files", "files-size"))
        found.append(TableInfo(name, rows, files, size, schema.description))
    return found


def list_snapshots(store: Store) -> list[SnapshotInfo]:
    """Every kept snapshot of every table, newest first."""
    pin = store.pin()
    tags: dict[int, list[str]] = {}
    for tag, targets in sorted(pin.tags().items()):
        for snapshot_id in targets.values():
            tags.setdefault(snapshot_id, []).append(tag)
    found = []
    for table, snapshot in pin.all_snapshots():
        said = snapshot.summary.additional_properties if snapshot.summary else {}
        found.append(
            SnapshotInfo(
                table=table,
                snapshot_id=snapshot.snapshot_id,
                committed_at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
                operation=snapshot.summary.operation.value if snapshot.summary else "",
                command=said.get("ferstore.command", ""),
                run_id=said.get("ferstore.run-id", ""),
                extractor_id=said.get("ferstore.extractor-id", ""),
                added=int(said.get("added-records", 0)),
                removed=int(said.get("deleted-records", 0)),
                tags=tuple(tags.get(snapshot.snapshot_id, ())),
            )
        )
    return found[::-1]
