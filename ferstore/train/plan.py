"""What a training will do, checked before anything is started: its folds, its data, its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.resources import Resources
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.runs import Run
from ferstore.store.store import Store
from ferstore.train.conv4 import CONV4
from ferstore.train.data import ASIDE, TrainingData, load_training_data
from ferstore.train.features import check_layers
from ferstore.train.past import find_run, newest_conv4
from ferstore.train.request import WIDTH, TrainReport, TrainRequest, for_fold
from ferstore.train.training_set import open_training_set


@dataclass(frozen=True, slots=True)
class Plan:
    """One fold, checked.

    Attributes:
        request: with all that was chosen for it: fold, extractor, width, and the run whose conv4 is read. It is what is
            recorded, so that a resumed training chooses nothing again.
        data: items and where their features lie.
        dataset: of the training set.
        conv4_run: run whose conv4 is read.
        weights_kind: of the extractor.
        snapshots: of every table of features that is read.
        pin: the state it was made on.
        undigested: files of features without a digest, from another engine: page checksums alone vouch for them.
    """

    request: TrainRequest
    data: TrainingData
    dataset: str
    conv4_run: str | None
    weights_kind: str | None
    snapshots: Mapping[str, int | None]
    pin: Pin
    undigested: int = 0

    def report(self, **figures: Any) -> TrainReport:
        """The account so far, with what else is known."""
        data, request = self.data, self.request
        examples = len(data.examples("train"))
        parts, counts = np.unique(data.parts[data.parts != ASIDE], return_counts=True)
        base: dict[str, Any] = {
            "run_id": None,
            "experiment": request.experiment,
            "training_set": request.training_set,
            "fold": request.fold,
            "recipe": request.recipe.name,
            "settings": request.settings,
            "width": request.width if request.experiment != "deepest" else None,
            "items": dict(zip(parts.tolist(), counts.tolist(), strict=True)),
            "examples": examples,
            "total_steps": request.recipe.total_steps(examples),
            "conv4_run": self.conv4_run,
            "extractor_id": data.extractor_id,
            "weights_kind": self.weights_kind,
        }
        return TrainReport(**{**base, **figures})


def plan_folds(
    store: Store, request: TrainRequest, *, began_with: Mapping[str, int | None] | None = None
) -> list[Plan]:
    """Every fold with its data found and checked, before any is trained.

    Args:
        store: where features are.
        request: what to train.
        began_with: snapshots that a resumed training read. The order of examples follows the files they lie in, and a
            compaction changes those. Where a snapshot is no longer kept, the newest one is read.

    Raises:
        InputError: one of them cannot be trained.
        CorruptionError: a file of the features is missing, or is not what was committed.
    """
    training_set = open_training_set(store, request.training_set)
    pin = store.pin().reading(began_with or {})
    undigested = check_layers(pin, request.read_layers)
    folds = range(training_set.folds) if request.fold is None else (request.fold,)
    plans = []
    for fold in folds:
        own = for_fold(request, fold)
        before = find_run(store, newest_conv4(store, pin, own)) if CONV4 in own.read_layers else None
        conv4 = before.run_id if before else None
        data = load_training_data(
            store,
            pin,
            training_set,
            fold=fold,
            layers=own.read_layers,
            views=own.views,
            extractor=own.extractor or (before.extractor_id if before else None),
            conv4_run=conv4,
            aside=own.experiment == "sub_deep",  # the paper saves conv4 of every image
        )
        if own.recipe.patience and not (data.parts == "validation").any():
            raise InputError(
                f"fold {fold} of training set {training_set.name!r} has no validation items to stop early by",
                hint="give --set patience=0",
            )
        kinds = _weights_kind(store, pin, data.extractor_id)
        snapshots = {layer: pin.snapshots[layer] for layer in own.read_layers}
        width = before.arguments["width"] if before else own.width or WIDTH
        chosen = replace(own, conv4=conv4, extractor=data.extractor_id, width=width)
        plans.append(Plan(chosen, data, training_set.dataset, conv4, kinds, snapshots, pin, undigested))
    return plans


def _weights_kind(store: Store, pin: Pin, extractor_id: str | None) -> str | None:
    rows = read_rows(store, pin, "extractors", ["weights_kind"], pc.field("extractor_id") == extractor_id)
    return rows["weights_kind"][0].as_py() if len(rows) else None


def cpus_of_worker(request: TrainRequest, resources: Resources) -> int:
    """CPUs a worker takes.

    Raises:
        InputError: the cluster has not enough, and Ray would wait for ever.
    """
    workers, gpus = request.workers, request.gpus_per_worker
    room = resources.room(cpus=1, gpus=gpus)
    if workers > room:
        raise InputError(
            f"{workers} workers with {gpus:g} GPUs each on a cluster with {resources.cpus:g} CPUs and "
            f"{resources.gpus:g} GPUs",
            allowed=f"at most {room} workers" if room else "--gpus-per-worker 0",
            hint="or give --address of a larger cluster",
        )
    return resources.cpus_each(workers, gpus=gpus)


def resume_command(plan: Plan, run: Run) -> str:
    """What continues a run from its last checkpoint."""
    request = plan.request
    return f"ferstore train {request.experiment} --training-set {request.training_set} --resume {run.run_id}"


def described(plan: Plan) -> str:
    """The plan in a line."""
    report = plan.report()
    said = f"{report.experiment} on {report.training_set} fold {report.fold}, recipe {report.recipe}"
    said += f" ({report.settings})" if report.settings else ""
    said += f", width {report.width}" if report.width else ""
    said += f", conv4 of run {plan.conv4_run}" if plan.conv4_run else ""
    said += ", RANDOM extractor weights" if report.weights_kind == "random" else ""
    said += f", {plan.undigested} files without a digest" if plan.undigested else ""
    return f"{said}; {report.examples} examples, {report.total_steps} steps"
