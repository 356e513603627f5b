"""Inputs are standardised by what train holds, as exactly as float64 can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_store import data_of, layer_of

from ferstore.train.moments import train_moments

PARTS = ["train", "validation", "train", "test", "train"] * 40
TRAIN = np.asarray(PARTS) == "train"


def features(shape: tuple[int, ...], *, seed: int = 0, views: int = 1) -> Any:
    """Channels with means and deviations of their own, and other parts far away from train."""
    random = np.random.default_rng(seed)
    means, deviations = random.normal(0, 20, shape[-1]), random.uniform(0.1, 5, shape[-1])
    found = means + deviations * random.normal(size=(views * len(PARTS), *shape))
    found[~np.tile(TRAIN, views)] += 1000
    return found.astype(np.float32)


@pytest.mark.parametrize("views", [("identity",), ("identity", "hflip")])
def test_moments_are_those_of_train_over_all_views_and_positions(tmp_path: Path, views: tuple[str, ...]) -> None:
    layers = {"pool_3": features((7,), views=len(views)), "mixed_10": features((3, 3, 4), seed=1, views=len(views))}
    data = data_of([layer_of(tmp_path, name, held) for name, held in layers.items()], PARTS, views=views)
    found = train_moments(data)
    assert set(found) == set(layers)
    for name, held in layers.items():
        stored = held.astype(np.float16) if name == "mixed_10" else held
        train = stored[np.tile(TRAIN, len(views))].astype(np.float64).reshape(-1, held.shape[-1])
        assert found[name].mean.dtype == found[name].deviation.dtype == np.float32
        assert found[name].mean == pytest.approx(train.mean(axis=0), rel=1e-6)
        assert found[name].deviation == pytest.approx(train.std(axis=0), rel=1e-6)


def test_a_small_deviation_about_a_large_mean_is_not_lost(tmp_path: Path) -> None:
    held = (5000 + np.random.default_rng(2).normal(0, 0.1, (len(PARTS), 3))).astype(np.float32)
    found = train_moments(data_of([layer_of(tmp_path, "pool_3", held)], PARTS))["pool_3"]
    assert found.deviation == pytest.approx(held[TRAIN].astype(np.float64).std(axis=0), rel=1e-4)


def test_values_whose_squares_float16_cannot_hold_have_moments(tmp_path: Path) -> None:
    held = np.random.default_rng(3).uniform(30_000, 60_000, (len(PARTS), 2, 2, 3)).astype(np.float32)
    found = train_moments(data_of([layer_of(tmp_path, "mixed_10", held)], PARTS))["mixed_10"]
    train = held.astype(np.float16)[TRAIN].astype(np.float64).reshape(-1, 3)
    assert found.mean == pytest.approx(train.mean(axis=0), rel=1e-6)
    assert found.deviation == pytest.approx(train.std(axis=0), rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.floats(-60_000, 60_000, width=16))
def test_a_channel_that_never_changes_in_train_gets_deviation_one(
    tmp_path_factory: pytest.TempPathFactory, constant: float
) -> None:
    held = features((4,))
    held[TRAIN, 1] = constant
    data = data_of([layer_of(tmp_path_factory.mktemp("layer"), "pool_3", held, group=50, file=200)], PARTS)
    found = train_moments(data)["pool_3"]
    assert found.deviation[1] == 1
    assert found.mean[1] == pytest.approx(constant, rel=1e-6)
    assert (found.deviation[[0, 2, 3]] != 1).all()
