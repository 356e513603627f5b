"""Which weights the network runs with: named, digested and checked before anything is computed. No TensorFlow."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np

from ferstore.errors import FerstoreError, WeightsError
from ferstore.extract.weights_file import KERNEL_SHAPES, LayerArrays, read_weights
from ferstore.image.fetch import Fetcher
from ferstore.image.location import normalise, redact

# keras 3.15.1, keras/src/applications/inception_v3.py: WEIGHTS_PATH_NO_TOP and its file_hash, an MD5.
IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{IMAGENET_FILE}"
IMAGENET_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"

MAX_BYTES = 2**30  # the network and its top are 96 MB, and three times that with an optimizer's state
_TIMEOUT_SECONDS = 20
_HDF5 = (".h5", ".hdf5")
_ALLOWED = "imagenet, random, or the path or URL of a .weights.h5, .h5, .hdf5 or .safetensors file"
_CODE = (".keras", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".joblib", ".pb", ".zip")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that were found and have the digest asked for.

    Attributes:
        name: what the user said, without credentials.
        kind: where they come from.
        sha256: hex digest of the file's bytes; of random weights, of their recipe and seed.
        seed: of random weights, else None.
        url: where a file lies, for `load`; each machine has ImageNet weights in its own place.
    """

    name: str
    kind: Literal["imagenet", "file", "random"]
    sha256: str
    seed: int | None = None
    url: str | None = field(default=None, repr=False)

    def load(self) -> tuple[LayerArrays, ...]:
        """The 94 layers in creation order. The file is read again, and must still have the digest.

        Raises:
            WeightsError: the file cannot be read, has changed, or does not fit the network.
        """
        if self.seed is not None:
            return random_weights(self.seed)
        url = self.url or _imagenet_url()
        data = _read(url)
        _compare(hashlib.sha256(data).hexdigest(), self.sha256, self.name)
        return read_weights(data, safetensors_layout=_suffix(url) == ".safetensors")


def resolve(name: str, *, sha256: str | None = None, seed: int = 0) -> Weights:
    """Find weights and their digest; arrays are not looked at, so that a plan costs a read and no more.

    Args:
        name: ``imagenet``, ``random``, or a path or URL. ``imagenet`` is Keras's published file, taken from
            ``~/.keras/models`` (``KERAS_HOME`` is honoured) or downloaded there.
        sha256: the digest the file must have, 64 hex digits; it is checked before the file is parsed.
        seed: of random weights; ignored for others.

    Raises:
        WeightsError: weights that cannot be reached, are of a kind that is not read, or have another digest.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise WeightsError(f"{sha256!r} is not the digest of {redact(name)}", allowed="a SHA-256, 64 hex digits")
    if name == "random":
        if seed < 0:
            raise WeightsError(f"the seed {seed} is negative", allowed="0 or more")
        recipe = f"ferstore inception_v3 random he-normal pcg64 v1 seed={seed}"
        weights = Weights(name, "random", hashlib.sha256(recipe.encode()).hexdigest(), seed=seed)
    elif name == "imagenet":
        weights = Weights(name, "imagenet", hashlib.sha256(_read(_imagenet_url())).hexdigest())
    else:
        url = _url(name)
        weights = Weights(redact(name), "file", hashlib.sha256(_read(url)).hexdigest(), url=url)
    if sha256 is not None:
        _compare(weights.sha256, sha256.lower(), weights.name)
    return weights


def random_weights(seed: int) -> tuple[LayerArrays, ...]:
    """Untrained weights, the same on every machine: their features are for trying the plumbing, not for results.

    Kernels are normal with variance 2 / fan-in (He et al., "Delving Deep into Rectifiers", ICCV 2015), each layer from
    its own PCG64 stream of the seed and its number; batch normalisation passes its input on.
    """
    layers = []
    for number, shape in enumerate(KERNEL_SHAPES):
        generator = np.random.Generator(np.random.PCG64([seed, number]))
        kernel = generator.standard_normal(shape, dtype=np.float32)
        kernel *= np.float32(np.sqrt(2 / np.prod(shape[:3])))
        zeros, ones = np.zeros(shape[3], np.float32), np.ones(shape[3], np.float32)
        layers.append(LayerArrays(kernel, zeros, zeros, ones))
    return tuple(layers)


def _url(name: str) -> str:
    suffix = _suffix(name)
    if suffix in _CODE:
        problem = f"{redact(name)} is a {suffix} file, which may hold code"
        raise WeightsError(problem, allowed=_ALLOWED, hint="no such file is ever opened: save the arrays alone")
    if suffix not in (*_HDF5, ".safetensors"):
        raise WeightsError(f"{redact(name)!r} names no weights", allowed=_ALLOWED)
    try:
        return normalise(name)
    except FerstoreError as error:
        raise WeightsError(error.problem, allowed=error.allowed, hint=error.hint) from error


def _suffix(name: str) -> str:
    path = name.split("::", 1)[0]
    return posixpath.splitext(path.partition("?")[0] if "://" in path else path)[1].lower()


def _read(url: str) -> bytes:
    try:
        with Fetcher(MAX_BYTES) as fetcher:
            return fetcher.read(url)
    except FerstoreError as error:
        raise WeightsError(error.problem, allowed=_ALLOWED, hint="check the path") from error


def _compare(found: str, wanted: str, name: str) -> None:
    if found != wanted:
        raise WeightsError(
            f"{name} has the SHA-256 {found}, not {wanted}", hint="check which file is meant, or copy it again"
        )


def _imagenet_url() -> str:
    """Keras's published file in Keras's own folder, with the right MD5; downloaded when it is not there."""
    path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").absolute() / "models" / IMAGENET_FILE
    if not path.is_file():
        _download(path)
    elif (found := _md5(path.read_bytes())) != IMAGENET_MD5:
        raise WeightsError(f"{path} has the MD5 {found}, not {IMAGENET_MD5}", hint="remove it, and it is fetched again")
    return normalise(str(path))


def _download(path: Path) -> None:
    try:
        with urllib.request.urlopen(IMAGENET_URL, timeout=_TIMEOUT_SECONDS) as answer:
            data = answer.read(MAX_BYTES)
        if (found := _md5(data)) != IMAGENET_MD5:
            raise WeightsError(f"{IMAGENET_URL} gave the MD5 {found}, not {IMAGENET_MD5}", hint="try again later")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            (Path(folder) / path.name).write_bytes(data)
            os.replace(Path(folder) / path.name, path)  # another process sees all of the file or none
    except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
        raise WeightsError(
            f"Keras's ImageNet weights are not at {path} and cannot be fetched from {IMAGENET_URL} ({error})",
            allowed=_ALLOWED,
            hint="put the file there, or name another, or ask for untrained ones with --weights random",
        ) from error


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()  # Keras publishes no other digest
