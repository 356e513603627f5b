"""The whole line on real faces with trained weights: ingest, extract on Ray, SQL; against plain Keras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real import built_weights, first_faces

import ferstore
from ferstore.image.decode import pixels

pytestmark = [pytest.mark.ray, pytest.mark.inception, pytest.mark.timeout(300)]
FACES = 20  # a part


@pytest.fixture(scope="module")
def weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_weights(shared, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def faces(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_faces(shared, tmp_path_factory.mktemp("faces"), FACES)


def run(store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ferstore.cli", "--store", str(store), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


@pytest.fixture(scope="module", params=["float16", "float32"])
def store(
    request: pytest.FixtureRequest, faces: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> ferstore.FeatureStore:
    url = tmp_path_factory.mktemp("store") / "store"
    for arguments in (
        ("init", "--maps", request.param),
        ("ingest", "ferplus", faces, "--name", "real"),
        ("extract", "--dataset", "real", "--weights", weights),
    ):
        done = run(url, *arguments)
        assert done.returncode == 0, done.stderr
    return ferstore.open(str(url))


def test_every_image_has_its_features_once(store: ferstore.FeatureStore) -> None:
    ((items, images),) = store.sql("select count(*), count(distinct image_id) from images").rows()
    assert items == 3 * FACES
    for table in ("pool_3", "mixed_10"):
        assert store.sql(f"select count(*), count(distinct image_id) from {table}").rows() == [(images, images)]
    assert store.verify().sound


def test_pool_3_is_the_mean_of_mixed_10(store: ferstore.FeatureStore) -> None:
    rows = store.sql(
        "select p.pool_3, tensor(m.mixed_10) as map from pool_3 p join mixed_10 m using (image_id) limit 16"
    ).numpy()
    means = rows["map"].reshape(-1, 64, 2048).mean(axis=1, dtype=np.float64)
    tolerance = 1e-5 if store.store.map_dtype == "float32" else 1e-3
    assert np.abs(means - rows["pool_3"]).max() / np.abs(rows["pool_3"]).max() < tolerance


def test_features_are_those_of_plain_keras(
    store: ferstore.FeatureStore, faces: Path, weights: Path, tmp_path: Path
) -> None:
    rows = store.sql(
        "select item_id, f.pool_3, tensor(m.mixed_10) as map from features f "
        "join mixed_10 m using (image_id) order by item_id limit 8"
    ).numpy()
    np.save(tmp_path / "pixels.npy", np.stack([pixels((faces / str(item)).read_bytes()) for item in rows["item_id"]]))
    plain = """
import sys, numpy as np, keras
model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
model.load_weights(sys.argv[1])
x = keras.applications.inception_v3.preprocess_input(np.load(sys.argv[2] + "/pixels.npy").astype("float32"))
np.save(sys.argv[2] + "/maps.npy", model.predict(x, verbose=0))
"""
    subprocess.run([sys.executable, "-c", plain, weights, tmp_path], check=True, capture_output=True)
    maps = np.load(tmp_path / "maps.npy")
    scale = np.abs(maps).max()
    tolerance = 1e-4 if store.store.map_dtype == "float32" else 1e-3  # float16 keeps 11 bits
    assert np.abs(rows["map"].reshape(maps.shape) - maps).max() / scale < tolerance
    means = maps.mean(axis=(1, 2))
    assert np.abs(rows["pool_3"] - means).max() / np.abs(means).max() < 1e-4


def test_a_second_extract_computes_nothing_and_a_third_only_the_new_layer(
    store: ferstore.FeatureStore, weights: Path
) -> None:
    url = Path(store.url.removeprefix("file://"))
    again = run(url, "extract", "--weights", weights)
    assert again.returncode == 0
    assert "nothing to compute" in again.stdout
    before = {t.name: (t.rows, t.files) for t in store.tables()}
    deeper = run(url, "extract", "--weights", weights, "--layers", "pool_3,mixed_8_mean", "--limit", "4")
    assert deeper.returncode == 0, deeper.stderr
    after = {t.name: (t.rows, t.files) for t in store.tables()}
    assert after["mixed_8_mean"][0] == 4
    assert after["pool_3"] == before["pool_3"]


def test_a_file_that_is_stored_is_its_own_nearest_neighbour(store: ferstore.FeatureStore, faces: Path) -> None:
    file = next((faces / "FER2013Test").glob("*.png"))
    done = run(Path(store.url.removeprefix("file://")), "similar", file, "-k", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert file.name in done.stdout
