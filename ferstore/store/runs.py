"""Runs: what changed the store, as rows that outlive the process."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from ferstore.redaction import scrub
from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import replace_rows
from ferstore.store.store import Store
from ferstore.version import own_version


@dataclass(frozen=True, slots=True)
class Run:
    """One command at work.

    Attributes:
        run_id: UTC time to the second and 8 random hex digits; sorts by time.
        command: ingest, extract, ...
        arguments: its settings, without credentials.
    """

    run_id: str
    command: str
    arguments: Mapping[str, Any]
    started_at: datetime
    dataset: str | None = None
    extractor_id: str | None = None

    def summary(self, counts: Mapping[str, int]) -> dict[str, str]:
        """What its snapshots say of themselves."""
        said = {"command": self.command, "run-id": self.run_id, "counts": json.dumps(dict(counts))}
        if self.extractor_id:
            said["extractor-id"] = self.extractor_id
        return {**said, "version": own_version()}


def new_run(
    command: str, arguments: Mapping[str, Any], *, dataset: str | None = None, extractor_id: str | None = None
) -> Run:
    """A run with a fresh id, not yet in the store."""
    now = datetime.now(UTC)
    return Run(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}", command, arguments, now, dataset, extractor_id)


def library_versions() -> dict[str, str]:
    """Versions of what could change a feature though no setting did; for the record, not part of any identity."""
    others = {name: version(name) for name in ("keras", "numpy", "pillow", "ray", "tensorflow")}
    return {"ferstore": own_version(), **others}


def record_run(
    store: Store,
    run: Run,
    state: str,
    counts: Mapping[str, int] | None = None,
    error: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write or replace the run's row; state is running, done, failed or stopped."""
    transact(
        store,
        lambda pin: [replace_run(store, pin, run, state, counts, error, details)],
        run.summary(counts or {}),
    )


def replace_run(
    store: Store,
    pin: Pin,
    run: Run,
    state: str,
    counts: Mapping[str, int] | None,
    error: str | None,
    details: Mapping[str, Any] | None,
) -> Change:
    """The change that writes or replaces the run's row, for a commit with other tables."""
    row = {
        "run_id": run.run_id,
        "command": run.command,
        "state": state,
        "dataset": run.dataset,
        "extractor_id": run.extractor_id,
        "arguments": scrub(json.dumps(dict(run.arguments), sort_keys=True)),
        "counts": json.dumps(dict(counts)) if counts is not None else None,
        "details": json.dumps(dict(details), sort_keys=True) if details is not None else None,
        "error": scrub(error) if error else error,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": own_version(),
        "started_at": run.started_at,
        "ended_at": None if state == "running" else datetime.now(UTC),
    }
    return replace_rows(store, pin, "runs", pa.Table.from_pylist([row], schema=store.schemas["runs"].arrow()))
