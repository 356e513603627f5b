"""Faults that were: each test failed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from train_job import VECTOR, MemoryLink, assert_same, batch_of, faces, job_of, trainer_of, training_data
from train_store import data_of, layer_of

from ferstore.errors import CorruptionError, InputError
from ferstore.train.head_layers import BatchNorm, StepContext, step_context
from ferstore.train.losses import loss_of
from ferstore.train.order import Order
from ferstore.train.reader import Reader
from ferstore.train.recipe import PAPER, recipe_of
from ferstore.train.request import TrainRequest, canonical, request_of
from ferstore.train.state import read_state, write_state
from ferstore.train.worker import work

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


def test_state_goes_on_in_a_process_that_has_made_other_optimizers() -> None:
    one, other = trainer_of(), trainer_of()
    one.step(0, batch_of({"pool_3": faces(LABELS, (VECTOR,))}))
    other.load_state(one.state())
    assert_same(one.state(), other.state())


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_focal_gradients_stay_finite_where_the_head_is_sure(gamma: float) -> None:
    logits = tf.constant([[30.0, 0, 0, 0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = loss_of(replace(PAPER, loss="focal", focal_gamma=gamma), logits, tf.constant([[1.0, 0, 0, 0]]))
    assert np.isfinite(tape.gradient(losses, logits)).all()


def test_moving_moments_are_float32_in_low_precision_too() -> None:
    layer = BatchNorm(name="norm", dtype="mixed_bfloat16")
    values = tf.cast(np.random.default_rng(0).normal(3, 1.3, size=(64, 6)), tf.bfloat16)
    layer.build(values.shape)
    with step_context(StepContext(None, None, None, lambda sums: sums)):
        for _ in range(200):
            layer(values, training=True)
    known = tf.cast(values, tf.float32).numpy()
    np.testing.assert_allclose(layer.mean.numpy(), known.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(layer.variance.numpy(), known.var(axis=0), rtol=1e-3)


@pytest.mark.parametrize("layer", ["mixed_10", "pool_3"])
def test_a_cut_file_of_features_is_a_corruption(layer: str, tmp_path: Path) -> None:
    shape = (8, 8, 6) if layer == "mixed_10" else (VECTOR,)
    data = training_data(tmp_path, {layer: faces(LABELS, shape)}, LABELS, ["train"] * 7 + ["test"])
    path = tmp_path / f"{layer}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptionError):
        work(job_of(tmp_path, data, "sub_deep" if layer == "mixed_10" else "deepest", PAPER), MemoryLink())


def test_a_validation_reads_while_updates_are_read_ahead(tmp_path: Path) -> None:
    values = np.arange(128 * 256, dtype=np.float32).reshape(128, 4, 4, 16) % 2048
    layer = layer_of(tmp_path, "mixed_10", values, group=4, file=64)
    data = data_of([layer], ["train", "train", "validation", "test"] * 32)
    train, validation = data.examples("train"), data.examples("validation")
    reader = Reader([layer], np.arange(128))
    stream = reader.stream(Order(data.groups(train), 16, 0, 1), train, 0, 0)
    for _ in range(100):
        next(stream)
        for batch in reader.once(validation, 16):
            assert (batch.features["mixed_10"] == values[batch.take.examples]).all()
    stream.close()  # type: ignore[attr-defined]


def test_jointly_with_its_own_layers_named_is_the_same_request() -> None:
    asked = TrainRequest("fusion", "p", joint=True, layers=("mixed_10", "pool_3"))
    assert asked.settings == "joint"
    assert request_of(asked.arguments()).arguments() == asked.arguments()
    assert canonical(request_of(asked.arguments())) == canonical(asked)


def test_a_recipe_of_another_name_and_a_fusion_with_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="recipe 'mine'"):
        TrainRequest("deepest", "p", recipe=replace(PAPER, name="mine")).check()
    concat = recipe_of("paper", ["fusion=concat"])
    with pytest.raises(InputError, match="fusion of conv4 with nothing"):
        TrainRequest("fusion", "p", joint=True, layers=("mixed_10",), recipe=concat).check()


def test_digests_that_are_no_object_are_a_corruption(tmp_path: Path) -> None:
    write_state(tmp_path, {}, {})
    (tmp_path / "digests.json").write_text("[]")
    with pytest.raises(CorruptionError):
        read_state(tmp_path)
