"""Whether a step has anything to do: nothing it depends on changed since it was last done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyiceberg.table import Table

from ferstore.store.pin import Pin

SATISFIED = ("done", "skipped")

_REWRITES = ("compact",)  # commands after which a table has the rows it had


def last_done(steps: Sequence[Mapping[str, Any]], name: str, arguments: Sequence[str]) -> Mapping[str, Any] | None:
    """The newest record of a step that was done with the same settings.

    Args:
        steps: records of the job, newest first.
        name: of the step.
        arguments: its command line, without what differs from day to day.
    """
    return next(
        (
            step
            for step in steps
            if step["step"] == name and step["state"] in SATISFIED and step["arguments"] == list(arguments)
        ),
        None,
    )


def unchanged(pin: Pin, since: Mapping[str, int | None]) -> bool:
    """Whether tables have the rows that they had at some snapshots."""
    return all(_same_rows(pin.tables[name], pin.snapshots[name], snapshot) for name, snapshot in since.items())


def _same_rows(table: Table, now: int | None, then: int | None) -> bool:
    while now != then:
        snapshot = table.metadata.snapshot_by_id(now) if now is not None else None
        if snapshot is None or snapshot.summary is None:
            return False  # vacuumed: nobody knows any more
        if snapshot.summary.additional_properties.get("ferstore.command") not in _REWRITES:
            return False
        now = snapshot.parent_snapshot_id
    return True
