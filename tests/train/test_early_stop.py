"""The best validation is kept, and a training stops after so many that were no better."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.train.early_stop import Progressed, validate_every

losses = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, math.inf, math.nan]), max_size=12)


def after(losses: list[float], patience: int = 0) -> Progressed:
    progressed = Progressed(patience)
    for number, loss in enumerate(losses, 1):
        progressed = progressed.after(10 * number, loss)
    return progressed


@settings(deadline=None, max_examples=50)
@given(losses)
def test_the_best_is_the_lowest_loss_and_of_equals_the_first(losses: list[float]) -> None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    found = after(losses)
    assert found.best_loss == min(finite, default=math.inf)
    assert found.best_step == (10 * (losses.index(min(finite)) + 1) if finite else 0)


@settings(deadline=None, max_examples=50)
@given(losses, st.integers(1, 4))
def test_it_stops_once_so_many_validations_since_the_best_were_no_better(losses: list[float], patience: int) -> None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    since = len(losses) - (losses.index(min(finite)) + 1 if finite else 0)
    found = after(losses, patience)
    assert found.worse == since
    assert found.stop == (since >= patience)


def test_without_patience_it_never_stops() -> None:
    assert not Progressed(0).stop
    assert not after([1.0] * 100).stop


@pytest.mark.parametrize(
    ("losses", "improved"), [([2.0], True), ([2.0, 1.0], True), ([1.0, 1.0], False), ([1.0, math.nan], False)]
)
def test_a_validation_is_the_best_only_with_a_lower_loss(losses: list[float], improved: bool) -> None:
    assert after(losses).improved is improved


def test_a_better_validation_starts_the_count_again() -> None:
    found = after([3.0, 4.0, 4.0, 2.0, 3.0], patience=3)
    assert (found.best_step, found.worse, found.stop) == (40, 1, False)


def test_a_validation_leaves_what_was_said_before_as_it_was() -> None:
    before = Progressed(2)
    before.after(1, 0.5)
    assert before == Progressed(2)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(1, 200))
def test_validations_come_after_the_fewest_whole_epochs_that_are_long_enough(steps: int, at_least: int) -> None:
    every = validate_every(steps, at_least)
    assert every % steps == 0
    assert at_least <= every < at_least + steps


def test_validations_come_every_epoch_of_twenty_updates_or_more() -> None:
    assert [validate_every(steps) for steps in (1, 3, 20, 251)] == [20, 21, 20, 251]
