"""Where the numbers come from: features, extractors, snapshots, runs, versions, and how to do it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ferstore.image.location import redact
from ferstore.query.session import Session
from ferstore.report.asking import Row, among, ask
from ferstore.report.commands import reproduce


@dataclass(frozen=True, slots=True)
class Health:
    """A row of the view ``feature_health``."""

    extractor_id: str
    view: str
    weights_kind: str | None
    images: int
    not_finite: int
    dead_channels: int
    norm_outliers: int
    min_norm: float | None
    mean_norm: float | None
    max_norm: float | None


@dataclass(frozen=True, slots=True)
class Extractor:
    """A row of ``extractors``."""

    extractor_id: str
    weights: str
    weights_kind: str
    weights_sha256: str
    seed: int | None
    variant: str
    preprocessing: str
    precision: str
    map_dtype: str


@dataclass(frozen=True, slots=True)
class TrainRun:
    """A run of ``train``, whether it counts or not.

    Attributes:
        counts: it is behind a number of Table 2.
        why_not: what happened to it otherwise.
        parameters: trained ones; None where it did not come so far.
        conv4_run: the run whose conv4 it read.
        versions: of libraries.
    """

    run_id: str
    training_set: str
    experiment: str
    recipe: str
    settings: str
    width: int | None
    seed: int
    fold: int
    state: str
    counts: bool
    why_not: str
    parameters: int | None
    steps: int | None
    seconds: float | None
    device: str
    conv4_run: str | None
    weights_sha256: str
    versions: Mapping[str, str]
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where the numbers come from.

    Attributes:
        at: the tag, snapshot or time asked for; empty for the newest state.
        snapshots: read of each table that holds something.
        versions: of libraries, all that trainings recorded.
        commands: that would do it again, oldest first.
    """

    at: str
    snapshots: Mapping[str, int]
    extractors: tuple[Extractor, ...]
    runs: tuple[TrainRun, ...]
    versions: Mapping[str, tuple[str, ...]]
    commands: tuple[str, ...]


def find_health(session: Session, extractors: Sequence[str] | None) -> tuple[Health, ...]:
    """Health of ``pool_3``, of some extractors or of all."""
    which = among("extractor_id", extractors) if extractors is not None else "true"
    query = f"""select extractor_id, "view", weights_kind, images, not_finite, dead_channels, norm_outliers,
        min_norm, mean_norm, max_norm from feature_health where {which} order by extractor_id, "view" """  # noqa: S608
    return tuple(Health(**row) for row in ask(session, query))


def find_lineage(
    session: Session, training_sets: Sequence[str], counted: Sequence[str], folds: Mapping[str, int], *, every: bool
) -> Lineage:
    """Lineage of some training sets.

    Args:
        session: the pinned state.
        training_sets: whose trainings.
        counted: ids of the runs behind Table 2.
        folds: of each training set.
        every: the whole store is meant, data sets without training sets included.
    """
    rows = ask(session, "from runs order by started_at, run_id")
    if not every:
        named = ask(session, f"select dataset from training_sets where {among('name', training_sets)}")  # noqa: S608
        rows = [row for row in rows if _concerns(row, set(training_sets), {found["dataset"] for found in named})]
    runs = tuple(_train_run(row, set(counted)) for row in rows if row["command"] == "train")
    used = {row["extractor_id"] for row in rows if row["extractor_id"]}
    extractors = ask(
        session,
        f"""select extractor_id, weights, weights_kind, weights_sha256, seed, variant, preprocessing, precision,
                map_dtype from extractors where {among("extractor_id", sorted(used))}
            order by created_at, extractor_id""",  # noqa: S608
    )
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in sorted(run.versions.items()):
            versions.setdefault(name, {})[version] = None
    again = [row for row in rows if row["state"] == "done" and (row["command"] != "train" or row["run_id"] in counted)]
    return Lineage(
        at=session.pin.at or "",
        snapshots={name: snapshot for name, snapshot in sorted(session.pin.snapshots.items()) if snapshot is not None},
        extractors=tuple(Extractor(**(row | {"weights": redact(row["weights"])})) for row in extractors),
        runs=runs,
        versions={name: tuple(sorted(found)) for name, found in sorted(versions.items())},
        commands=reproduce(again, folds),
    )


def _concerns(row: Row, training_sets: set[str], datasets: set[str]) -> bool:
    if row["command"] not in ("train", "split"):
        return row["dataset"] is None or row["dataset"] in datasets
    arguments = json.loads(row["arguments"])
    return arguments.get("training_set", arguments.get("name")) in training_sets


def _train_run(row: Row, counted: set[str]) -> TrainRun:
    arguments, details = json.loads(row["arguments"]), json.loads(row["details"] or "{}")
    counts: dict[str, Any] = json.loads(row["counts"] or "{}")
    counts_here = row["run_id"] in counted
    return TrainRun(
        run_id=row["run_id"],
        **{name: arguments[name] for name in ("training_set", "experiment", "recipe", "settings", "seed", "fold")},
        width=arguments["width"] if arguments["experiment"] != "deepest" else None,
        state="diverged" if (row["error"] or "").startswith("diverged") else row["state"],
        counts=counts_here,
        why_not="" if counts_here else row["error"] or _WHY.get(row["state"], ""),
        parameters=details.get("parameters") or None,
        steps=counts.get("steps"),
        seconds=_finite(details.get("seconds")),
        device=details.get("device", ""),
        conv4_run=details.get("conv4_run"),
        weights_sha256=details.get("weights_sha256", ""),
        versions=details.get("versions", {}),
        started_at=row["started_at"],
    )


_WHY = {
    "running": "not finished: at work, or killed; --resume continues it",
    "done": "trained again later, or no item of test",
}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
