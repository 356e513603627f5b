"""Weights files: three layouts give one set of arrays, and whatever does not fit is refused before it is used."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from ferstore.errors import WeightsError
from ferstore.extract import weights as module
from ferstore.extract.weights import Weights, random_weights, resolve
from ferstore.extract.weights_file import FILE_ORDER, KERNEL_SHAPES, LayerArrays, read_weights

NORM = ("beta", "moving_mean", "moving_variance")
Layers = tuple[LayerArrays, ...]


@pytest.fixture(scope="module")
def layers() -> Layers:
    return random_weights(3)


def numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def named(layers: Layers) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for number, layer in enumerate(layers):
        arrays[numbered("conv2d", number) + "/kernel"] = layer.kernel
        for name in NORM:
            arrays[numbered("batch_normalization", number) + "/" + name] = getattr(layer, name)
    return arrays


def write_safetensors(path: Path, layers: Layers) -> None:
    safetensors.numpy.save_file(named(layers), path)


def write_keras_3(path: Path, layers: Layers) -> None:
    """As ``model.save_weights`` does: every kind of layer numbered by its place in ``model.layers``."""
    with h5py.File(path, "w") as file:
        for place, number in enumerate(FILE_ORDER):
            file[f"layers/{numbered('conv2d', place)}/vars/0"] = layers[number].kernel
            for index, name in enumerate(NORM):
                file[f"layers/{numbered('batch_normalization', place)}/vars/{index}"] = getattr(layers[number], name)
            file.create_group(f"layers/{numbered('activation', place)}/vars")
        file.create_group("layers/input_layer/vars")
        file["layers/dense/vars/0"] = np.ones((2048, 10), np.float32)
        file["optimizer/vars/0"] = np.int64(7)


def write_keras_2(path: Path, layers: Layers, root: str = "") -> None:
    """As Keras 2 did: order is in attributes, and names carry the numbers of some session."""
    with h5py.File(path, "w") as file:
        group = file.require_group(root) if root else file
        names = ["input_1"]
        group.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for number in FILE_ORDER:
            layer = f"conv2d_{189 + number}"
            names.append(layer)
            put_keras_2(group, layer, {"kernel": layers[number].kernel})
            layer = f"batch_normalization_{189 + number}"
            names.append(layer)
            put_keras_2(group, layer, {name: getattr(layers[number], name) for name in NORM})
        names.append("predictions")
        put_keras_2(group, "predictions", {"kernel": np.ones((2048, 3)), "bias": np.ones(3)})
        group.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["model_config"] = b"\x80\x04 not to be looked at"


def put_keras_2(group: h5py.Group, layer: str, arrays: dict[str, NDArray[Any]]) -> None:
    inner = group.create_group(layer)
    inner.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in arrays]
    for name, array in arrays.items():
        inner[f"{layer}/{name}:0"] = array


def equal(a: Layers, b: Layers) -> bool:
    ours, theirs = named(a), named(b)
    return all(array.dtype == np.float32 and np.array_equal(array, theirs[name]) for name, array in ours.items())


def hdf5(fill: Callable[[h5py.File], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def first(**options: Any) -> bytes:
    """An HDF5 file with the first kernel only, made as ``options`` say."""
    return hdf5(lambda file: file.create_dataset("layers/conv2d/vars/0", **options))


KERNEL = np.ones((3, 3, 3, 32), np.float32)


def test_shapes_are_those_of_the_published_network() -> None:
    assert len(KERNEL_SHAPES) == len(FILE_ORDER) == 94
    assert sorted(FILE_ORDER) == list(range(94))
    # 21,802,784 is Keras's own count of parameters without the top: kernels and three values a channel.
    assert sum(int(np.prod(shape)) + 3 * shape[3] for shape in KERNEL_SHAPES) == 21_802_784


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.safetensors", write_safetensors),
        ("x.weights.h5", write_keras_3),
        ("x.h5", write_keras_2),
        ("x y.HDF5", lambda path, layers: write_keras_2(path, layers, "model_weights")),
    ],
)
def test_every_layout_gives_the_same_arrays(
    name: str, write: Callable[[Path, Layers], None], layers: Layers, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path, layers)
    weights = resolve(str(path))
    assert weights == Weights(str(path), "file", hashlib.sha256(path.read_bytes()).hexdigest(), None, f"file://{path}")
    assert equal(weights.load(), layers)
    assert equal(pickle.loads(pickle.dumps(weights)).load(), layers)


def test_float16_and_float64_become_float32(layers: Layers) -> None:
    halves = {name: array.astype(np.float16) for name, array in named(layers).items()}
    read = read_weights(safetensors.numpy.save(halves), safetensors_layout=True)
    assert read[0].kernel.dtype == np.float32
    np.testing.assert_array_equal(read[0].kernel, halves["conv2d/kernel"].astype(np.float32))


def test_random_weights_depend_on_the_seed_alone() -> None:
    assert equal(random_weights(3), random_weights(3))
    assert not equal(random_weights(3), random_weights(4))
    # A numpy that drew other numbers would give other features under the same identity.
    np.testing.assert_allclose(random_weights(0)[0].kernel.flat[:3], GOLDEN, rtol=1e-6)
    assert random_weights(0)[60].kernel.std() == pytest.approx(np.sqrt(2 / 768), rel=0.01)


GOLDEN = (0.3041782, -0.3775276, -0.1160981)


def test_random_is_named_and_its_digest_tells_seeds_apart() -> None:
    one, two = resolve("random", seed=1), resolve("random", seed=2)
    assert (one.kind, one.seed, len(one.sha256)) == ("random", 1, 64)
    assert one.sha256 != two.sha256
    assert equal(one.load(), random_weights(1))
    with pytest.raises(WeightsError, match="negative"):
        resolve("random", seed=-1)


def test_digest_is_compared_before_the_file_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"never parsed")
    found = hashlib.sha256(b"never parsed").hexdigest()
    assert resolve(str(path), sha256=found.upper()).sha256 == found
    with pytest.raises(WeightsError, match=f"{found}.*{'0' * 64}"):
        resolve(str(path), sha256="0" * 64)
    for malformed in ("00", "", "z" * 64, found + "0"):
        with pytest.raises(WeightsError, match="64 hex digits"):
            resolve(str(path), sha256=malformed)


def test_file_that_changed_after_it_was_resolved_is_refused(tmp_path: Path, layers: Layers) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, layers)
    weights = resolve(str(path))
    write_safetensors(path, random_weights(4))
    with pytest.raises(WeightsError, match=weights.sha256):
        weights.load()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.weights.h5", "no such file"),
        ("folder.h5", "not a regular file"),
        ("x.pkl", "may hold code"),
        ("x.keras", "may hold code"),
        ("x.npz", "may hold code"),
        ("x.onnx", "names no weights"),
        ("", "names no weights"),
        ("imagnet", "names no weights"),
        ("ssh://host/x.h5", "protocol ferstore does not read"),
    ],
)
def test_location_that_cannot_be_used_is_refused_with_what_can(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(WeightsError, match=says) as caught:
        resolve(name if "://" in name or not name else str(tmp_path / name))
    assert caught.value.allowed


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(WeightsError) as caught:
        resolve("https://me:hunter2@host/x.h5")
    assert "hunter2" not in str(caught.value)


def linked(link: object) -> bytes:
    def fill(file: h5py.File) -> None:
        file["elsewhere"] = KERNEL
        file.create_group("layers/conv2d/vars")["0"] = link

    return hdf5(fill)


def never_written(file: h5py.File) -> None:
    file.create_dataset("layers/conv2d/vars/0", KERNEL.shape, np.float32)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(KERNEL.shape, np.float32)
    layout[:] = h5py.VirtualSource("/etc/hostname", "data", KERNEL.shape)
    file.create_virtual_dataset("layers/conv2d/vars/0", layout)


def group_for_array(file: h5py.File) -> None:
    file.create_group("layers/conv2d/vars/0")


def group_in_itself(file: h5py.File) -> None:
    layers = file.create_group("layers")
    layers["conv2d"] = layers


def names_of(count: int, text: bytes = b"x") -> bytes:
    """A file of Keras 2 whose one layer is named again and again: each name would be looked up."""

    def fill(file: h5py.File) -> None:
        file.create_group("x").attrs["weight_names"] = np.array([b"x/kernel:0"])
        file.attrs["layer_names"] = np.array([text] * count)

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        fill(file)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read"),
        (b"\x80\x04 a pickle", "cannot be read"),
        (names_of(2_000_000), r"layer_names has shape \(2000000,\)"),
        (names_of(1000, b"x" * 2000), "layer_names has shape .* 2,000 bytes each"),
        (names_of(1), "1 convolutions and 0 batch"),
        (hdf5(lambda file: file.attrs.update(layer_names=b"x")), r"layer_names has shape \(\)"),
        (hdf5(group_in_itself), "no layers/conv2d/vars/0"),
        (hdf5(lambda file: file.update({"layers": h5py.SoftLink("/layers")})), "link to elsewhere"),
        (first(shape=KERNEL.shape, dtype=h5py.vlen_dtype(np.float32)), "type object"),
        (first(shape=KERNEL.shape, dtype=h5py.string_dtype()), "type object"),
        (first(shape=KERNEL.shape, dtype=h5py.regionref_dtype), "type object"),
        (first(shape=KERNEL.shape, dtype=[("a", "f4"), ("b", "f4")]), "has values of type"),
        (first(data=h5py.Empty("f4")), "shape None"),
        (first(data=KERNEL)[:900], "cannot be read"),
        (hdf5(lambda file: None), "neither layers nor layer_names"),
        (hdf5(lambda file: file.create_group("layers")), "no layers/conv2d/vars/0"),
        (first(data=KERNEL), "no layers/batch_normalization/vars/0"),
        (hdf5(group_for_array), "no array"),
        (first(data=np.ones((3, 3, 3, 31), np.float32)), r"\(3, 3, 3, 31\), not \(3, 3, 3, 32\)"),
        (first(shape=(2**20, 2**20, 3, 32), dtype="f4", chunks=(1, 1, 3, 32)), "has shape"),
        (first(data=KERNEL.astype(np.int32)), "int32"),
        (first(data=KERNEL.astype("S4")), "type |S4"),
        (first(data=KERNEL, compression="gzip"), "compressed"),
        (first(data=KERNEL, chunks=(3, 3, 3, 32)), "in chunks"),
        (hdf5(never_written), "never written"),
        (hdf5(virtual), "virtual"),
        (first(shape=KERNEL.shape, dtype="f4", external=[("/etc/hostname", 0, KERNEL.nbytes)]), "another file"),
        (linked(h5py.SoftLink("/elsewhere")), "link to elsewhere"),
        (linked(h5py.ExternalLink("/etc/hostname", "/x")), "link to elsewhere"),
        (first(data=np.full_like(KERNEL, np.nan)), "not finite"),
        (first(data=np.full(KERNEL.shape, 1e300)), "not finite"),
    ],
)
def test_hdf5_that_is_not_the_network_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        read_weights(data, safetensors_layout=False)


def test_negative_variance_is_refused(layers: Layers) -> None:
    arrays = named(layers)
    arrays["batch_normalization/moving_variance"] = np.full(32, -1, np.float32)
    with pytest.raises(WeightsError, match="moving_variance is negative"):
        read_weights(safetensors.numpy.save(arrays), safetensors_layout=True)


def test_keras_2_file_of_another_network_is_refused() -> None:
    def fill(file: h5py.File) -> None:
        put_keras_2(file, "block1_conv1", {"kernel": KERNEL, "bias": np.ones(32)})
        put_keras_2(file, "bn", {"gamma": np.ones(32), **{name: np.ones(32) for name in NORM}})
        file.attrs["layer_names"] = [b"block1_conv1", b"bn"]

    with pytest.raises(WeightsError, match="layer bn holds gamma"):
        read_weights(hdf5(fill), safetensors_layout=False)

    def one_convolution(file: h5py.File) -> None:
        put_keras_2(file, "conv2d_1", {"kernel": KERNEL})
        file.attrs["layer_names"] = [b"conv2d_1"]

    with pytest.raises(WeightsError, match="1 convolutions and 0 batch"):
        read_weights(hdf5(one_convolution), safetensors_layout=False)


HONEST = {"dtype": "F32", "shape": list(KERNEL.shape), "data_offsets": [0, KERNEL.nbytes]}


def lying(header: dict[str, Any], length: int | None = None) -> bytes:
    """A safetensors file with one kernel's bytes, and a header that says what it likes of them."""
    said = json.dumps(header).encode()
    return (len(said) if length is None else length).to_bytes(8, "little") + said + KERNEL.tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read"),
        (b"\xff" * 16, "header has"),
        (safetensors.numpy.save({"a": KERNEL}), "no conv2d/kernel"),
        (lying({}, length=2**62), "header has 4,611,686,018,427,387,904 bytes"),
        (lying({str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}), "header has"),
        (lying({"conv2d/kernel": {**HONEST, "shape": [2**31, 2**31]}}), "cannot be read"),
        (lying({"conv2d/kernel": {**HONEST, "shape": [0, 2**62], "data_offsets": [0, 0]}}), "cannot be read"),
        (lying({"conv2d/kernel": {**HONEST, "data_offsets": [0, 2**40]}}), "cannot be read"),
        (lying({"conv2d/kernel": HONEST, "twice": HONEST}), "cannot be read"),
        (lying({"conv2d/kernel": {**HONEST, "dtype": "PICKLE"}}), "cannot be read"),
        (safetensors.numpy.save({"conv2d/kernel": KERNEL[:2]}), "has shape"),
        (safetensors.numpy.save({"conv2d/kernel": KERNEL.astype(np.int8)}), "int8"),
        (safetensors.numpy.save({"conv2d/kernel": KERNEL, "conv2d_94/kernel": KERNEL}), "more than 94"),
    ],
)
def test_safetensors_that_are_not_the_network_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        read_weights(data, safetensors_layout=True)


