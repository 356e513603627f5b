"""Trainings of a job that was killed: one that ended is not made twice, one that did not is continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from trained import training_set

from ferstore.batch.trainings import left_to_train
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag
from ferstore.train.recipe import recipe_of
from ferstore.train.request import WIDTH, TrainRequest, for_fold

Put = Callable[..., Any]
ASKED = TrainRequest("deepest", "parts", recipe=recipe_of("modern", ["dropout=0.3"], epochs=2), views=("identity",))


@pytest.fixture
def store(tmp_path: Path, put: Put) -> Store:
    store = init_store(str(tmp_path / "store"))
    item = {"soft_label": [1.0, 0.0]}
    put(store, training_sets=[training_set("parts", ["a", "b"], folds=3)], images=[{}], training_set_items=[item])
    create_tag(store, "training-set parts", None)
    return store


def began(put: Put, store: Store, run_id: str, request: TrainRequest, fold: int, state: str, **details: Any) -> str:
    """A training as it is recorded: with what its plan chose."""
    chosen = replace(for_fold(request, fold), extractor="e" * 16, width=request.width or WIDTH)
    row = {"run_id": run_id, "command": "train", "state": state, "arguments": json.dumps(chosen.arguments())}
    put(store, runs=[{**row, "details": json.dumps(details), "started_at": datetime.now(UTC)}])
    return run_id


def left(store: Store, asked: TrainRequest, finished_in: set[str], begun_in: set[str] = set()) -> list[list[str]]:  # noqa: B006
    return left_to_train(store, asked, finished_in=finished_in, begun_in=finished_in | begun_in)


def test_a_first_attempt_trains_as_it_was_asked(store: Store, put: Put) -> None:
    began(put, store, "of a person", ASKED, 0, "stopped")
    assert left(store, ASKED, set()) == [[]], "what others left is theirs"


def test_an_attempt_after_a_kill_does_what_is_left(store: Store, put: Put) -> None:
    done = began(put, store, "a", ASKED, 0, "done")
    killed = began(put, store, "b", ASKED, 1, "running")
    assert left(store, ASKED, {done, killed}) == [["--resume=b"], ["--fold=2"]]
    assert left(store, for_fold(ASKED, 1), {done, killed}) == [["--resume=b"]]
    assert left(store, for_fold(ASKED, 0), {done, killed}) == []


def test_what_was_done_for_another_day_is_done_anew_and_what_it_left_is_continued(store: Store, put: Put) -> None:
    began(put, store, "a", ASKED, 0, "done")
    began(put, store, "b", ASKED, 1, "failed")
    assert left(store, ASKED, set(), {"a", "b"}) == [["--fold=0"], ["--resume=b"], ["--fold=2"]]


def test_the_newest_of_several_is_continued(store: Store, put: Put) -> None:
    for run_id in ("a", "b"):
        began(put, store, run_id, ASKED, 0, "stopped")
    assert left(store, for_fold(ASKED, 0), {"a", "b"}) == [["--resume=b"]]


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, seed=1),
        replace(ASKED, training_set="others"),
        replace(ASKED, experiment="sub_deep"),
        replace(ASKED, workers=2),
        replace(ASKED, recipe=recipe_of("modern", ["dropout=0.4"], epochs=2)),
        replace(ASKED, layers=("pool_3", "mixed_8_mean")),
    ],
)
def test_a_training_with_other_settings_is_another(store: Store, put: Put, other: TrainRequest) -> None:
    began(put, store, "a", other, 0, "stopped")
    assert left(store, ASKED, {"a"}) == [[]]
    if other.training_set == "parts":
        assert left(store, for_fold(other, 0), {"a"}) == [["--resume=a"]]


def test_one_that_diverged_has_ended(store: Store, put: Put) -> None:
    began(put, store, "a", ASKED, 0, "failed", best_step=0)
    assert left(store, ASKED, {"a"}) == [[]]
