"""Extraction on a real GPU: the features of the CPU, memory as it is needed, and words where it runs out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real import built_weights, first_faces

import ferstore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("gpu"),
    pytest.mark.ray,
    pytest.mark.inception,
    pytest.mark.timeout(300),
]
FACES = 32  # a part


def nvidia_smi(query: str) -> int:
    """MiB, of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", "0"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_weights(shared, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def faces(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_faces(shared, tmp_path_factory.mktemp("faces"), FACES)


def command(store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ferstore.cli", "--store", str(store), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


def result(store: Path, *arguments: object) -> Any:
    done = command(store, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def made(faces: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of the same faces, each extracted in its own way."""
    root = tmp_path_factory.mktemp("stores")
    on_gpu = ("--gpus-per-actor", 1, "--batch-size", 16)
    ways: dict[str, tuple[object, ...]] = {
        "cpu": (),
        "float32": on_gpu,
        "float16": (*on_gpu, "--precision", "float16"),
        "bfloat16": (*on_gpu, "--precision", "bfloat16"),
        "two": ("--gpus-per-actor", 0.5, "--actors", 2, "--batch-size", 16, "--precision", "float16"),
    }
    for name, options in ways.items():
        result(root / name, "init", "--maps", "float32")
        result(root / name, "ingest", "ferplus", faces, "--name", "faces")
        report = result(root / name, "extract", "--weights", weights, *options)
        assert (report["computed"], report["quarantined"]) == (report["images"], 0)
        assert report["actors"] == (2 if name == "two" else report["actors"])
    return {name: root / name for name in ways}


def features(store: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rows = ferstore.open(str(store)).sql(
        "select p.pool_3, tensor(m.mixed_10) as map from pool_3 p join mixed_10 m using (image_id) order by image_id"
    )
    found = rows.numpy()
    return {"pool_3": found["pool_3"], "mixed_10": found["map"].reshape(len(found["map"]), -1)}


def cosines(one: Any, other: Any) -> Any:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_float32_on_a_gpu_means_it_and_has_the_identity_of_float32(made: dict[str, Path]) -> None:
    known, found = features(made["cpu"]), features(made["float32"])
    for layer, reference in known.items():
        assert np.abs(found[layer] - reference).max() <= 1e-4 * np.abs(reference).max()  # TF32 keeps 11 bits
    identities = [
        ferstore.open(str(made[name])).sql("select distinct extractor_id from pool_3").rows()
        for name in ("cpu", "float32")
    ]
    assert identities[0] == identities[1]


@pytest.mark.parametrize(("way", "least"), [("float16", 0.9999), ("bfloat16", 0.999), ("two", 0.9999)])
def test_half_precision_on_a_gpu_is_close_to_float32(made: dict[str, Path], way: str, least: float) -> None:
    known, found = features(made["cpu"]), features(made[way])
    for layer, reference in known.items():
        assert np.isfinite(found[layer]).all()
        assert cosines(found[layer], reference).mean() >= least
    assert not np.array_equal(found["mixed_10"], known["mixed_10"])
    assert ferstore.open(str(made[way])).verify().sound


CHILD = """
import sys, numpy as np, subprocess
from ferstore.extract import inception
from ferstore.extract.layer import LAYERS
from ferstore.extract.weights import random_weights
gpus, precision = int(sys.argv[1]), sys.argv[2]
inception.configure(precision, gpus=gpus, threads=2)
layers = [LAYERS["pool_3"]]
network = inception.Network(layers, random_weights(0), batch_size=8, precision=precision)
network(np.zeros((3, 299, 299, 3), np.uint8))
used = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
print(int(subprocess.run(used, capture_output=True, text=True, check=True).stdout))
"""


@pytest.mark.parametrize(("gpus", "precision"), [(0, "float32"), (1, "float16")])
def test_memory_is_taken_as_it_is_needed_and_none_by_an_actor_without_a_gpu(gpus: int, precision: str) -> None:
    before, total = nvidia_smi("memory.used"), nvidia_smi("memory.total")
    done = subprocess.run([sys.executable, "-c", CHILD, str(gpus), precision], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = int(done.stdout.split()[-1]) - before
    assert (100 < taken < total / 4) if gpus else taken < 100, f"{taken} MiB"


TOO_LARGE = """
import numpy as np, tensorflow as tf
[gpu, *_] = tf.config.list_physical_devices("GPU")
tf.config.set_logical_device_configuration(gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=512)])
from ferstore.errors import ExtractError
from ferstore.extract import inception
from ferstore.extract.layer import LAYERS
from ferstore.extract.weights import random_weights
network = inception.Network([LAYERS["pool_3"]], random_weights(0), batch_size=256, precision="float16")
try:
    network(np.zeros((256, 299, 299, 3), np.uint8))
except ExtractError as error:
    print("said:", error)
"""


def test_a_batch_that_does_not_fit_ends_with_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-c", TOO_LARGE], capture_output=True, text=True)
    assert "if memory ran out, use a smaller --batch-size" in done.stdout, done.stderr[-2000:]