@pytest.fixture
def published(tmp_path: Path, layers: Layers, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands in for the published one, and an empty Keras folder."""
    path = tmp_path / "server.h5"
    write_keras_2(path, layers)
    monkeypatch.setattr(module, "IMAGENET_URL", path.as_uri())
    monkeypatch.setattr(module, "IMAGENET_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return path


def test_imagenet_is_downloaded_once_into_the_folder_of_keras(published: Path, tmp_path: Path, layers: Layers) -> None:
    weights = resolve("imagenet")
    folder = tmp_path / "keras/models"
    assert [file.name for file in folder.iterdir()] == [module.IMAGENET_FILE]
    assert (weights.name, weights.kind) == ("imagenet", "imagenet")
    assert weights.sha256 == hashlib.sha256(published.read_bytes()).hexdigest()
    published.unlink()
    assert resolve("imagenet") == weights
    assert equal(weights.load(), layers)


def test_imagenet_with_another_md5_is_never_kept_or_opened(published: Path, tmp_path: Path) -> None:
    published.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="gave the MD5"):
        resolve("imagenet")
    assert not (tmp_path / "keras").exists()
    kept = tmp_path / "keras/models" / module.IMAGENET_FILE
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match="remove it"):
        resolve("imagenet")


def test_imagenet_out_of_reach_says_what_else_there_is(published: Path) -> None:
    published.unlink()
    with pytest.raises(WeightsError, match=r"put the file there.*--weights random"):
        resolve("imagenet")
