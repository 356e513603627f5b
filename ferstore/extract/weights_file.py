"""Weights of Inception v3 out of a file: arrays only, each checked against the network before it is read.

Three layouts are read. Keras 3's ``.weights.h5`` and Keras 2's HDF5 list layers in the order of ``model.layers``, which
goes by depth and is not the order in which ``keras.applications.InceptionV3`` creates and names them (`FILE_ORDER`).
A safetensors file names each array by its layer in creation order: ``conv2d_3/kernel``,
``batch_normalization_3/beta``, ``.../moving_mean``, ``.../moving_variance``; the first layers carry no number.

Nothing else of a file is looked at: no model configuration, no optimizer, no links to other files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import h5py
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ferstore.errors import WeightsError

# Kernels in creation order, rows x columns x channels in x channels out: the stem, then a line for each block,
# mixed0 to mixed10.
_SHAPES = """
3x3x3x32 3x3x32x32 3x3x32x64 1x1x64x80 3x3x80x192
1x1x192x64 1x1x192x48 5x5x48x64 1x1x192x64 3x3x64x96 3x3x96x96 1x1x192x32
1x1x256x64 1x1x256x48 5x5x48x64 1x1x256x64 3x3x64x96 3x3x96x96 1x1x256x64
1x1x288x64 1x1x288x48 5x5x48x64 1x1x288x64 3x3x64x96 3x3x96x96 1x1x288x64
3x3x288x384 1x1x288x64 3x3x64x96 3x3x96x96
1x1x768x192 1x1x768x128 1x7x128x128 7x1x128x192 1x1x768x128 7x1x128x128 1x7x128x128 7x1x128x128 1x7x128x192 1x1x768x192
1x1x768x192 1x1x768x160 1x7x160x160 7x1x160x192 1x1x768x160 7x1x160x160 1x7x160x160 7x1x160x160 1x7x160x192 1x1x768x192
1x1x768x192 1x1x768x160 1x7x160x160 7x1x160x192 1x1x768x160 7x1x160x160 1x7x160x160 7x1x160x160 1x7x160x192 1x1x768x192
1x1x768x192 1x1x768x192 1x7x192x192 7x1x192x192 1x1x768x192 7x1x192x192 1x7x192x192 7x1x192x192 1x7x192x192 1x1x768x192
1x1x768x192 3x3x192x320 1x1x768x192 1x7x192x192 7x1x192x192 3x3x192x192
1x1x1280x320 1x1x1280x384 1x3x384x384 3x1x384x384 1x1x1280x448 3x3x448x384 1x3x384x384 3x1x384x384 1x1x1280x192
1x1x2048x320 1x1x2048x384 1x3x384x384 3x1x384x384 1x1x2048x448 3x3x448x384 1x3x384x384 3x1x384x384 1x1x2048x192
"""
KERNEL_SHAPES: tuple[tuple[int, ...], ...] = tuple(tuple(map(int, shape.split("x"))) for shape in _SHAPES.split())

# Creation numbers of the convolutions, and so of their batch normalisations, in the order of model.layers.
# fmt: off
FILE_ORDER: tuple[int, ...] = (
    0, 1, 2, 3, 4, 8, 6, 9, 5, 7, 10, 11, 15, 13, 16, 12, 14, 17, 18, 22, 20, 23, 19, 21, 24, 25, 27, 28, 26, 29,
    34, 35, 31, 36, 32, 37, 30, 33, 38, 39, 44, 45, 41, 46, 42, 47, 40, 43, 48, 49, 54, 55, 51, 56, 52, 57, 50, 53,
    58, 59, 64, 65, 61, 66, 62, 67, 60, 63, 68, 69, 72, 73, 70, 74, 71, 75, 80, 77, 81, 78, 79, 82, 83, 76, 84, 89,
    86, 90, 87, 88, 91, 92, 85, 93,
)
# fmt: on

_MOST_NAMES, _MOST_NAME_BYTES = 2000, 1 << 20  # of layers, the network has 311; of what Keras writes, a few KiB
_NORM = ("beta", "moving_mean", "moving_variance")
_FITS = "the weights of a keras.applications.InceptionV3, with or without its top"
_HINT = "write them with model.save_weights('x.weights.h5')"

Array = NDArray[Any]
ReadArray = Callable[[str, str, tuple[int, ...]], Array]
"""Layer in creation order, array of that layer, shape it must have; raises WeightsError when it has not."""


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """A convolution without bias and the batch normalisation without scale after it, float32.

    Attributes:
        kernel: (rows, columns, channels in, channels out).
        beta, moving_mean, moving_variance: (channels out,).
    """

    kernel: NDArray[np.float32]
    beta: NDArray[np.float32]
    moving_mean: NDArray[np.float32]
    moving_variance: NDArray[np.float32]


def read_weights(data: bytes, *, safetensors_layout: bool) -> tuple[LayerArrays, ...]:
    """The 94 layers of Inception v3 without its top, in creation order, from a file's bytes.

    Raises:
        WeightsError: not such a file, or its arrays do not fit the network or are not finite.
    """
    try:
        if safetensors_layout:
            return _layers(_reader_of_safetensors(data))
        with h5py.File(BytesIO(data), "r") as file:
            return _layers(_reader_of_hdf5(file))
    except WeightsError:
        raise
    except Exception as error:  # both libraries raise whatever a damaged file makes them run into
        problem = f"the weights file cannot be read: {type(error).__name__}: {str(error)[:160]}"
        raise WeightsError(problem, hint="check that it is complete") from error


def _layers(read: ReadArray) -> tuple[LayerArrays, ...]:
    layers = []
    for number, shape in enumerate(KERNEL_SHAPES):
        suffix = f"_{number}" if number else ""
        kernel = _checked(f"conv2d{suffix}/kernel", read(f"conv2d{suffix}", "kernel", shape))
        norm = f"batch_normalization{suffix}"
        arrays = [_checked(f"{norm}/{name}", read(norm, name, shape[3:])) for name in _NORM]
        if arrays[2].min() < 0:
            raise WeightsError(f"{norm}/moving_variance is negative", allowed=_FITS, hint="check the file")
        layers.append(LayerArrays(kernel, *arrays))
    return tuple(layers)


def _checked(name: str, values: Array) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        array = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise WeightsError(f"{name} holds values that are not finite", allowed=_FITS, hint="check the file")
    return array


def _conform(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise WeightsError(f"{name} has shape {shape}, not {expected}", allowed=_FITS, hint=_HINT)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise WeightsError(f"{name} has values of type {dtype}", allowed="floating point of 16, 32 or 64 bits")


def _unfit(problem: str) -> WeightsError:
    return WeightsError(f"the weights file does not fit the network: {problem}", allowed=_FITS, hint=_HINT)


def _reader_of_safetensors(data: bytes) -> ReadArray:
    if (size := int.from_bytes(data[:8], "little")) > _MOST_NAME_BYTES:
        raise _unfit(f"its header has {size:,} bytes")
    arrays = safetensors.numpy.load(data)
    if "conv2d_94/kernel" in arrays:
        raise _unfit("it has more than 94 convolutions")

    def read(layer: str, name: str, shape: tuple[int, ...]) -> Array:
        array: Array | None = arrays.get(f"{layer}/{name}")
        if array is None:
            raise _unfit(f"it has no {layer}/{name}")
        _conform(f"{layer}/{name}", array.shape, array.dtype, shape)
        return array

    return read


def _reader_of_hdf5(file: h5py.File) -> ReadArray:
    if "layer_names" in file.attrs:
        paths = _legacy_paths(file, "")
    elif "model_weights" in file:
        paths = _legacy_paths(_member(file, "model_weights"), "model_weights/")
    elif "layers" in file:
        paths = _keras_3_paths(_member(file, "layers"))
    else:
        raise _unfit("it has neither layers nor layer_names")

    def read(layer: str, name: str, shape: tuple[int, ...]) -> Array:
        path = paths[f"{layer}/{name}"]
        array = _member(file, path)
        if not isinstance(array, h5py.Dataset):
            raise _unfit(f"{path} is no array")
        _conform(path, array.shape, array.dtype, shape)
        storage = array.id.get_create_plist()
        if storage.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or storage.get_external_count():
            raise _unfit(f"{path} is compressed, in chunks, virtual or in another file")
        if array.id.get_storage_size() != array.size * array.dtype.itemsize:
            raise _unfit(f"{path} was never written")  # HDF5 would read zeros
        return np.asarray(array[()])

    return read


def _keras_3_paths(layers: h5py.Group) -> dict[str, str]:
    """Keras 3 renumbers each kind of layer by its place in ``model.layers``: ``layers/conv2d_5/vars/0``."""
    if "conv2d_94" in layers:
        raise _unfit("it has more than 94 convolutions")
    paths = {}
    for place, number in enumerate(FILE_ORDER):
        stored, named = (f"_{n}" if n else "" for n in (place, number))
        paths[f"conv2d{named}/kernel"] = f"layers/conv2d{stored}/vars/0"
        for index, name in enumerate(_NORM):
            paths[f"batch_normalization{named}/{name}"] = f"layers/batch_normalization{stored}/vars/{index}"
    return paths


def _legacy_paths(group: h5py.Group, prefix: str) -> dict[str, str]:
    """Keras 2 lists layers and their arrays in attributes; names carry any number, only their order counts."""
    kernels: list[str] = []
    norms: list[list[str]] = []
    for layer in _strings(group, "layer_names"):
        stored = _strings(_member(group, layer), "weight_names")
        names = tuple(name.rpartition("/")[2].partition(":")[0] for name in stored)
        stored = [f"{prefix}{layer}/{name}" for name in stored]
        if names == ("kernel",):
            kernels.append(stored[0])
        elif names == _NORM:
            norms.append(stored)
        elif names not in ((), ("kernel", "bias")):  # without weights, or the top
            raise _unfit(f"layer {layer} holds {', '.join(names)}")
    if len(kernels) != len(FILE_ORDER) or len(norms) != len(FILE_ORDER):
        raise _unfit(f"it has {len(kernels)} convolutions and {len(norms)} batch normalisations, not 94 of each")
    paths: dict[str, str] = {}
    for number, kernel, norm in zip(FILE_ORDER, kernels, norms, strict=True):
        named = f"_{number}" if number else ""
        paths[f"conv2d{named}/kernel"] = kernel
        paths.update({f"batch_normalization{named}/{name}": path for name, path in zip(_NORM, norm, strict=True)})
    return paths


def _strings(group: h5py.Group, name: str) -> list[str]:
    """An attribute's texts; looked at before it is read, for a few bytes of a file can repeat a name for ever."""
    if name not in group.attrs:
        return []
    stored = group.attrs.get_id(name)
    count, each = stored.shape[0] if len(stored.shape) == 1 else None, stored.dtype.itemsize
    if count is None or count > _MOST_NAMES or count * each > _MOST_NAME_BYTES:
        raise _unfit(f"its {name} has shape {stored.shape}, {each:,} bytes each")
    return [text.decode() if isinstance(text, bytes) else str(text) for text in group.attrs[name]]


def _member(group: h5py.Group, path: str) -> Any:
    """What a path names, through hard links only: soft and external ones can name other files."""
    node = group
    for part in path.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise _unfit(f"it has no {path}")
        if not isinstance(link, h5py.HardLink):
            raise _unfit(f"{path} is a link to elsewhere")
        node = node[part]
    return node
