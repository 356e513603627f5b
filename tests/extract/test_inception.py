"""The network against plain Keras, with trained weights on real faces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ferstore.errors import ExtractError, InputError, WeightsError
from ferstore.extract.layer import LAYERS
from ferstore.extract.weights import random_weights, resolve
from ferstore.extract.weights_file import FILE_ORDER, KERNEL_SHAPES, LayerArrays
from ferstore.image.decode import pixels

pytestmark = pytest.mark.inception

BATCH = 6
NODES = ("mixed7", "mixed8", "mixed9", "mixed10")
Features = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def inception() -> Iterator[Any]:
    from ferstore.extract import inception

    inception.configure("float32", gpus=0, threads=None)
    yield inception
    inception.configure("float32", gpus=0, threads=None)


@pytest.fixture(scope="module")
def trained(shared: Path) -> tuple[LayerArrays, ...]:
    packed = np.load(shared / "weights" / "inception_v3_uint8.npz")

    def tensor(name: str) -> NDArray[np.float32]:
        low, scale = packed[name + ".min_scale"]
        return packed[name].astype(np.float32) * np.float32(scale) + np.float32(low)  # type: ignore[no-any-return]

    norm = ("beta", "moving_mean", "moving_variance")
    return tuple(
        LayerArrays(tensor(f"conv2d_{n}.kernel"), *(tensor(f"batch_normalization_{n}.{name}") for name in norm))
        for n in range(1, 95)
    )


@pytest.fixture(scope="module")
def faces(shared: Path) -> NDArray[np.uint8]:
    files = sorted((shared / "data/ferplus-sample/FER2013Test").glob("*.png"))[:BATCH]
    return np.stack([pixels(file.read_bytes()) for file in files])


def number(layer: Any) -> int:
    tail = layer.name.rpartition("_")[2]
    return int(tail) if tail.isdigit() else 0


@pytest.fixture(scope="module")
def plain(inception: Any, trained: tuple[LayerArrays, ...]) -> Any:
    """Keras's own model, filled layer by layer as the shared builder of weights does."""
    keras = inception.keras
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
    convolutions = sorted((x for x in model.layers if isinstance(x, keras.layers.Conv2D)), key=number)
    norms = sorted((x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)), key=number)
    for convolution, norm, arrays in zip(convolutions, norms, trained, strict=True):
        convolution.set_weights([arrays.kernel])
        norm.set_weights([arrays.beta, arrays.moving_mean, arrays.moving_variance])
    return model


@pytest.fixture(scope="module")
def expected(inception: Any, plain: Any, faces: NDArray[np.uint8]) -> Features:
    model = inception.keras.Model(plain.input, [plain.get_layer(node).output for node in NODES])
    scaled = inception.keras.applications.inception_v3.preprocess_input(faces.astype(np.float32))
    return {node: output.numpy() for node, output in zip(NODES, model(scaled, training=False), strict=True)}


@pytest.fixture(scope="module")
def network(inception: Any, trained: tuple[LayerArrays, ...]) -> Any:
    return inception.Network(tuple(LAYERS.values()), trained, batch_size=BATCH, precision="float32")


@pytest.fixture(scope="module")
def features(network: Any, faces: NDArray[np.uint8]) -> Features:
    return network(faces)  # type: ignore[no-any-return]


def test_table_of_layers_is_that_of_keras(inception: Any, plain: Any) -> None:
    for kind in (inception.keras.layers.Conv2D, inception.keras.layers.BatchNormalization):
        layers = [layer for layer in plain.layers if isinstance(layer, kind)]
        first = min(map(number, layers))
        assert tuple(number(layer) - first for layer in layers) == FILE_ORDER
    convolutions = [layer for layer in plain.layers if isinstance(layer, inception.keras.layers.Conv2D)]
    assert tuple(tuple(layer.kernel.shape) for layer in sorted(convolutions, key=number)) == KERNEL_SHAPES


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # Keras's own
@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5"])
def test_files_that_keras_writes_are_read(
    name: str, plain: Any, trained: tuple[LayerArrays, ...], tmp_path: Path
) -> None:
    path = tmp_path / name
    (plain.save_weights if ".weights" in name else plain.save)(path)  # Keras 3's layout, and Keras 2's with a config
    for read, known in zip(resolve(str(path)).load(), trained, strict=True):
        for field in ("kernel", "beta", "moving_mean", "moving_variance"):
            np.testing.assert_array_equal(getattr(read, field), getattr(known, field))


