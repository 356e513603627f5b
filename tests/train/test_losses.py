"""Losses against their formulas in NumPy, with targets that are one class and with targets that are shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import train_job  # noqa: F401  configures TensorFlow before it runs
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorflow as tf  # isort: skip
from ferstore.train.losses import loss_of
from ferstore.train.recipe import PAPER, Recipe

Wide = npt.NDArray[np.float64]
FOCAL = replace(PAPER, loss="focal")
MARGIN = replace(PAPER, loss="margin")
seeds = st.integers(0, 2**32 - 1)


def logits_of(seed: int, count: int = 6, classes: int = 4, size: float = 3) -> Any:
    return (size * np.random.default_rng(seed).normal(size=(count, classes))).astype(np.float32)


def targets_of(seed: int, count: int = 6, classes: int = 4, *, soft: bool) -> Any:
    random = np.random.default_rng(seed + 1)
    if soft:
        return random.dirichlet(np.ones(classes), size=count).astype(np.float32)
    return np.eye(classes, dtype=np.float32)[random.integers(0, classes, count)]


def found(recipe: Recipe, logits: Any, targets: Any) -> Any:
    losses = loss_of(recipe, tf.constant(logits), tf.constant(targets)).numpy()
    assert losses.shape == (len(logits),)
    assert losses.dtype == np.float32
    return losses


def log_shares(logits: Any) -> Wide:
    wide = np.asarray(logits, np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


@settings(deadline=None, max_examples=25)
@given(seeds, st.booleans(), st.sampled_from([0.0, 0.1, 0.99]))
def test_cross_entropy_with_smoothed_targets(seed: int, soft: bool, smoothing: float) -> None:
    logits, targets = logits_of(seed), targets_of(seed, soft=soft)
    smooth = (1 - smoothing) * targets.astype(np.float64) + smoothing / 4
    expected = -(smooth * log_shares(logits)).sum(axis=1)
    np.testing.assert_allclose(
        found(replace(PAPER, label_smoothing=smoothing), logits, targets), expected, rtol=1e-4, atol=1e-5
    )


@settings(deadline=None, max_examples=25)
@given(seeds, st.booleans(), st.sampled_from([0.5, 1.0, 2.0, 5.0]), st.sampled_from([0.0, 0.1]))
def test_focal_loss_weighs_each_class_down_by_how_sure_it_is(
    seed: int, soft: bool, gamma: float, smoothing: float
) -> None:
    logits, targets = logits_of(seed), targets_of(seed, soft=soft)
    smooth, logs = (1 - smoothing) * targets.astype(np.float64) + smoothing / 4, log_shares(logits)
    expected = -(smooth * (1 - np.exp(logs)) ** gamma * logs).sum(axis=1)
    recipe = replace(FOCAL, focal_gamma=gamma, label_smoothing=smoothing)
    np.testing.assert_allclose(found(recipe, logits, targets), expected, rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(seeds, st.booleans(), st.sampled_from([0.0, 0.1]))
def test_focal_loss_without_gamma_and_a_margin_of_none_are_cross_entropy(
    seed: int, soft: bool, smoothing: float
) -> None:
    targets = targets_of(seed, soft=soft)
    cosines = np.tanh(logits_of(seed)).astype(np.float32)
    smooth = replace(PAPER, label_smoothing=smoothing)
    for recipe, logits in (
        (replace(FOCAL, focal_gamma=0.0, label_smoothing=smoothing), logits_of(seed)),
        (replace(MARGIN, margin=0.0, label_smoothing=smoothing), 16 * cosines),
    ):
        np.testing.assert_allclose(found(recipe, logits, targets), found(smooth, logits, targets), rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(seeds, st.booleans(), st.sampled_from([0.1, 0.5, 1.5]), st.sampled_from([1.0, 16.0, 64.0]))
def test_a_margin_turns_the_likeliest_class_away(seed: int, soft: bool, margin: float, scale: float) -> None:
    targets = targets_of(seed, soft=soft)
    cosines = 0.9 * np.tanh(logits_of(seed)).astype(np.float64)
    rows, chosen = np.arange(6), targets.argmax(axis=1)
    turned = cosines.copy()
    turned[rows, chosen] = np.cos(np.minimum(np.arccos(cosines[rows, chosen]) + margin, np.pi))
    expected = -(targets * log_shares(scale * turned)).sum(axis=1)
    recipe = replace(MARGIN, margin=margin, scale=scale)
    given_logits = (scale * cosines).astype(np.float32)
    np.testing.assert_allclose(found(recipe, given_logits, targets), expected, rtol=2e-3, atol=2e-3)


def test_a_margin_raises_the_loss_of_hard_targets() -> None:
    cosines = np.tanh(logits_of(5, count=200, size=1)).astype(np.float32)
    targets = targets_of(5, count=200, soft=False)
    losses = [found(replace(MARGIN, margin=m, scale=4.0), 4 * cosines, targets) for m in (0.0, 0.2, 0.5)]
    open_angle = (cosines * targets).sum(axis=1) > np.cos(np.pi - 0.5)  # beyond, it already points the other way
    assert (losses[1] > losses[0])[open_angle].all()
    assert (losses[2] > losses[1])[open_angle].all()


def test_the_loss_of_a_known_case() -> None:
    even = np.zeros((1, 4), np.float32)
    target = np.eye(4, dtype=np.float32)[:1]
    assert found(PAPER, even, target)[0] == pytest.approx(np.log(4))
    assert found(FOCAL, even, target)[0] == pytest.approx(0.75**2 * np.log(4))
    assert found(replace(MARGIN, margin=np.pi / 3, scale=2), np.ones((1, 4), np.float32), target)[0] == pytest.approx(
        # cosine 0.5 is at 60 degrees; the margin turns it to 120, where the cosine is -0.5
        np.log(np.exp(-1) + 3 * np.e) + 1,
        rel=1e-5,
    )


SATURATED = np.array([[1e4, 0, 0, 0], [0, 1e4, 0, 0], [-1e4, -1e4, 0, 0], [30, 0, 0, 0], [0, 0, 0, 0]], np.float32)
EDGES = 16 * np.array([[1, -1, 0, 0], [-1, 1, 0, 0], [1, 1, 1, 1], [-1, -1, -1, -1], [0, 0, 0, 0]], np.float32)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("recipe", "logits"),
    [
        (PAPER, SATURATED),
        (replace(PAPER, label_smoothing=0.1), SATURATED),
        (FOCAL, SATURATED),
        (replace(FOCAL, focal_gamma=1.0), SATURATED),
        (replace(FOCAL, focal_gamma=10.0), SATURATED),
        (MARGIN, EDGES),
        (replace(MARGIN, margin=0.0), EDGES),
        (replace(MARGIN, margin=1.5), EDGES),
        (MARGIN, EDGES * np.float32(1.000001)),
    ],
)
def test_losses_and_gradients_stay_finite_where_the_head_is_sure(recipe: Recipe, logits: Any, soft: bool) -> None:
    given_logits, targets = tf.constant(logits), tf.constant(targets_of(0, count=5, soft=soft))
    with tf.GradientTape() as tape:
        tape.watch(given_logits)
        losses = loss_of(recipe, given_logits, targets)
    assert np.isfinite(losses).all()
    assert np.isfinite(tape.gradient(losses, given_logits)).all()
