"""What is seen inside the network is what Keras's own activations are, and the network is drawn as Keras built it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ferstore.errors import ExtractError
from ferstore.extract.weights import random_weights
from ferstore.network import activation_of, blocks_of, convolutions, merged

pytestmark = pytest.mark.inception

PICTURE = np.random.default_rng(7).integers(0, 256, (299, 299, 3), np.uint8)


def number(layer: Any) -> int:
    tail = layer.name.rpartition("_")[2]
    return int(tail) if tail.isdigit() else 0


@pytest.fixture(scope="module")
def plain() -> Any:
    """Keras's own model, without a top, filled with random weights; ferstore's builder has no part in it."""
    from ferstore.extract import inception

    inception.configure("float32", gpus=0, threads=None)
    keras = inception.keras  # type: ignore[attr-defined]
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
    layers = [[x for x in model.layers if isinstance(x, kind)] for kind in kinds(keras)]
    for convolution, norm, arrays in zip(
        sorted(layers[0], key=number), sorted(layers[1], key=number), random_weights(3), strict=True
    ):
        convolution.set_weights([arrays.kernel])
        norm.set_weights([arrays.beta, arrays.moving_mean, arrays.moving_variance])
    return model


def kinds(keras: Any) -> tuple[Any, ...]:
    return keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Activation


@pytest.fixture(scope="module")
def activations(plain: Any) -> list[NDArray[np.float32]]:
    """Keras's 94 activations of the picture and its mixed10, by the numbers of Keras's own names."""
    from ferstore.extract.inception import keras

    found = sorted((x for x in plain.layers if isinstance(x, keras.layers.Activation)), key=number)
    model = keras.Model(plain.input, [x.output for x in found] + [plain.get_layer("mixed10").output])
    scaled = keras.applications.inception_v3.preprocess_input(PICTURE[np.newaxis].astype(np.float32))
    return [np.asarray(output)[0] for output in model(scaled, training=False)]


@pytest.fixture(scope="module")
def network(plain: Any) -> Any:
    """Built after the plain one, so that Keras numbers its layers from 94 on."""
    from ferstore.extract.activations import OpenNetwork

    return OpenNetwork(random_weights(3))


@pytest.fixture(scope="module")
def seen(network: Any) -> Any:
    return network.look(PICTURE, ["mixed10"])


def test_a_fused_map_is_the_sum_over_the_channels_of_keras_own_activation(
    seen: Any, activations: list[NDArray[np.float32]]
) -> None:
    assert len(seen.fused) == len(activations) - 1 == 94
    for fused, activation in zip(seen.fused, activations, strict=False):
        assert fused.shape == activation.shape, fused.name
        whole = activation.sum(axis=-1, dtype=np.float64)
        np.testing.assert_allclose(fused.values, whole, rtol=1e-4, atol=1e-4 * whole.max(), err_msg=fused.name)


def test_the_first_channels_are_those_of_the_first_activation(
    seen: Any, activations: list[NDArray[np.float32]]
) -> None:
    assert seen.first.shape == (149, 149, 25)
    np.testing.assert_allclose(seen.first, activations[0][..., :25], rtol=1e-4, atol=1e-4)
    assert (seen.first >= 0).all()  # behind the ReLU
    assert (seen.first == 0).any()


def test_maps_asked_for_come_whole(seen: Any, activations: list[NDArray[np.float32]]) -> None:
    largest = activations[-1].max()
    np.testing.assert_allclose(seen.maps["mixed10"], activations[-1], rtol=1e-4, atol=1e-4 * largest)


def test_names_are_those_of_a_process_that_built_nothing_before(network: Any, seen: Any) -> None:
    expected = ["conv2d", *(f"conv2d_{n}" for n in range(1, 94))]
    assert [node.name for node in convolutions(network.nodes)] == expected
    assert [fused.name for fused in seen.fused] == expected
    assert activation_of(network.nodes, "conv2d_17").name == "activation_17"
    assert network.nodes[0].name == "input_layer"


def test_layers_have_the_weights_and_the_connections_that_keras_gave_them(network: Any, plain: Any) -> None:
    from ferstore.extract.inception import keras

    top = 2048 * 1000 + 1000
    assert sum(node.parameters for node in network.nodes) == plain.count_params() + top
    last = {node.name: node for node in network.nodes}
    assert last["mixed10"].inputs == ("activation_85", "mixed9_1", "concatenate_1", "activation_93")
    assert (last["mixed10"].shape, last["avg_pool"].shape) == ((8, 8, 2048), (2048,))
    assert last["conv2d"].detail == "3 × 3, stride 2"
    assert isinstance(plain.get_layer("mixed10"), keras.layers.Concatenate)


def test_blocks_hold_each_layer_once_and_end_in_what_they_are_called_after(network: Any) -> None:
    blocks = blocks_of(network.nodes)
    counts = Counter(blocks[node.name] for node in convolutions(network.nodes))
    assert list(counts.values()) == [5, 7, 7, 7, 4, 10, 10, 10, 10, 6, 9, 9]
    whole = merged(network.nodes, blocks)
    assert [node.name for node in whole] == ["image", "stem", *(f"mixed_{n}" for n in range(11)), "pool_3", "softmax"]
    assert [node.inputs for node in whole[1:]] == [(node.name,) for node in whole[:-1]]
    assert sum(node.parameters for node in whole) == sum(node.parameters for node in network.nodes)
    shapes = {node.name: node.shape for node in network.nodes}
    assert [node.shape for node in whole[2:13]] == [shapes[f"mixed{n}"] for n in range(11)]


@pytest.mark.parametrize("pixels", [PICTURE[:298], PICTURE.astype(np.float32), PICTURE[np.newaxis]])
def test_other_pixels_are_refused(network: Any, pixels: Any) -> None:
    with pytest.raises(ExtractError, match=r"allowed: uint8 \(299, 299, 3\)"):
        network.look(pixels)


def test_the_event_file_holds_the_last_nodes_as_a_graph(network: Any, tmp_path: Path) -> None:
    from ferstore.extract.activations import graph_events
    from ferstore.extract.inception import tf
    from ferstore.report.last_nodes import last_nodes

    last = last_nodes(network.nodes)
    data = graph_events(last, network.nodes)
    assert data == graph_events(last, network.nodes)
    path = tmp_path / "events.out.tfevents.0.x"
    path.write_bytes(data)
    tf.get_logger().setLevel("ERROR")  # summary_iterator is deprecated, and says so
    version, event = tf.compat.v1.train.summary_iterator(str(path))
    assert version.file_version == "brain.Event:2"
    graph = tf.compat.v1.GraphDef.FromString(event.graph_def)
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node) == len(last) + 1
    assert nodes["mixed_8/mixed8"].op == "Placeholder"
    assert list(nodes["mixed_10/conv2d_85"].input) == ["mixed_9/mixed9"]
    assert list(nodes["mixed_10/mixed10"].input) == [
        "mixed_10/activation_85",
        "mixed_10/mixed9_1",
        "mixed_10/concatenate_1",
        "mixed_10/activation_93",
    ]
    assert list(nodes["pool_3/avg_pool"].input) == ["mixed_10/mixed10"]
    assert list(nodes["softmax/predictions"].input) == ["pool_3/avg_pool"]
    assert {name for node in graph.node for name in node.input} <= set(nodes)
    shape = nodes["mixed_10/mixed10"].attr["_output_shapes"].list.shape[0]
    assert [dim.size for dim in shape.dim] == [-1, 8, 8, 2048]
    assert nodes["mixed_10/conv2d_85"].attr["parameters"].i == math.prod((1, 1, 2048, 320))
