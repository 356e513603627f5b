"""What a training leaves in the store: one commit with its curve, its predictions, its conv4 and its row of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, write_rows
from ferstore.store.runs import Run, replace_run
from ferstore.store.store import Store
from ferstore.train.data import EVALUATED, TrainingData
from ferstore.train.job import Outcome, scores


def commit_outcome(
    store: Store,
    run: Run,
    data: TrainingData,
    outcomes: Sequence[Outcome],
    *,
    since: Pin,
    state: str,
    counts: Mapping[str, int],
    error: str | None,
    details: Mapping[str, Any],
) -> None:
    """Commit everything at once, and once however often it is tried.

    Args:
        store: where to.
        run: the training.
        data: its items.
        outcomes: of every rank, rank 0 first.
        since: the state the data was found in.
        state: of the run.
        counts: of the run.
        error: of the run.
        details: of the run.

    Raises:
        ConflictError: other writers kept getting there first.
    """
    tables = {
        "metrics": curve_rows(run.run_id, outcomes[0]),
        "predictions": prediction_rows(run.run_id, data, outcomes[0]),
    }
    written = {name: write_rows(store, name, rows) for name, rows in tables.items() if len(rows)}
    written["conv4"] = tuple(file for outcome in outcomes for file in outcome.conv4)

    def plan(pin: Pin) -> list[Change]:
        mine = pc.field("run_id") == run.run_id
        if len(read_rows(store, pin, "metrics", ["run_id"], mine)):
            return []  # it landed, and only the answer was lost
        changes = [Change(table, files) for table, files in written.items()]
        return [*changes, replace_run(store, pin, run, state, counts, error, details)]

    transact(store, plan, run.summary(counts), since=since)


def curve_rows(run_id: str, outcome: Outcome) -> pa.Table:
    """Rows of ``metrics``."""
    points = outcome.curve
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(points), pa.string()),
            "step": pa.array([point.step for point in points], pa.int64()),
            "epoch": pa.array([point.epoch for point in points], pa.int32()),
            "part": pa.array([point.part for point in points], pa.string()),
            "loss": pa.array([point.loss for point in points], pa.float64()),
            "accuracy": pa.array([point.accuracy for point in points], pa.float64()),
        }
    )


def prediction_rows(run_id: str, data: TrainingData, outcome: Outcome) -> pa.Table:
    """Rows of ``predictions``; none where the training diverged."""
    items = np.flatnonzero(np.isin(data.parts, EVALUATED)) if outcome.probabilities is not None else np.empty(0, int)
    shares = outcome.probabilities[items] if outcome.probabilities is not None else np.empty((0, 0), np.float32)
    offsets = np.arange(len(items) + 1, dtype=np.int32) * (shares.shape[1] if len(items) else 0)
    names = np.asarray(data.classes)
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(items), pa.string()),
            "item_id": pa.array([data.item_ids[item] for item in items], pa.string()),
            "image_id": pa.array([data.image_ids[item] for item in items], pa.string()),
            "part": pa.array(data.parts[items].tolist(), pa.string()),
            "probabilities": pa.ListArray.from_arrays(offsets, shares.ravel().astype(np.float32)),
            "predicted": pa.array(names[shares.argmax(axis=1)].tolist() if len(items) else [], pa.string()),
            "label": pa.array(names[data.labels[items]].tolist(), pa.string()),
        }
    )


def part_scores(data: TrainingData, outcome: Outcome, targets: npt.NDArray[np.float32], part: str) -> dict[str, float]:
    """Loss and accuracy on one part; empty where there is none, or no prediction."""
    items = np.flatnonzero(data.parts == part)
    if outcome.probabilities is None or not len(items):
        return {}
    loss, accuracy = scores(outcome.probabilities[items], targets[items], data.labels[items])
    return {"loss": loss, "accuracy": accuracy}
