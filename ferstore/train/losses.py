"""Losses on logits, one value an example."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ferstore.train.recipe import Recipe


def loss_of(recipe: Recipe, logits: Any, targets: Any) -> Any:
    """The recipe's training loss of each example.

    Args:
        recipe: its loss, label_smoothing, focal_gamma, margin and scale.
        logits: float32 (n, classes); scaled cosines for ``margin``.
        targets: float32 (n, classes), each row summing to 1.

    Returns:
        float32 (n,), in nats.
    """
    if recipe.loss == "margin":
        logits = _with_margin(logits, targets, recipe.margin, recipe.scale)
    if recipe.label_smoothing:
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / targets.shape[-1]
    log_shares = tf.nn.log_softmax(logits)
    if recipe.loss == "focal":
        # Lin et al. 2017, equation 4, summed over the classes of a soft target.
        missing = tf.maximum(1 - tf.exp(log_shares), 1e-7)  # at 0 a power below 1 has no derivative
        return -tf.reduce_sum(targets * missing**recipe.focal_gamma * log_shares, axis=-1)
    return -tf.reduce_sum(targets * log_shares, axis=-1)


def _with_margin(logits: Any, targets: Any, margin: float, scale: float) -> Any:
    """Deng et al. 2019, equation 3: the angle to the likeliest target class grows by the margin, up to pi."""
    cosine = tf.clip_by_value(logits / scale, -1 + 1e-6, 1 - 1e-6)
    angle = tf.minimum(tf.acos(cosine) + margin, 3.14159)
    chosen = tf.one_hot(tf.argmax(targets, axis=-1), targets.shape[-1])
    return tf.where(chosen > 0, scale * tf.cos(angle), logits)
