"""Which training is continued, and which training's conv4 is read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from train_store import training_row

from ferstore.errors import InputError
from ferstore.store.pin import Pin
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.train import past as past_module
from ferstore.train.past import PastRun, check_resumable, find_run, newest_conv4, past_runs
from ferstore.train.recipe import MODERN, PAPER
from ferstore.train.request import TrainRequest

Put = Callable[..., Pin]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def request(experiment: Any = "sub_deep", training_set: str = "parts", **other: Any) -> TrainRequest:
    return TrainRequest(experiment, training_set, **{"fold": 0, **other})


def past(run_id: str, asked: TrainRequest, **row: Any) -> PastRun:
    """A training as `past_runs` lists it."""
    stored = training_row(run_id, asked, **row)
    names = ("run_id", "state", "dataset", "extractor_id", "host", "pid", "started_at")
    texts = {name: json.loads(stored[name]) for name in ("arguments", "details")}
    return PastRun(**{name: stored[name] for name in names}, **texts)


# The one to continue.


def test_trainings_are_listed_newest_first_with_what_they_were_asked_for(store: Store, put: Put) -> None:
    asked = request(width=8, seed=5)
    put(
        store,
        runs=[
            training_row("second", request(), minute=2),
            training_row("third", asked, minute=3, details={"best_step": 4}, extractor_id=None),
            training_row("first", request(), minute=1, details=None),
            {**training_row("other", request(), minute=4), "command": "extract"},
        ],
    )
    runs = past_runs(store, store.pin())
    assert [run.run_id for run in runs] == ["third", "second", "first"]
    assert runs[0].arguments["width"] == 8
    assert (runs[0].details, runs[2].details) == ({"best_step": 4}, {})
    assert (runs[0].extractor_id, runs[1].extractor_id, runs[1].dataset) == (None, "extractor", "set")


def test_a_recorded_run_is_found_with_its_process(store: Store) -> None:
    run = new_run("train", request().arguments(), dataset="set")
    record_run(store, run, "running", details={"workers": 2})
    found = find_run(store, run.run_id)
    assert (found.state, found.host, found.pid) == ("running", socket.gethostname(), os.getpid())
    assert (found.started_at, found.details) == (run.started_at, {"workers": 2})


def test_an_unknown_run_is_refused_with_the_newest_there_are(store: Store, put: Put) -> None:
    with pytest.raises(InputError, match="no training 'r'; allowed: none yet; list them with: ferstore runs"):
        find_run(store, "r")
    put(store, runs=[training_row(f"r{minute}", request(), minute=minute) for minute in range(7)])
    with pytest.raises(InputError, match="no training 'r'; allowed: r6, r5, r4, r3, r2; list"):
        find_run(store, "r")


def resumable(asked: TrainRequest, **row: Any) -> None:
    check_resumable(past("r", request(), **row), asked)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_training_that_failed_or_was_stopped_can_be_continued(state: str) -> None:
    resumable(request(), state=state)


def test_a_training_is_continued_by_its_experiment_and_training_set_whatever_else_is_asked() -> None:
    resumable(request(recipe=MODERN, seed=9, fold=None), state="failed")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request("deepest"), "--resume r with experiment deepest; allowed: sub_deep; a checkpoint fits its own head"),
        (request("fusion"), "--resume r with experiment fusion; allowed: sub_deep"),
        (request(training_set="others"), "--resume r with training set others; allowed: parts"),
    ],
)
@pytest.mark.parametrize("state", ["failed", "done"])
def test_a_training_of_another_head_or_other_items_is_not_continued(asked: TrainRequest, said: str, state: str) -> None:
    with pytest.raises(InputError, match=said):
        resumable(asked, state=state)


def test_a_training_that_is_done_is_not_continued() -> None:
    with pytest.raises(InputError, match="training r is done; train again without --resume"):
        resumable(request(), details={"best_step": 6000})


def test_a_training_that_diverged_is_not_continued() -> None:
    with pytest.raises(InputError, match="training r diverged; train again with another recipe or seed"):
        resumable(request(), state="failed", details={"best_step": 0})


def test_a_training_at_work_in_another_process_is_not_continued() -> None:
    pid = os.getppid()
    with pytest.raises(InputError, match=f"training r is at work in process {pid}; wait for it, or stop it first"):
        resumable(request(), state="running", host=socket.gethostname(), pid=pid, started_at=datetime.now(UTC))


def test_a_training_of_a_process_whose_number_was_used_again_is_continued() -> None:
    old = datetime(2001, 1, 1, tzinfo=UTC)
    resumable(request(), state="running", host=socket.gethostname(), pid=os.getppid(), started_at=old)


def test_a_training_whose_process_was_killed_can_be_continued() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    resumable(request(), state="running", host=socket.gethostname(), pid=gone.pid)


def test_a_training_that_this_process_began_can_be_continued() -> None:
    resumable(request(), state="running", host=socket.gethostname(), pid=os.getpid())


def test_a_process_of_another_machine_says_nothing_about_this_ones() -> None:
    resumable(request(), state="running", host="elsewhere", pid=os.getppid())


# The one whose conv4 is read.


def test_the_choice_is_made_among_the_trainings_of_the_pin(store: Store, put: Put) -> None:
    before = put(store, runs=[training_row("old", request()), training_row("fold 1", request(fold=1), minute=1)])
    after = put(store, runs=[training_row("new", request(), minute=2)])
    asked = request("fusion")
    assert (newest_conv4(store, before, asked), newest_conv4(store, after, asked)) == ("old", "new")


BOTH = ("identity", "hflip")
ASKED = request("fusion", seed=3, recipe=MODERN, width=64)
SAME = {"seed": 3, "recipe": MODERN, "width": 64}


Chosen = Callable[..., str]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Chosen:
    """The choice among trainings r0, r1, ... of which each is newer than the one before."""

    def choose(*runs: dict[str, Any], asked: TrainRequest = ASKED, **row: Any) -> str:
        found = [past(f"r{n}", request(**{**SAME, **run}), minute=n, **row) for n, run in enumerate(runs)]
        monkeypatch.setattr(past_module, "past_runs", lambda store, pin: found[::-1])
        nothing: Any = None
        return newest_conv4(nothing, nothing, asked)

    return choose


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([{}, {}, {}], "r2"),
        ([{}, {"width": 8}], "r0"),
        ([{}, {"recipe": PAPER}], "r0"),
        ([{}, {"seed": 4}], "r0"),
        ([{"recipe": PAPER}, {"seed": 4}], "r0"),  # seed before recipe
        ([{"seed": 4}, {"seed": 4, "recipe": PAPER}], "r0"),
        ([{"seed": 4, "recipe": PAPER}, {"seed": 5, "recipe": PAPER}], "r1"),  # alike in what agrees: the newest
        ([{"seed": 4, "recipe": PAPER}], "r0"),  # better than none
    ],
)
def test_the_training_that_agrees_most_is_read_by_seed_then_recipe_then_the_newest(
    chosen: Chosen, runs: list[dict[str, Any]], expected: str
) -> None:
    assert chosen(*runs) == expected


@pytest.mark.parametrize(
    "newer",
    [
        {"experiment": "deepest"},
        {"training_set": "others"},
        {"fold": 1},
        {"views": ("hflip",)},
        {"width": 8},
    ],
)
def test_trainings_of_another_head_set_fold_view_or_width_are_never_read(chosen: Chosen, newer: dict[str, Any]) -> None:
    assert chosen({}, newer) == "r0"
    with pytest.raises(InputError, match="no finished sub_deep training"):
        chosen(newer, newer)


@pytest.mark.parametrize("state", ["running", "failed", "stopped"])
def test_trainings_that_did_not_finish_are_never_read(chosen: Chosen, state: str) -> None:
    with pytest.raises(
        InputError,
        match="no finished sub_deep training of training set 'parts' fold 0 with views identity and width 64, whose "
        "conv4 fusion reads; train it first: ferstore train sub_deep --training-set parts --width 64, or give --joint",
    ):
        chosen({}, state=state)


def test_a_training_with_more_views_than_are_asked_for_is_read(chosen: Chosen) -> None:
    both = request("fusion", **SAME, views=BOTH)
    assert chosen({"views": BOTH}) == "r0"
    assert chosen({"views": BOTH}, {}, asked=both) == "r0"


def test_the_training_asked_for_is_read_though_another_agrees_more(chosen: Chosen) -> None:
    asked = request("fusion", **SAME, conv4="r0")
    assert chosen({"seed": 4, "recipe": PAPER}, {}, asked=asked) == "r0"


def test_without_a_width_a_training_of_any_is_read(chosen: Chosen) -> None:
    assert chosen({}, {"width": 8}, asked=replace(ASKED, width=None)) == "r1"


@pytest.mark.parametrize(
    ("run", "state", "known"),
    [
        ({"fold": 1}, "done", "r1"),
        ({"training_set": "others"}, "done", "r1"),
        ({"experiment": "fusion"}, "done", "r1"),
        ({}, "failed", "none yet"),
    ],
)
def test_a_training_asked_for_that_does_not_fit_is_refused_with_those_that_do(
    chosen: Chosen, run: dict[str, Any], state: str, known: str
) -> None:
    with pytest.raises(
        InputError,
        match=f"--conv4 r0 is no .* 'parts' fold 0 with views identity and width 64; allowed: {known}$",
    ):
        chosen(run, {}, asked=request("fusion", **SAME, conv4="r0"), state=state)


def test_a_training_asked_for_that_is_not_there_is_refused(chosen: Chosen) -> None:
    with pytest.raises(InputError, match=r"--conv4 r0 is no .*; allowed: none yet"):
        chosen(asked=request("fusion", conv4="r0"))
