"""Batch jobs as rows, and which of them are at work."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.compute as pc

from ferstore.store.files import filesystem
from ferstore.store.liveness import alive
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store

TABLE = "job_runs"
BEAT = 15.0
"""Seconds between two beats of a job at work."""
STALE = timedelta(seconds=60)
"""Age from which a beat is that of a dead job."""

Row = dict[str, Any]
_IDENTITY = ("logical_date", "attempts", "host", "pid")


def job_runs(store: Store, pin: Pin, job: str | None = None) -> list[Row]:
    """Rows of all jobs or of one, newest first."""
    where = pc.field("job") == job if job is not None else None
    rows: list[Row] = read_rows(store, pin, TABLE, where=where).sort_by([("started_at", "descending")]).to_pylist()
    return rows


def shown_jobs(store: Store, pin: Pin) -> list[Row]:
    """The same for people and programs: JSON read, and the state of a dead one is ``killed``."""
    return [
        {
            **row,
            **{name: json.loads(row[name]) if row[name] else None for name in _JSON},
            "state": "killed" if row["state"] == "running" and not at_work(store, row) else row["state"],
        }
        for row in job_runs(store, pin)
    ]


_JSON = ("inputs", "outputs", "counts", "steps", "arguments")


def at_work(store: Store, row: Mapping[str, Any]) -> bool:
    """Whether the job of a row that says running is, as far as can be known.

    On this machine its process is looked for. One elsewhere shows itself by its beats; clocks are taken to agree within
    half of `STALE`.
    """
    if row["host"] == socket.gethostname():
        # This process itself, where it is not: a container gives the same name and number to each of its lives.
        return bool(row["pid"] != os.getpid()) and alive(row["host"], row["pid"], row["started_at"])
    beat = _beat(store, row)
    seen: datetime = max(beat or row["started_at"], row["started_at"])
    return datetime.now(UTC) - seen < STALE


def beat_url(store: Store, job: str) -> str:
    """The file that a job at work writes again and again."""
    return f"{store.url}/jobs/{job}.json"


def read_beat(store: Store, job: str) -> Mapping[str, Any] | None:
    """The newest beat of a job; None where there is none that can be read."""
    url = beat_url(store, job)
    try:
        found = json.loads(filesystem(url).cat_file(url))
        return {**found, "at": datetime.fromisoformat(found["at"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _beat(store: Store, row: Mapping[str, Any]) -> datetime | None:
    found = read_beat(store, row["job"])
    if found is None or any(found.get(name) != row[name] for name in _IDENTITY):
        return None
    at: datetime = found["at"]
    return at


def runs_of(store: Store, pin: Pin, row: Mapping[str, Any]) -> list[str]:
    """Rows of ``runs`` that came of a job's newest attempt, and of those before it."""
    own = (pc.field("host") == row["host"]) & (pc.field("pid") == row["pid"])
    own &= pc.field("started_at") >= pc.scalar(row["started_at"])
    found = read_rows(store, pin, "runs", ["run_id"], own)["run_id"].to_pylist()
    return sorted({*row["run_ids"], *found})
