"""A training that a job left unfinished is continued, and one that it finished is not made twice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ferstore.store.store import Store
from ferstore.train.past import PastRun, past_runs
from ferstore.train.request import TrainRequest, request_of
from ferstore.train.training_set import open_training_set

_CHOSEN = ("fold", "conv4", "extractor", "width")  # where not asked for, a plan chooses, and that is recorded


def left_to_train(
    store: Store, asked: TrainRequest, *, finished_in: Collection[str], begun_in: Collection[str]
) -> list[list[str]]:
    """What is left of a training, as options to run the command with, once for each list.

    Args:
        store: where trainings are.
        asked: what the job is to train.
        finished_in: runs of the job for this day; one of them that is done need not be made again.
        begun_in: runs of the job on any day; one of them that did not end is continued.
    """
    same = [run for run in past_runs(store, store.pin()) if run.run_id in {*finished_in, *begun_in}]
    same = [run for run in same if _is(asked, run)]
    done = {run.arguments["fold"] for run in same if run.state == "done" and run.run_id in finished_in}
    begun = {run.arguments["fold"]: run.run_id for run in reversed(same) if _goes_on(run) and run.run_id in begun_in}
    if not done and not begun:
        return [[]]
    folds = range(open_training_set(store, asked.training_set).folds) if asked.fold is None else (asked.fold,)
    return [[f"--resume={begun[fold]}"] if fold in begun else [f"--fold={fold}"] for fold in folds if fold not in done]


def _is(asked: TrainRequest, run: PastRun) -> bool:
    made = request_of(run.arguments)
    return replace(asked, **{name: getattr(made, name) for name in _CHOSEN if getattr(asked, name) is None}) == made


def _goes_on(run: PastRun) -> bool:
    return run.state != "done" and "best_step" not in run.details  # a diverged one has ended, too
