"""Which runs are at work, as far as can be known: what maintenance must leave alone."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.store.commit import transact
from ferstore.store.liveness import alive
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, replace_rows
from ferstore.store.store import Store


@dataclass(frozen=True, slots=True)
class Working:
    """A run whose row says running.

    Attributes:
        alive: its process was found, or it is on another machine, where nobody can look.
        snapshots: snapshots it reads, by table.
    """

    run_id: str
    command: str
    host: str
    started_at: datetime
    alive: bool
    snapshots: Mapping[str, int]


def runs_at_work(store: Store, pin: Pin) -> list[Working]:
    """Every run that has not ended; those that were killed here are not alive."""
    columns = ["run_id", "command", "host", "pid", "started_at", "details"]
    rows = read_rows(store, pin, "runs", columns, pc.field("state") == "running").to_pylist()
    return [
        Working(
            row["run_id"],
            row["command"],
            row["host"],
            row["started_at"],
            alive(row["host"], row["pid"], row["started_at"]),
            _snapshots(row["details"]),
        )
        for row in rows
    ]


def _snapshots(details: str | None) -> dict[str, int]:
    found: Any = json.loads(details or "{}").get("snapshots") or {}
    return {table: snapshot for table, snapshot in found.items() if snapshot is not None}


def abandon(store: Store, run_id: str) -> None:
    """Declare a run dead that died on a machine where nobody can look: its row becomes ``failed``.

    Raises:
        InputError: no such run at work, or its process is alive on this machine.
    """
    found = {run.run_id: run for run in runs_at_work(store, store.pin())}
    if run_id not in found:
        raise InputError(
            f"no run {run_id!r} at work", allowed=", ".join(sorted(found)) or "none is", hint="see: ferstore runs"
        )
    if found[run_id].alive and found[run_id].host == socket.gethostname():
        raise InputError(f"run {run_id!r} is alive on this machine", hint="stop its process instead")

    def plan(pin: Pin) -> list[Any]:
        rows = read_rows(store, pin, "runs", where=(pc.field("run_id") == run_id) & (pc.field("state") == "running"))
        if not len(rows):
            return []
        ended = {**rows.to_pylist()[0], "state": "failed", "error": "abandoned: declared dead by a user"}
        return [replace_rows(store, pin, "runs", rows.from_pylist([ended], rows.schema))]

    transact(store, plan, {"command": "runs", "run-id": run_id})
