"""Layers of the heads: Keras's own where it has them, and the same however a batch is spread over workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import train_job  # noqa: F401  configures TensorFlow before it runs
from hypothesis import given, settings
from hypothesis import strategies as st

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from ferstore.train.head_layers import BatchNorm, Cosine, Dropout, PatchConv, Standardise, StepContext, step_context


def alone(sums: Any) -> Any:
    return sums


def context(
    *, seed: int = 1, first: int = 0, count: int = 8, batch: int = 8, total: Callable[[Any], Any] = alone
) -> Any:
    positions = tf.range(first, first + count)
    return step_context(StepContext(tf.constant([7, seed]), positions, tf.constant(batch), total))


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gradients(layer: Any, maps: Any, towards: Any) -> list[Any]:
    given_maps = tf.constant(maps)
    with tf.GradientTape() as tape:
        tape.watch(given_maps)
        loss = tf.reduce_sum(layer(given_maps) * towards)
    variables = [variable.value for variable in layer.trainable_variables]
    return [gradient.numpy() for gradient in tape.gradient(loss, [given_maps, *variables])]


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [(1, 1, 1), (1, 4, 4), (2, 2, 2), (2, 5, 3), (3, 8, 8), (3, 3, 6)]
)
def test_a_patch_convolution_is_that_of_keras_forward_and_backward(size: int, rows: int, columns: int) -> None:
    maps = noise(4, rows, columns, 5)
    ours = PatchConv(7, size, seed=3, name="ours")
    ours.build(maps.shape)
    theirs = keras.layers.Conv2D(7, size)
    theirs.build(maps.shape)
    ours.set_weights([ours.kernel.numpy(), noise(7, seed=2)])
    theirs.set_weights(ours.get_weights())
    expected = theirs(maps)
    assert ours(maps).shape == expected.shape == ours.compute_output_shape(maps.shape)
    np.testing.assert_allclose(ours(maps), expected, rtol=1e-5, atol=1e-5)
    towards = noise(*expected.shape, seed=1)
    for one, other in zip(gradients(ours, maps, towards), gradients(theirs, maps, towards), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("initializer", "keras_own"),
    [("glorot_uniform", keras.initializers.GlorotUniform), ("he_normal", keras.initializers.HeNormal)],
)
def test_a_patch_convolution_begins_with_the_weights_of_its_seed(initializer: str, keras_own: Any) -> None:
    def begun(seed: int) -> Any:
        layer = PatchConv(7, 3, seed=seed, name="ours", initializer=initializer)
        layer.build((None, 8, 8, 5))
        assert not layer.bias.numpy().any()
        return layer.kernel.numpy()

    np.testing.assert_array_equal(begun(3), keras_own(seed=3)((3, 3, 5, 7)))
    assert (begun(3) != begun(4)).any()


def test_a_patch_convolution_without_bias_is_the_one_with_a_bias_of_zero() -> None:
    maps = noise(2, 4, 4, 3)
    bare, zero = (PatchConv(5, 2, seed=3, name="ours", bias=bias) for bias in (False, True))
    np.testing.assert_array_equal(bare(maps), zero(maps))
    assert [variable.name for variable in bare.variables] == ["kernel"]


def test_standardised_values_are_less_their_mean_over_their_deviation() -> None:
    layer = Standardise(name="standardised")
    layer.build((None, 4))
    layer.set_weights([np.array([1, 2, 3, 4], np.float32), np.array([2, 4, 1, 0.5], np.float32)])
    assert not layer.trainable_variables
    np.testing.assert_array_equal(layer(np.full((1, 2, 2, 4), 5, np.float32)), np.full((1, 2, 2, 4), [2, 0.75, 2, 2]))


@pytest.mark.parametrize("shape", [(32, 5), (8, 3, 4, 5)])
def test_a_batch_is_normalised_over_examples_and_positions(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(name="norm")
    values = 3 + 2 * noise(*shape)
    with context():
        found = layer(values, training=True).numpy().reshape(-1, 5)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(axis=0), 1, atol=2e-3)  # less epsilon
    flat = values.reshape(-1, 5)
    np.testing.assert_allclose(layer.mean.numpy(), 0.1 * flat.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(layer.variance.numpy(), 0.9 + 0.1 * flat.var(axis=0), rtol=1e-4)


def test_scale_and_shift_are_applied_after_the_normalisation() -> None:
    values = noise(32, 2)
    plain, scaled = BatchNorm(name="plain"), BatchNorm(name="scaled")
    scaled.build(values.shape)
    scaled.set_weights([np.array([2, 3], np.float32), np.array([5, -1], np.float32), *scaled.get_weights()[2:]])
    with context():
        expected = plain(values, training=True).numpy() * [2, 3] + [5, -1]
        np.testing.assert_allclose(scaled(values, training=True), expected, atol=1e-5)


def test_without_training_the_moving_moments_are_used_and_stay() -> None:
    layer = BatchNorm(name="norm")
    layer.build((None, 2))
    mean, variance = np.array([1, -2], np.float32), np.array([4, 0.25], np.float32)
    layer.set_weights([*layer.get_weights()[:2], mean, variance])
    values = noise(6, 2)
    expected = (values - mean) / np.sqrt(variance + BatchNorm.EPSILON)
    np.testing.assert_allclose(layer(values), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.mean.numpy(), mean)
    np.testing.assert_array_equal(layer.variance.numpy(), variance)


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_two_workers_normalise_as_one_does(cut: int) -> None:
    values = 1 + noise(16, 2, 2, 3)
    whole = BatchNorm(name="whole")
    with context():
        expected = whole(values, training=True).numpy()
    sums: list[Any] = []
    for half in (values[:cut], values[cut:]):
        with context(total=lambda mine: sums.append(mine) or mine):
            BatchNorm(name="heard")(half, training=True)
    for part, other, place in ((values[:cut], sums[1], slice(cut)), (values[cut:], sums[0], slice(cut, None))):
        layer = BatchNorm(name="half")
        with context(total=lambda mine, other=other: mine + other):
            np.testing.assert_allclose(layer(part, training=True), expected[place], atol=1e-5)
        np.testing.assert_allclose(layer.mean.numpy(), whole.mean.numpy(), rtol=1e-5)
        np.testing.assert_allclose(layer.variance.numpy(), whole.variance.numpy(), rtol=1e-5)


def test_batch_normalisation_has_the_gradients_of_keras() -> None:
    values, towards = 1 + 2 * noise(16, 3), noise(16, 3, seed=1)
    ours, theirs = BatchNorm(name="ours"), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3)
    given_values = tf.constant(values)
    found = []
    for layer in (ours, theirs):
        layer.build(values.shape)
        with context(), tf.GradientTape() as tape:
            tape.watch(given_values)
            loss = tf.reduce_sum(layer(given_values, training=True) * towards)
        found.append(tape.gradient(loss, [given_values, *(v.value for v in layer.trainable_variables)]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def masked(values: Any, *, rate: float = 0.5, layer_seed: int = 0, **where: Any) -> Any:
    with context(**where):
        return Dropout(rate, seed=layer_seed, name="dropout")(values, training=True).numpy()


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 24), st.data(), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_workers_leave_out_what_one_would(batch: int, chance: st.DataObject, seed: int, layer_seed: int) -> None:
    cut = chance.draw(st.integers(1, batch - 1))
    values = 1 + np.abs(noise(batch, 6))
    same: dict[str, Any] = {"seed": seed, "layer_seed": layer_seed, "batch": batch}
    whole = masked(values, count=batch, **same)
    halves = [
        masked(values[:cut], count=cut, **same),
        masked(values[cut:], first=cut, count=batch - cut, **same),
    ]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_another_update_layer_or_place_has_another_mask() -> None:
    ones = np.ones((8, 64), np.float32)
    masks = [masked(ones), masked(ones, seed=2), masked(ones, layer_seed=1), masked(ones, first=8, batch=16)]
    assert all((one != other).any() for at, one in enumerate(masks) for other in masks[:at])
    assert len(np.unique(masks[0], axis=0)) == 8
    np.testing.assert_array_equal(masked(ones), masks[0])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_left_out_and_the_rest_makes_up_for_it(rate: float) -> None:
    found = masked(np.ones((100, 1000), np.float32), rate=rate, count=100, batch=100)
    np.testing.assert_allclose(np.unique(found), [0, 1 / (1 - rate)], rtol=1e-6)
    assert abs((found == 0).mean() - rate) < 0.01


def test_nothing_is_left_out_without_training_or_without_a_rate() -> None:
    values = noise(8, 6)
    np.testing.assert_array_equal(Dropout(0.5, seed=0, name="dropout")(values), values)
    np.testing.assert_array_equal(masked(values, rate=0), values)


def test_cosines_are_scaled_and_know_no_lengths() -> None:
    layer = Cosine(3, scale=16, seed=0, name="cosine")
    layer.build((None, 2))
    layer.set_weights([np.array([[3, 0, -1], [0, 0.5, 0]], np.float32)])
    values = np.array([[2, 0], [0, 7], [1, 1]], np.float32)
    half = np.sqrt(0.5)
    expected = 16 * np.array([[1, 0, -1], [0, 1, 0], [half, half, -half]])
    np.testing.assert_allclose(layer(values), expected, atol=1e-5)
    np.testing.assert_allclose(layer(1000 * values), layer(values), atol=1e-5)
    assert np.isfinite(layer(np.zeros((1, 2), np.float32))).all()


def test_the_context_of_a_step_ends_with_it_even_after_an_error() -> None:
    from ferstore.train import head_layers

    def fail() -> None:
        with context():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not head_layers._current
