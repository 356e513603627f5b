"""Layers of the heads that Keras has not as they are needed: exact for any number of workers, and fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(frozen=True, slots=True)
class StepContext:
    """What layers need to know of an update so that it does not depend on how its batch is spread over workers.

    Attributes:
        seed: int32 (2,), another one for every update.
        positions: int32 (n,), places of these examples in the whole batch.
        batch: int32, size of the whole batch.
        total: sums a tensor over all workers.
    """

    seed: Any
    positions: Any
    batch: Any
    total: Callable[[Any], Any]


_current: list[StepContext] = []


@contextmanager
def step_context(context: StepContext) -> Iterator[None]:
    """Layers called with ``training=True`` in here see ``context``."""
    _current.append(context)
    try:
        yield
    finally:
        _current.pop()


class PatchConv(keras.layers.Layer):  # type: ignore[misc]
    """A k x k convolution, stride 1, no padding, as one matrix product over gathered patches.

    Where batch normalisation follows, which takes any constant away again, ``bias`` is left out.

    On maps as small as 8 x 8 that is faster on a CPU than ``keras.layers.Conv2D``, whose kernel and bias it has:
    (k, k, channels, filters) and (filters,).
    """

    def __init__(
        self, filters: int, size: int, *, seed: int, name: str, initializer: str = "glorot_uniform", bias: bool = True
    ) -> None:
        super().__init__(name=name)
        self.filters = filters
        self.size = size
        self._initializer = _seeded(initializer, seed)
        self._bias = bias

    def build(self, input_shape: Any) -> None:
        """Make kernel and bias."""
        shape = (self.size, self.size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self._initializer)
        if self._bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, maps: Any) -> Any:
        """(n, rows, columns, channels) to (n, rows - k + 1, columns - k + 1, filters)."""
        rows, columns = maps.shape[1] - self.size + 1, maps.shape[2] - self.size + 1
        shifts = [(row, column) for row in range(self.size) for column in range(self.size)]
        patches = tf.concat([maps[:, r : r + rows, c : c + columns, :] for r, c in shifts], axis=-1)
        kernel = tf.reshape(self.kernel, (-1, self.filters))
        flat = tf.matmul(tf.reshape(patches, (-1, kernel.shape[0])), kernel)
        flat = tf.nn.bias_add(flat, self.bias) if self._bias else flat
        return tf.reshape(flat, (-1, rows, columns, self.filters))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Shape of what `call` gives."""
        rows, columns = input_shape[1] - self.size + 1, input_shape[2] - self.size + 1
        return (input_shape[0], rows, columns, self.filters)


class Standardise(keras.layers.Layer):  # type: ignore[misc]
    """(x - mean) / deviation, a channel; both are set once, from train."""

    def build(self, input_shape: Any) -> None:
        """Make the two constants."""
        channels = (input_shape[-1],)
        self.mean = self.add_weight(name="mean", shape=channels, initializer="zeros", trainable=False)
        self.deviation = self.add_weight(name="deviation", shape=channels, initializer="ones", trainable=False)

    def call(self, values: Any) -> Any:
        """The same shape."""
        return (values - self.mean) / self.deviation


class BatchNorm(keras.layers.Layer):  # type: ignore[misc]
    """Batch normalisation over the whole batch, however it is spread over workers (Ioffe and Szegedy 2015)."""

    MOMENTUM = 0.9
    EPSILON = 1e-3

    def build(self, input_shape: Any) -> None:
        """Make scale, shift and the moving moments."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        kept = {"shape": shape, "trainable": False, "autocast": False}  # rounded at every update they would drift
        self.mean = self.add_weight(name="moving_mean", initializer="zeros", **kept)
        self.variance = self.add_weight(name="moving_variance", initializer="ones", **kept)

    def call(self, values: Any, training: bool = False) -> Any:
        """The same shape."""
        wide = tf.cast(values, tf.float32)
        mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        if training:
            axes = list(range(len(wide.shape) - 1))
            count = tf.cast(tf.size(wide) // wide.shape[-1], tf.float32)
            near = wide - mean  # squares of what is far from 0 would lose the variance; the mean so far is near enough
            sums = tf.stack([tf.reduce_sum(near, axes), tf.reduce_sum(near * near, axes), count + 0 * mean])
            sums = _current[-1].total(sums)
            off = sums[0] / sums[2]
            batch_mean = mean + off
            batch_variance = tf.maximum(sums[1] / sums[2] - off**2, 0)
            self.mean.assign(self.MOMENTUM * mean + (1 - self.MOMENTUM) * batch_mean)
            self.variance.assign(self.MOMENTUM * variance + (1 - self.MOMENTUM) * batch_variance)
            mean, variance = batch_mean, batch_variance
        gamma, beta = tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32)
        scale = gamma * tf.math.rsqrt(variance + self.EPSILON)
        return tf.cast(wide * scale + (beta - mean * scale), values.dtype)


class Dropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose mask depends on the update and the example's place in the whole batch, and on nothing else."""

    def __init__(self, rate: float, *, seed: int, name: str) -> None:
        super().__init__(name=name)
        self.rate = rate
        self.seed = seed

    def call(self, values: Any, training: bool = False) -> Any:
        """(n, values), the same shape."""
        if not training or not self.rate:
            return values
        context = _current[-1]
        seed = context.seed + tf.constant([self.seed, 0], tf.int32)
        noise = tf.random.stateless_uniform((context.batch, values.shape[-1]), seed)
        kept = tf.cast(tf.gather(noise, context.positions) >= self.rate, values.dtype)
        return values * kept / tf.cast(1 - self.rate, values.dtype)


class Cosine(keras.layers.Layer):  # type: ignore[misc]
    """Scaled cosines between an input and one direction a class: the last layer of an angular margin."""

    def __init__(self, classes: int, *, scale: float, seed: int, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.classes = classes
        self.scale = scale
        self._initializer = _seeded("glorot_uniform", seed)

    def build(self, input_shape: Any) -> None:
        """Make the directions."""
        shape = (input_shape[-1], self.classes)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self._initializer)

    def call(self, values: Any) -> Any:
        """(n, values) to float32 (n, classes), between -scale and scale."""
        directions = tf.math.l2_normalize(tf.convert_to_tensor(self.kernel), axis=0)
        return self.scale * tf.matmul(tf.math.l2_normalize(values, axis=1), directions)


def _seeded(name: str, seed: int) -> Any:
    kinds = {"glorot_uniform": keras.initializers.GlorotUniform, "he_normal": keras.initializers.HeNormal}
    return kinds[name](seed=seed)