def test_features_are_those_of_plain_keras(features: Features, expected: Features) -> None:
    for name, layer in LAYERS.items():
        assert features[name].dtype == np.float32
        assert features[name].shape == (BATCH, *layer.shape)
        reference = expected[layer.node].mean(axis=(1, 2)) if layer.pool else expected[layer.node]
        assert np.abs(features[name] - reference).max() <= 1e-4 * np.abs(reference).max()
        assert np.abs(reference).max() > 0.1


def test_pool_3_is_the_mean_of_mixed_10(features: Features) -> None:
    mean = features["mixed_10"].astype(np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(features["pool_3"], mean, rtol=1e-5)


def test_padding_of_a_short_batch_changes_nothing(network: Any, features: Features, faces: NDArray[np.uint8]) -> None:
    alone = network(faces[:1])
    for name, known in features.items():
        assert alone[name].shape == (1, *known.shape[1:])
        np.testing.assert_array_equal(alone[name], known[:1])


def test_pixels_of_another_shape_or_type_are_refused(network: Any, faces: NDArray[np.uint8]) -> None:
    for wrong in (faces[:0], faces[:, :298], faces.astype(np.float32), np.concatenate([faces, faces])):
        with pytest.raises(ExtractError, match=r"uint8 \(1 to 6, 299, 299, 3\)"):
            network(wrong)


def test_graph_ends_at_the_deepest_layer_asked_for(
    inception: Any, trained: tuple[LayerArrays, ...], features: Features, faces: NDArray[np.uint8]
) -> None:
    cut = inception.Network([LAYERS["mixed_7"]], trained, batch_size=BATCH, precision="float32")
    kinds = [operation.type for operation in cut._run.graph.get_operations()]
    assert kinds.count("Conv2D") == 70  # of 94
    reference = features["mixed_7"]
    assert np.abs(cut(faces)["mixed_7"] - reference).max() <= 1e-4 * np.abs(reference).max()


def test_bfloat16_is_close_and_is_not_float32(
    inception: Any, trained: tuple[LayerArrays, ...], features: Features, faces: NDArray[np.uint8]
) -> None:
    inception.configure("bfloat16", gpus=0, threads=None)
    try:
        low = inception.Network([LAYERS["pool_3"]], trained, batch_size=BATCH, precision="bfloat16")
    except InputError:
        pytest.skip("this CPU does not compute in bfloat16")
    a, b = low(faces)["pool_3"], features["pool_3"]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.mean() >= 0.999
    assert np.abs(a - b).max() > 1e-4 * np.abs(b).max()
    inception.configure("float32", gpus=0, threads=None)
    with pytest.raises(InputError, match="does not compute in bfloat16"):
        inception.Network([LAYERS["pool_3"]], trained, batch_size=BATCH, precision="bfloat16")


def test_weights_of_another_network_are_refused(inception: Any) -> None:
    with pytest.raises(WeightsError, match="do not fit"):
        inception.Network([LAYERS["pool_3"]], random_weights(0)[:93], batch_size=1, precision="float32")


def test_devices_that_are_not_there_are_refused(inception: Any) -> None:
    with pytest.raises(InputError, match="float16 needs a GPU"):
        inception.configure("float16", gpus=0, threads=None)
    if not inception.tf.config.list_physical_devices("GPU"):
        with pytest.raises(InputError, match="finds none"):
            inception.configure("float32", gpus=1, threads=None)
    with pytest.raises(ExtractError, match="already runs"):
        inception.configure("float32", gpus=0, threads=3)


def test_starting_up_says_nothing_and_real_errors_are_kept() -> None:
    code = (
        "import os\n"
        "from ferstore.extract import inception\n"
        "inception.configure('float32', gpus=0, threads=1)\n"
        "from ferstore.stderr import without_remarks\n"
        "with without_remarks():\n"
        "    os.write(2, b'I0000 00:00:1795476572.781812    3686 port.cc:153] oneDNN is on\\nE0000 real\\n')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == "E0000 real\n"


def test_only_the_network_imports_tensorflow() -> None:
    code = "import sys, ferstore.extract.weights, ferstore.extract.layer; print('tensorflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "False\n"
