"""A store with trainings that never ran: rows of runs, predictions and metrics, written directly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from ferstore.train.request import TrainRequest

Row = dict[str, Any]
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    """What one made-up training leaves: rows by table."""

    run_id: str
    rows: Mapping[str, list[Row]]


def training_set(name: str, classes: Sequence[str], **other: Any) -> Row:
    """A row of ``training_sets``."""
    counts = json.dumps({"listed": 0, "kept": 0})
    own = {"name": name, "dataset": "faces", "protocol": "random", "classes": list(classes), "folds": 1}
    return {**own, "labels": "majority", "leaks": "report", "tag": f"set-{name}", "counts": counts, **other}


def training(
    request: TrainRequest,
    run_id: str,
    answers: str,
    *,
    state: str = "done",
    epochs: int = 3,
    first: int = 0,
    sure: float = 0.75,
    extractor: str = "e" * 16,
    classes: Sequence[str] = ("a", "b", "c"),
    names: Callable[[int], str] = "{:03}.png".format,
    later: int = 0,
    error: str | None = None,
    details: Mapping[str, Any] | None = None,
    images: Callable[[int], str] = "{:064x}".format,
) -> Made:
    """A training and what it made of test.

    Args:
        request: what was asked for; its fold is given.
        run_id: of it.
        answers: "ab" is an item of the first class that was taken for the second; letters count classes.
        state: of the run.
        epochs: of its curve, two updates each.
        first: number of the first item.
        sure: probability of the class that was answered.
        extractor: of the features.
        classes: of the training set.
        names: item_id by number.
        later: minutes after the first.
        error: of the run.
        details: of the run.
        images: image_id by number.
    """
    arguments = json.dumps(request.arguments(), sort_keys=True)
    run = {"run_id": run_id, "command": "train", "state": state, "dataset": "faces", "extractor_id": extractor}
    run |= {"arguments": arguments, "started_at": NOW + timedelta(minutes=later), "error": error}
    run |= {
        "details": json.dumps(details) if details is not None else None,
        "counts": json.dumps({"steps": 2 * epochs}),
    }
    predictions = []
    for number, (label, said) in enumerate(answers.split(), first):
        shares = np.full(len(classes), (1 - sure) / (len(classes) - 1))
        shares["abcdefgh".index(said)] = sure
        predictions.append(
            {"run_id": run_id, "item_id": names(number), "image_id": images(number), "part": "test"}
            | {"probabilities": shares.tolist(), "label": classes["abcdefgh".index(label)]}
            | {"predicted": classes["abcdefgh".index(said)]}
        )
    metrics = [
        {"run_id": run_id, "step": 2 * epoch - half, "epoch": epoch, "part": part}
        | {"loss": 2.0 / epoch + half * 0.1, "accuracy": 1 - 0.5 / epoch}
        for epoch in range(1, epochs + 1)
        for part, half in (("train", 0), ("train", 1), ("validation", 0))
    ]
    return Made(run_id, {"runs": [run], "predictions": predictions, "metrics": metrics})


def together(*made: Made, **more: list[Row]) -> dict[str, list[Row]]:
    """Rows of several trainings, and others, by table: for the fixture ``put``."""
    rows: dict[str, list[Row]] = {name: list(given) for name, given in more.items()}
    for one in made:
        for table, mine in one.rows.items():
            rows.setdefault(table, []).extend(mine)
    return rows
