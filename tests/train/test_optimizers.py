"""Adam in one pass is Keras's Adam: the same weights to rounding, and slots that either can go on from."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import train_job  # noqa: F401  configures TensorFlow before it runs

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from ferstore.train.optimizers import Adam, AdamW

SHAPE = (7, 5)


def gradients(count: int) -> list[Any]:
    random = np.random.default_rng(0)
    return [tf.constant(random.normal(size=SHAPE) * 10.0 ** random.integers(-4, 3), tf.float32) for _ in range(count)]


def variable() -> Any:
    return keras.Variable(np.random.default_rng(1).normal(size=SHAPE).astype(np.float32), name="kernel")


def apply(optimizer: Any, weight: Any, gradient: Any) -> None:
    optimizer.apply([gradient], [weight])


@pytest.mark.parametrize(
    ("ours", "keras_own"),
    [
        (lambda: Adam(0.01, name="adam"), lambda: keras.optimizers.Adam(0.01, name="adam")),
        (
            lambda: AdamW(0.01, weight_decay=0.1, beta_1=0.8, epsilon=1e-5, name="adam"),
            lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, beta_1=0.8, epsilon=1e-5, name="adam"),
        ),
    ],
    ids=["Adam", "AdamW"],
)
def test_one_pass_updates_as_keras_does_and_keeps_the_same_slots(ours: Any, keras_own: Any) -> None:
    weights, optimizers = (variable(), variable()), (ours(), keras_own())
    for weight, optimizer in zip(weights, optimizers, strict=True):
        optimizer.build([weight])
        update = tf.function(partial(apply, optimizer, weight), autograph=False)
        for gradient in gradients(20):
            update(gradient)
    mine, theirs = ({v.path: v.numpy() for v in optimizer.variables} for optimizer in optimizers)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        # 1 - 0.999 is taken in float32 by one, in float64 by the other; the bias correction takes it out again.
        np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(weights[0].numpy(), weights[1].numpy(), rtol=1e-5, atol=1e-6)
