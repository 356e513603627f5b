"""One instance of a job at a time: a commit decides who may work, and every later one asks whether it still may.

Two that want the same job plan the same row on the same state; Iceberg lets one of them land, and the other plans
again and finds it at work.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ferstore.errors import ConflictError, FerstoreError
from ferstore.store.commit import Change, transact
from ferstore.store.files import write_file
from ferstore.store.job_runs import BEAT, TABLE, Row, at_work, beat_url, job_runs, read_beat, runs_of
from ferstore.store.pin import Pin
from ferstore.store.rows import replace_rows
from ferstore.store.store import Store
from ferstore.version import own_version

DONE = ("done", "partly")


class JobBusyError(ConflictError):
    """Another instance of the job is at work."""


class ClaimLostError(ConflictError):
    """This job was taken for dead, and another instance works in its place."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work at a job for a day.

    Attributes:
        row: as it stands in ``job_runs``, state running.
        earlier: rows of ``runs`` that came of this job, on whatever day.
        pin: the state before.
        rows: those of the job on other days, and of this day before, newest first.
    """

    row: Row
    earlier: frozenset[str]
    pin: Pin
    rows: tuple[Row, ...]

    @property
    def own_runs(self) -> frozenset[str]:
        """Rows of ``runs`` that came of unfinished attempts for this day."""
        return frozenset(self.row["run_ids"])

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of this job is of this attempt."""
        return all(row[name] == self.row[name] for name in ("logical_date", "attempts", "host", "pid", "started_at"))


def claim(
    store: Store,
    job: str,
    logical_date: str,
    *,
    arguments: Any,
    submission_id: str | None = None,
    again: bool = False,
) -> Claim | Row:
    """Begin, or find that it was done.

    Args:
        store: where ``job_runs`` is.
        job: its name.
        logical_date: the day.
        arguments: what is recorded of its settings.
        submission_id: of the Ray job it runs in.
        again: begin though it was done.

    Returns:
        The claim; or the row of the attempt that was done.

    Raises:
        JobBusyError: another instance is at work.
        ConflictError: other writers kept getting there first.
    """
    about = {"job": job, "logical_date": logical_date, "host": socket.gethostname(), "pid": os.getpid()}
    about |= {"started_at": datetime.now(UTC), "version": own_version(), "submission_id": submission_id}
    found: list[Claim | Row] = []

    def plan(pin: Pin) -> list[Change]:
        rows = job_runs(store, pin, job)
        before = next((row for row in rows if row["logical_date"] == logical_date), None)
        if before and all(before[name] == about[name] for name in about):
            return []  # an earlier attempt of this commit landed, and only its answer was lost
        running = [row for row in rows if row["state"] == "running"]
        if busy := next((row for row in running if at_work(store, row)), None):
            raise JobBusyError(_holder(busy), hint="wait for it, or give --on-conflict wait")
        if before and before["state"] in DONE and not again:
            found[:] = [before]
            return []
        dead = [_dead(row, runs_of(store, pin, row)) for row in running]
        unfinished = before if before and before["state"] not in DONE else None
        inputs = {name: snapshot for name, snapshot in pin.snapshots.items() if snapshot is not None}
        row: Row = {
            **about,
            "attempts": (before["attempts"] if before else 0) + 1,
            "state": "running",
            "inputs": unfinished["inputs"] if unfinished else json.dumps(inputs),
            "run_ids": runs_of(store, pin, unfinished) if unfinished else [],
            "steps": "[]",
            "arguments": json.dumps(arguments),
        }
        past = tuple({other["logical_date"]: other for other in [*rows, *dead]}.values())
        found[:] = [Claim(row, frozenset(run for other in past for run in other["run_ids"]), pin, past)]
        return [_change(store, pin, [*(other for other in dead if other["logical_date"] != logical_date), row])]

    transact(store, plan, {"command": f"job {job}"})
    return found[0]


def _holder(row: Mapping[str, Any]) -> str:
    since = f"{row['started_at']:%Y-%m-%dT%H:%M:%SZ}"
    return f"job {row['job']} is at work for {row['logical_date']}: process {row['pid']} on {row['host']} since {since}"


def _dead(row: Row, run_ids: list[str]) -> Row:
    return {**row, "state": "failed", "error": "killed", "exit_code": 1, "run_ids": run_ids}


def _change(store: Store, pin: Pin, rows: list[Row]) -> Change:
    return replace_rows(store, pin, TABLE, pa.Table.from_pylist(rows, schema=store.schemas[TABLE].arrow()))


def record(store: Store, claimed: Claim, **columns: Any) -> Row:
    """Write what became of an attempt so far.

    Raises:
        ClaimLostError: the row is no longer this attempt's; nothing was written.
        ConflictError: other writers kept getting there first.
    """
    written: Row = {}

    def plan(pin: Pin) -> list[Change]:
        rows = job_runs(store, pin, claimed.row["job"])
        own = next((row for row in rows if claimed.holds(row)), None)
        if own is None or (own["state"] != "running" and own["error"] == "killed"):
            raise ClaimLostError(
                f"job {claimed.row['job']} for {claimed.row['logical_date']} was taken for dead while it stood still",
                hint="what it committed stays; see: ferstore runs",
            )
        now = {**own, **columns, "run_ids": runs_of(store, pin, own)}
        written.update(now)
        return [] if now == own else [_change(store, pin, [now])]

    transact(store, plan, {"command": f"job {claimed.row['job']}"})
    return written


class Heartbeat:
    """Beats while a job is at work, so that other machines can see it, and looks whether another took its place.

    Args:
        store: where to.
        claimed: by this job.
        seconds: between two beats.
    """

    def __init__(self, store: Store, claimed: Claim, seconds: float = BEAT) -> None:
        self._store, self._claim, self._seconds = store, claimed, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="ferstore-heartbeat")

    def beat(self) -> bool:
        """Beat once; False where a later attempt beats, whose file is left alone."""
        row = self._claim.row
        found = read_beat(self._store, row["job"])
        if found is not None and str(found.get("started_at")) > row["started_at"].isoformat():
            return False
        about = {name: row[name] for name in ("job", "logical_date", "attempts", "host", "pid")}
        now = {**about, "started_at": row["started_at"].isoformat(), "at": datetime.now(UTC).isoformat()}
        write_file(beat_url(self._store, row["job"]), json.dumps(now).encode())
        return True

    def _work(self) -> None:
        while True:
            with suppress(OSError, FerstoreError):  # a store out of reach for a moment; the next beat is near
                if not self.beat():
                    return
            if self._ended.wait(self._seconds):
                return

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
