"""A head trained in this process and committed to its store: what ``ferstore train`` does, without Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from train_job import MemoryLink

from ferstore.progress import Silent
from ferstore.store.store import Store
from ferstore.train import run as run_module
from ferstore.train.recipe import PAPER
from ferstore.train.request import TrainRequest
from ferstore.train.worker import work

TWO_STEPS = replace(PAPER, steps=2, batch_size=6, learning_rate=0.0001)


def train_here(store: Store, experiment: Any, training_set: str, **other: Any) -> str:
    """Train on fold 0 with one worker; returns the run's id."""
    request = TrainRequest(experiment, training_set, fold=0, **{"recipe": TWO_STEPS, **other})
    request.check()
    (plan,) = run_module.plan_folds(store, request)

    def fit(store: Store, plan: Any, run: Any, moments: Any, *rest: Any) -> Any:
        return [work(run_module._job(store, plan, run, moments), MemoryLink())]

    with patch.object(run_module, "_fit", fit):
        report = run_module._train_one(store, plan, None, 1, Silent())
    assert report.run_id is not None
    return report.run_id
