"""The heads are the paper's: Table 1 to the parameter, softmax on the deepest feature, and the fusion of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import train_job  # noqa: F401  configures TensorFlow before it runs

import keras  # isort: skip
from ferstore.train.conv4 import CONV4_VALUES
from ferstore.train.head_layers import BatchNorm, Cosine, Dropout, PatchConv
from ferstore.train.heads import build
from ferstore.train.job import HeadSpec
from ferstore.train.moments import Moments
from ferstore.train.recipe import MODERN, PAPER, Recipe

SMALL_MAP = {"mixed_10": (8, 8, 6)}
CONVOLUTIONS = [f"conv{number}" for number in range(1, 8)]


def head(experiment: Any, shapes: Any, recipe: Recipe = PAPER, *, classes: int = 3, **spec: Any) -> Any:
    return build(HeadSpec(experiment, shapes, classes, spec.pop("width", 4), recipe, **spec))


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes_after(model: Any) -> list[tuple[int, ...]]:
    return [tuple(model.get_layer(name).output.shape[1:]) for name in CONVOLUTIONS]


@pytest.mark.parametrize(("classes", "parameters"), [(7, 132_658_183), (8, 132_658_696), (10, 132_659_722)])
def test_table_1_at_full_width(classes: int, parameters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.initializers, "GlorotUniform", lambda seed: keras.initializers.Zeros())  # drawn in 5 s
    model = build(HeadSpec("sub_deep", {"mixed_10": (8, 8, 2048)}, classes))
    assert model.count_params() == parameters
    assert shapes_after(model) == [
        (6, 6, 2048),
        (4, 4, 2048),
        (2, 2, 2048),
        (1, 1, 2048),
        (1, 1, 1024),
        (1, 1, 512),
        (1, 1, classes),
    ]
    assert [model.get_layer(name).size for name in CONVOLUTIONS] == [3, 3, 3, 2, 1, 1, 1]
    assert all(variable.trainable for variable in model.variables)
    assert model.output["conv4"].shape == (None, 2048)
    assert model.output["logits"].shape == (None, classes)


def test_a_narrow_head_narrows_conv1_to_conv3_only() -> None:
    model = head("sub_deep", SMALL_MAP, classes=7, width=5)
    depths = [shape[-1] for shape in shapes_after(model)]
    assert depths == [5, 5, 5, CONV4_VALUES, 1024, 512, 7]


def test_table_1_is_keras_convolutions_with_relu_between_and_none_after_the_last() -> None:
    model = head("sub_deep", SMALL_MAP)
    maps = noise(2, 8, 8, 6)
    value = maps
    for name in CONVOLUTIONS:
        ours = model.get_layer(name)
        theirs = keras.layers.Conv2D(ours.filters, ours.size, activation=None if name == "conv7" else "relu")
        theirs.build(value.shape)
        theirs.set_weights(ours.get_weights())
        value = theirs(value)
        if name == "conv4":
            conv4 = value
    found = model({"mixed_10": maps})
    np.testing.assert_allclose(found["conv4"], np.reshape(conv4, (2, 2048)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["logits"], np.reshape(value, (2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), [("mixed_8", (8, 8, 1280)), ("mixed_7", (17, 17, 768))])
def test_maps_of_other_layers_fit(layer: str, shape: tuple[int, ...]) -> None:
    model = head("sub_deep", {layer: shape}, width=2)
    found = model({layer: noise(2, *shape)})
    assert (found["logits"].shape, found["conv4"].shape) == ((2, 3), (2, CONV4_VALUES))
    assert model.get_layer("conv1").kernel.shape == (3, 3, shape[-1], 2)


def test_conv4_of_a_larger_map_is_its_mean_over_the_positions() -> None:
    model = head("sub_deep", {"mixed_7": (10, 9, 3)})
    whole = keras.Model(model.input, model.get_layer("conv4_relu").output)
    maps = {"mixed_7": noise(2, 10, 9, 3)}
    assert whole(maps).shape == (2, 3, 2, CONV4_VALUES)
    np.testing.assert_allclose(model(maps)["conv4"], np.mean(whole(maps), axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_the_deepest_head_of_the_paper_is_one_softmax_layer() -> None:
    model = head("deepest", {"pool_3": (2048,)}, classes=7)
    assert model.count_params() == 2048 * 7 + 7
    assert sorted(variable.path for variable in model.variables) == ["softmax/bias", "softmax/kernel"]
    kernel, bias = model.get_layer("softmax").get_weights()
    vectors = noise(3, 2048)
    found = model({"pool_3": vectors})
    assert list(found) == ["logits"]
    np.testing.assert_allclose(found["logits"], vectors @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_several_vectors_are_joined_in_the_order_they_are_named() -> None:
    model = head("deepest", {"pool_3": (4,), "mixed_8_mean": (3,)})
    kernel, _ = model.get_layer("softmax").get_weights()
    first, second = noise(2, 4), noise(2, 3, seed=1)
    found = model({"mixed_8_mean": second, "pool_3": first})["logits"]
    np.testing.assert_allclose(found, np.concatenate([first, second], axis=1) @ kernel, rtol=1e-5, atol=1e-6)


def test_vectors_beside_a_map_join_conv4() -> None:
    model = head("sub_deep", {"mixed_10": (8, 8, 6), "mixed_8_mean": (20,)})
    assert model.get_layer("conv5").kernel.shape == (1, 1, CONV4_VALUES + 20, 1024)
    maps = noise(1, 8, 8, 6)
    one, other = (model({"mixed_10": maps, "mixed_8_mean": noise(1, 20, seed=seed)}) for seed in range(2))
    np.testing.assert_array_equal(one["conv4"], other["conv4"])
    assert (one["logits"].numpy() != other["logits"].numpy()).any()


FUSED = {"conv4": (CONV4_VALUES,), "pool_3": (CONV4_VALUES,)}


@pytest.mark.parametrize(
    ("fusion", "known"), [("sum", np.add), ("mean", lambda a, b: (a + b) / 2), ("max", np.maximum)]
)
def test_two_vectors_become_one_element_by_element(fusion: Any, known: Any) -> None:
    model = head("fusion", FUSED, replace(PAPER, fusion=fusion))
    conv4, pool_3 = noise(2, CONV4_VALUES), noise(2, CONV4_VALUES, seed=1)
    assert model.get_layer("fused").output.shape == (None, CONV4_VALUES)
    kernel, bias = model.get_layer("softmax").get_weights()
    assert kernel.shape == (CONV4_VALUES, 3)
    found = model({"conv4": conv4, "pool_3": pool_3})
    assert list(found) == ["logits"]
    np.testing.assert_allclose(found["logits"], known(conv4, pool_3) @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_concatenated_vectors_are_projected_to_as_many_values() -> None:
    model = head("fusion", {"conv4": (CONV4_VALUES,), "mixed_8_mean": (20,)}, replace(PAPER, fusion="concat"))
    project, softmax = (model.get_layer(name).get_weights() for name in ("project", "softmax"))
    assert project[0].shape == (CONV4_VALUES + 20, CONV4_VALUES)
    conv4, mean = noise(2, CONV4_VALUES), noise(2, 20, seed=1)
    joined = np.concatenate([conv4, mean], axis=1) @ project[0] + project[1]
    found = model({"conv4": conv4, "mixed_8_mean": mean})["logits"]
    np.testing.assert_allclose(found, joined @ softmax[0] + softmax[1], rtol=1e-3, atol=1e-3)


def test_a_joint_fusion_computes_conv4_and_hands_it_out() -> None:
    shapes = {"mixed_10": (8, 8, 6), "pool_3": (CONV4_VALUES,)}
    model = head("fusion", shapes)
    maps, pool_3 = noise(2, 8, 8, 6), noise(2, CONV4_VALUES, seed=1)
    found = model({"mixed_10": maps, "pool_3": pool_3})
    kernel, bias = model.get_layer("softmax").get_weights()
    np.testing.assert_allclose(found["logits"], (found["conv4"] + pool_3) @ kernel + bias, rtol=1e-4, atol=1e-4)
    alone = head("sub_deep", SMALL_MAP)
    for name in CONVOLUTIONS[:4]:
        alone.get_layer(name).set_weights(model.get_layer(name).get_weights())
    np.testing.assert_allclose(found["conv4"], alone({"mixed_10": maps})["conv4"], rtol=1e-5, atol=1e-6)


NORMED = replace(MODERN, batch_norm=True, hidden=16)


@pytest.mark.parametrize(
    ("experiment", "shapes", "recipe"),
    [
        ("deepest", {"pool_3": (8,)}, PAPER),
        ("deepest", {"pool_3": (8,)}, NORMED),
        ("deepest", {"pool_3": (8,)}, replace(NORMED, loss="margin")),
        ("sub_deep", SMALL_MAP, PAPER),
        ("sub_deep", SMALL_MAP, NORMED),
        ("fusion", FUSED, replace(PAPER, fusion="concat")),
    ],
)
def test_a_seed_is_its_first_weights(experiment: Any, shapes: Any, recipe: Recipe) -> None:
    one, again, other = (head(experiment, shapes, recipe, seed=seed) for seed in (1, 1, 2))
    for name, first, same, another in zip(
        (variable.path for variable in one.variables),
        one.get_weights(),
        again.get_weights(),
        other.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(first, same)
        if name.endswith("kernel"):
            assert (first != another).mean() > 0.99
            assert first.std() > 0


def test_layers_of_one_head_do_not_share_their_first_weights() -> None:
    model = head("sub_deep", SMALL_MAP)
    conv2, conv3 = (model.get_layer(name).get_weights()[0] for name in ("conv2", "conv3"))
    assert (conv2 != conv3).mean() > 0.99


def test_batch_norm_normalises_every_convolution_but_the_last_and_dropout_comes_before_the_classifier() -> None:
    model = head("sub_deep", SMALL_MAP, NORMED)
    assert [name for name in CONVOLUTIONS if f"{name}/bias" in {v.path for v in model.variables}] == ["conv7"]
    names = [layer.name for layer in model.layers if isinstance(layer, PatchConv | BatchNorm | Dropout)]
    expected = [name for number in range(1, 5) for name in (f"conv{number}", f"conv{number}_norm")]
    expected += ["conv4_dropout", "conv5", "conv5_norm", "conv6", "conv6_norm", "conv6_dropout", "conv7"]
    assert names == expected
    hidden = [layer.name for layer in head("deepest", {"pool_3": (8,)}, NORMED).layers[2:]]
    assert hidden == [
        "features_dropout",
        "hidden",
        "hidden_norm",
        "hidden_relu",
        "hidden_dropout",
        "softmax",
        "logits",
    ]


@pytest.mark.parametrize(
    ("experiment", "shapes"), [("deepest", {"pool_3": (8,)}), ("sub_deep", SMALL_MAP), ("fusion", FUSED)]
)
def test_with_a_margin_the_logits_are_scaled_cosines(experiment: Any, shapes: Any) -> None:
    recipe = replace(PAPER, loss="margin", scale=5.0)
    model = head(experiment, shapes, recipe)
    assert isinstance(model.get_layer("softmax"), Cosine)
    logits = model({name: noise(20, *shape) for name, shape in shapes.items()})["logits"].numpy()
    assert logits.shape == (20, 3)
    assert np.abs(logits).max() <= 5.0 + 1e-4
    assert np.abs(logits).max() > 0.01


@pytest.mark.parametrize(("layer", "shape"), [("pool_3", (6,)), ("mixed_10", (8, 8, 6))])
def test_inputs_are_standardised_with_the_moments_that_are_given(layer: str, shape: tuple[int, ...]) -> None:
    experiment: Any = "deepest" if len(shape) == 1 else "sub_deep"
    recipe = replace(PAPER, standardise=True)
    mean, deviation = 3 + np.arange(6, dtype=np.float32), 1 + np.arange(6, dtype=np.float32)
    spec = HeadSpec(experiment, {layer: shape}, 3, 4, recipe)
    model = build(spec, {layer: Moments(mean, deviation)})
    plain = head(experiment, {layer: shape})
    plain.set_weights([v.numpy() for v in model.variables if "standardised" not in v.path])
    values = 4 + noise(2, *shape)
    expected = plain({layer: (values - mean) / deviation})["logits"]
    np.testing.assert_allclose(model({layer: values})["logits"], expected, rtol=1e-4, atol=1e-5)
    assert [v.path for v in model.variables if not v.trainable] == [
        f"{layer}_standardised/mean",
        f"{layer}_standardised/deviation",
    ]


def test_moments_are_not_used_where_the_recipe_does_not_standardise() -> None:
    moments = {"pool_3": Moments(np.ones(8, np.float32), np.ones(8, np.float32))}
    model = build(HeadSpec("deepest", {"pool_3": (8,)}, 3), moments)
    assert len(model.variables) == 2


@pytest.mark.parametrize("experiment", ["deepest", "sub_deep"])
def test_low_precision_is_for_all_but_weights_and_logits(experiment: Any) -> None:
    shapes: Any = SMALL_MAP if experiment == "sub_deep" else {"pool_3": (8,)}
    model = head(experiment, shapes, precision="mixed_bfloat16")
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.output["logits"].dtype == "float32"
    assert model.get_layer("softmax" if experiment == "deepest" else "conv1").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"  # of other models in this process
