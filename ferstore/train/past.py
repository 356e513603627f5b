"""Trainings that were: the one to continue, and the one whose conv4 is read."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.store.liveness import alive
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store
from ferstore.train.request import TrainRequest


@dataclass(frozen=True, slots=True)
class PastRun:
    """A row of ``runs`` with command train."""

    run_id: str
    state: str
    dataset: str
    extractor_id: str | None
    arguments: Mapping[str, Any]
    details: Mapping[str, Any]
    host: str
    pid: int
    started_at: datetime


def past_runs(store: Store, pin: Pin) -> list[PastRun]:
    """Every training, newest first."""
    rows = read_rows(store, pin, "runs", where=pc.field("command") == "train").sort_by([("started_at", "descending")])
    names = ("run_id", "state", "dataset", "extractor_id", "host", "pid", "started_at")
    return [
        PastRun(
            **{name: row[name] for name in names},
            arguments=json.loads(row["arguments"]),
            details=json.loads(row["details"] or "{}"),
        )
        for row in rows.to_pylist()
    ]


def find_run(store: Store, run_id: str) -> PastRun:
    """One training.

    Raises:
        InputError: there is none of that id.
    """
    runs = past_runs(store, store.pin())
    for run in runs:
        if run.run_id == run_id:
            return run
    known = ", ".join(run.run_id for run in runs[:5])
    raise InputError(f"no training {run_id!r}", allowed=known or "none yet", hint="list them with: ferstore runs")


def check_resumable(run: PastRun, request: TrainRequest) -> None:
    """Refuse to continue what is finished, at work, or another head.

    Raises:
        InputError: why not.
    """
    for name in ("experiment", "training_set"):
        given, own = getattr(request, name), run.arguments[name]
        if given != own:
            raise InputError(
                f"--resume {run.run_id} with {name.replace('_', ' ')} {given}",
                allowed=own,
                hint="a checkpoint fits its own head only",
            )
    if run.state == "done":
        raise InputError(f"training {run.run_id} is done", hint="train again without --resume")
    if "best_step" in run.details:
        raise InputError(f"training {run.run_id} diverged", hint="train again with another recipe or seed")
    here = run.host == socket.gethostname() and run.pid != os.getpid()
    if run.state == "running" and here and alive(run.host, run.pid, run.started_at):
        raise InputError(f"training {run.run_id} is at work in process {run.pid}", hint="wait for it, or stop it first")


def newest_conv4(store: Store, pin: Pin, request: TrainRequest) -> str:
    """The run whose conv4 a fusion reads.

    It is a finished sub_deep training of the same training set and fold that has every view asked for, and the width
    where one is. Without an id it is the one that agrees most: same seed, then same recipe, then the newest.

    Raises:
        InputError: there is none.
    """
    fitting = [
        run
        for run in past_runs(store, pin)
        if run.state == "done"
        and run.arguments["experiment"] == "sub_deep"
        and run.arguments["training_set"] == request.training_set
        and run.arguments["fold"] == request.fold
        and set(request.views) <= set(run.arguments["views"])
        and request.width in (None, run.arguments["width"])
    ]
    where = f"training set {request.training_set!r} fold {request.fold} with views {','.join(request.views)}"
    where += f" and width {request.width}" if request.width is not None else ""
    if request.conv4 is not None:
        if request.conv4 not in [run.run_id for run in fitting]:
            known = ", ".join(run.run_id for run in fitting[:5]) or "none yet"
            raise InputError(f"--conv4 {request.conv4} is no finished sub_deep training of {where}", allowed=known)
        return request.conv4
    if not fitting:
        command = f"ferstore train sub_deep --training-set {request.training_set}"
        command += f" --width {request.width}" if request.width is not None else ""
        command += f" --views {','.join(request.views)}" if request.views != ("identity",) else ""
        raise InputError(
            f"no finished sub_deep training of {where}, whose conv4 fusion reads",
            hint=f"train it first: {command}, or give --joint",
        )
    return max(fitting, key=lambda run: _agreement(run.arguments, request)).run_id


def run_with_maps(store: Store, run_id: str | None, extractor_id: str | None) -> PastRun | None:
    """A finished training whose head has the convolutions of Table 1: sub_deep, or fusion trained jointly.

    Args:
        store: where trainings are.
        run_id: of the training; None takes the newest there is, if there is one.
        extractor_id: what its features must have come from; None takes any.

    Raises:
        InputError: the training named is not there, has another head or extractor, or did not finish.
    """
    runs = past_runs(store, store.pin())
    fitting = [
        run for run in runs if run.state == "done" and _has_maps(run) and extractor_id in (None, run.extractor_id)
    ]
    if run_id is None:
        return fitting[0] if fitting else None
    run = find_run(store, run_id)
    if run not in fitting:
        of = f" of extractor {extractor_id}" if extractor_id is not None and run.extractor_id != extractor_id else ""
        known = ", ".join(fit.run_id for fit in fitting[:5]) or "none yet"
        kind = run.arguments["experiment"] + ("" if run.state == "done" else f", {run.state}")
        raise InputError(
            f"training {run_id} ({kind}) is no finished training{of} whose head has conv1 to conv4",
            allowed=f"one of sub_deep, or of fusion with --joint: {known}",
        )
    return run


def map_layer(run: PastRun) -> str:
    """The map that a head with convolutions reads: the name of its feature table."""
    [name] = [name for name, shape in run.details["shapes"].items() if len(shape) > 1]
    return str(name)


def _has_maps(run: PastRun) -> bool:
    experiment = run.arguments["experiment"]
    return experiment == "sub_deep" or (experiment == "fusion" and bool(run.arguments["joint"]))


def _agreement(arguments: Mapping[str, Any], request: TrainRequest) -> tuple[bool, ...]:
    # max() keeps the first of equals, and the newest comes first.
    return (
        arguments["seed"] == request.seed,
        arguments["recipe"] == request.recipe.name,
    )
