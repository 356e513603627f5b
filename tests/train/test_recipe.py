"""Recipes are values: the paper's numbers, options by name, and a schedule that is a function of the step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.errors import InputError
from ferstore.train.recipe import (
    MODERN,
    PAPER,
    RECIPES,
    Recipe,
    class_weights,
    derived_seed,
    epoch_steps,
    recipe_of,
)

OPTIONS = sorted({field.name for field in dataclasses.fields(Recipe)} - {"name", "steps", "epochs"})


def test_the_papers_recipe_is_adam_at_a_hundredth_with_batches_of_100_for_6000_steps_and_nothing_else() -> None:
    assert dataclasses.asdict(PAPER) == {
        "name": "paper",
        "steps": 6000,
        "epochs": None,
        "batch_size": 100,
        "learning_rate": 0.01,
        "schedule": "constant",
        "warmup": 0,
        "weight_decay": 0,
        "targets": "hard",
        "label_smoothing": 0,
        "class_balance": 0,
        "loss": "cross_entropy",
        "focal_gamma": 2.0,  # of losses that are not chosen
        "margin": 0.2,
        "scale": 16.0,
        "standardise": False,
        "batch_norm": False,
        "dropout": 0,
        "hidden": 0,
        "fusion": "sum",
        "patience": 0,
    }


@pytest.mark.parametrize("name", ["paper", "modern"])
def test_a_named_recipe_is_sound_and_keeps_its_name(name: str) -> None:
    assert recipe_of(name) == RECIPES[name]  # which has been checked
    assert RECIPES[name].name == name


def test_every_option_can_be_set_by_name() -> None:
    texts = [f"{option}={getattr(MODERN, option)}" for option in OPTIONS]
    assert recipe_of("paper", texts, epochs=40) == dataclasses.replace(MODERN, name="paper")


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("batch_size=7", "batch_size", 7),
        ("batch-size = 7", "batch_size", 7),
        ("learning-rate=3e-4", "learning_rate", 3e-4),
        ("dropout=0", "dropout", 0.0),
        ("batch_norm=True", "batch_norm", True),
        ("standardise=false", "standardise", False),
        ("fusion=concat", "fusion", "concat"),
        ("loss=focal", "loss", "focal"),
    ],
)
def test_an_option_takes_a_text_of_its_kind(text: str, option: str, value: Any) -> None:
    recipe = recipe_of("paper", [text])
    assert recipe == dataclasses.replace(PAPER, **{option: value})
    assert type(getattr(recipe, option)) is type(value)


def test_the_last_of_two_settings_of_an_option_holds() -> None:
    assert recipe_of("paper", ["hidden=5", "hidden=6"]).hidden == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["hiden=5"], "--set hiden=5; allowed: OPTION=VALUE with OPTION of batch_norm.*; did you mean hidden?"),
        (["hidden"], "--set hidden; allowed: OPTION=VALUE"),
        (["=5"], "--set =5; allowed: OPTION=VALUE"),
        (["steps=5"], "--set steps=5; allowed: OPTION=VALUE"),  # it has an option of its own
        (["epochs=5"], "--set epochs=5; allowed: OPTION=VALUE"),
        (["name=mine"], "--set name=mine; allowed: OPTION=VALUE"),
        (["hidden=1.5"], "--set hidden=1.5; allowed: a whole number"),
        (["hidden="], "--set hidden=; allowed: a whole number"),
        (["dropout=much"], "--set dropout=much; allowed: a number"),
        (["batch_norm=1"], "--set batch_norm=1; allowed: true or false"),
        (["schedule=linear"], "schedule 'linear'; allowed: constant, cosine"),
        (["targets=medium"], "targets 'medium'; allowed: hard, soft"),
        (["loss=hinge"], "loss 'hinge'; allowed: cross_entropy, focal, margin"),
        (["fusion=product"], "fusion 'product'; allowed: sum, mean, max, concat"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_a_line(changes: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        recipe_of("paper", changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "least", "most", "below", "above"),
    [
        ("batch_size", 1, 65536, 0, 65537),
        ("learning_rate", 1e-9, 10, 0, 11),
        ("warmup", 0, 1, -0.1, 1.1),
        ("weight_decay", 0, 10, -1, 11),
        ("label_smoothing", 0, 0.99, -0.1, 1),
        ("class_balance", 0, 1, -0.1, 1.1),
        ("focal_gamma", 0, 10, -1, 11),
        ("margin", 0, 1.5, -0.1, 1.6),
        ("scale", 1, 1000, 0.5, 1001),
        ("dropout", 0, 0.95, -0.1, 1),
        ("hidden", 0, 65536, -1, 65537),
        ("patience", 0, 10**6, -1, 10**6 + 1),
    ],
)
def test_a_number_is_taken_within_its_bounds_only(
    option: str, least: float, most: float, below: float, above: float
) -> None:
    for value in (least, most):
        assert getattr(recipe_of("paper", [f"{option}={value}"]), option) == value
    for value in (below, above):
        with pytest.raises(InputError, match=rf"^{option} {value}(\.0)?; allowed: "):
            recipe_of("paper", [f"{option}={value}"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_finite_number_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=f"learning_rate {value}"):
        recipe_of("paper", [f"learning_rate={value}"])


def test_steps_and_epochs_take_each_others_place() -> None:
    by_epochs, by_steps = recipe_of("paper", epochs=3), recipe_of("modern", steps=5)
    assert (by_epochs.steps, by_epochs.epochs) == (None, 3)
    assert (by_steps.steps, by_steps.epochs) == (5, None)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ({"steps": 5, "epochs": 5}, "--steps and --epochs together; allowed: one of them"),
        ({"steps": 0}, "steps 0; allowed: 1 to 1e[+]09"),
        ({"epochs": 0}, "epochs 0; allowed: 1 to 1e[+]06"),
    ],
)
def test_a_length_that_cannot_be_is_refused(length: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe_of("paper", **length)


def test_a_recipe_without_any_length_is_refused() -> None:
    with pytest.raises(InputError, match="allowed: one of them"):
        dataclasses.replace(PAPER, steps=None).check()


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="recipe 'papr'; allowed: paper, modern"):
        recipe_of("papr")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 500), st.integers(1, 100))
def test_epochs_are_counted_in_batches_of_which_the_last_may_be_short(examples: int, batch: int, epochs: int) -> None:
    steps = epoch_steps(examples, batch)
    assert 0 <= steps * batch - examples < batch
    assert recipe_of("modern", [f"batch_size={batch}"], epochs=epochs).total_steps(examples) == epochs * steps


def test_steps_are_as_many_whatever_the_number_of_examples() -> None:
    assert [PAPER.total_steps(examples) for examples in (1, 100, 25_060)] == [6000] * 3
    assert MODERN.total_steps(25_060) == 40 * 196


def test_the_papers_learning_rate_never_changes() -> None:
    assert {PAPER.learning_rate_at(step, 6000) for step in range(6000)} == {0.01}


def test_the_learning_rate_warms_up_in_equal_steps_and_then_stays() -> None:
    recipe = recipe_of("paper", ["warmup=0.4", "learning_rate=1"])
    assert [recipe.learning_rate_at(step, 10) for step in range(10)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]


def test_the_learning_rate_falls_along_a_cosine_after_the_warm_up() -> None:
    recipe = recipe_of("paper", ["warmup=0.2", "learning_rate=2", "schedule=cosine"])
    found = [recipe.learning_rate_at(step, 10) for step in range(11)]
    assert found[:3] == [1, 2, 2]
    assert found[2:] == pytest.approx([1 + math.cos(math.pi * n / 8) for n in range(9)])
    assert found[6] == pytest.approx(1)  # half way
    assert found[10] == pytest.approx(0)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from(["constant", "cosine"]))
def test_the_learning_rate_rises_then_never_rises_again_and_stays_within_its_largest(
    total: int, warmup: float, schedule: Any
) -> None:
    recipe = dataclasses.replace(MODERN, learning_rate=1.0, warmup=warmup, schedule=schedule)
    found = np.array([recipe.learning_rate_at(step, total) for step in range(total)])
    peak = int(found.argmax())
    assert found.max() == 1
    assert (found > 0).all()
    assert (np.diff(found[: peak + 1]) > 0).all()
    assert (np.diff(found[peak:]) <= 0).all()
    assert peak == max(0, math.ceil(warmup * total) - 1)


counts = st.lists(st.integers(1, 10_000), min_size=1, max_size=10).map(lambda given: np.asarray(given, np.int64))


@settings(deadline=None, max_examples=50)
@given(counts, st.floats(0, 1))
def test_class_weights_have_mean_one_over_the_examples_and_follow_the_power_law(
    counts: np.ndarray[Any, np.dtype[np.int64]], balance: float
) -> None:
    weights = class_weights(counts, balance)
    assert weights.dtype == np.float32
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-5)
    assert weights / weights[0] == pytest.approx((counts[0] / counts) ** balance, rel=1e-5)


def test_without_balance_all_examples_weigh_one_and_with_all_of_it_all_classes_weigh_alike() -> None:
    counts = np.array([90, 9, 1])
    assert class_weights(counts, 0).tolist() == [1, 1, 1]
    assert class_weights(counts, 1) * counts == pytest.approx([100 / 3] * 3, rel=1e-6)


def test_a_derived_seed_is_the_same_on_every_machine_and_version() -> None:
    # If these change, a training's seed no longer means what it meant.
    found = [derived_seed(seed, purpose) for seed, purpose in ((0, "order"), (7, "order"), (0, "conv1"), (2**31, ""))]
    assert found == [602601663, 348193722, 382440857, 1575555680]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31 - 1), st.text(max_size=9))
def test_a_derived_seed_fits_31_bits_and_differs_by_purpose(seed: int, purpose: str) -> None:
    assert 0 <= derived_seed(seed, purpose) < 2**31
    assert derived_seed(seed, purpose) != derived_seed(seed, purpose + "'")
