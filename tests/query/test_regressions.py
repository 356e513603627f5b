"""Faults that were: each test failed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferstore.api import FeatureStore
from ferstore.errors import InputError
from ferstore.query.diff import diff
from ferstore.query.session import Session
from ferstore.query.similar import nearest
from ferstore.store.commit import Change, transact
from ferstore.store.files import StoredFile, write_file
from ferstore.store.store import Store, init_store
from ferstore.store.verify import verify
from ferstore.store.writer import encode

Put = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def test_two_columns_of_one_name_are_refused_as_arrays(store: Store) -> None:
    with pytest.raises(InputError, match="two columns are called 'a'"):
        FeatureStore(store).sql("select 1 as a, 2 as a").numpy()


def test_arrays_of_duckdb_are_a_matrix_too(store: Store, put: Put) -> None:
    put(store, pool_3=[{"image_id": f"{n}", "pool_3": np.full(2048, n, np.float32)} for n in range(3)])
    assert FeatureStore(store).sql("select pool_3::FLOAT[2048] as p from pool_3").numpy()["p"].shape == (3, 2048)


def test_a_vector_that_is_not_finite_is_not_changed_by_a_rewrite_of_its_file(store: Store, put: Put) -> None:
    rows = [{"image_id": f"{n}", "pool_3": np.ones(2048, np.float32)} for n in range(3)]
    rows[0]["pool_3"][0] = np.nan
    before = put(store, pool_3=rows)
    after = put(store, pool_3=[{"image_id": "2", "pool_3": np.full(2048, 2, np.float32)}])
    assert diff(store, before, after).tables[0].changed == 1


def test_drift_of_a_table_with_one_nan(store: Store, put: Put) -> None:
    rows = [{"image_id": f"{n}", "view": "identity", "pool_3": np.ones(2048, np.float32) * (n + 1)} for n in range(3)]
    rows[0]["pool_3"][0] = np.nan
    before = put(store, pool_3=rows)
    after = put(store, pool_3=[{"image_id": "9", "view": "identity", "pool_3": np.full(2048, 2, np.float32)}])
    assert np.isfinite(diff(store, before, after).drift[0].mean_cosine)


def test_verify_names_a_damaged_file_of_another_engine(store: Store, table_of: Put) -> None:
    data = encode(store.schemas["images"], table_of(store, "images", [{"item_id": "z"}]))
    url = f"{store.data_folder('images')}/part-0.parquet"
    write_file(url, data)
    transact(store, lambda pin: [Change("images", (StoredFile(url, "", len(data), 1),))], {})
    write_file(url, b"x" * len(data))
    assert not verify(store).sound


def test_curves_of_random_weights_name_features(store: Store) -> None:
    session = Session(store, store.pin())
    for view in ("curves", "predictions", "conv4", "metrics"):
        assert session.tables_named(f"from {view}") & {"metrics", "predictions", "conv4"}, view


@pytest.mark.parametrize("seed", range(5))
def test_ties_at_the_edge_are_by_id(store: Store, put: Put, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(4, 2048)).astype(np.float32)
    which = rng.integers(0, 4, size=300)
    put(
        store,
        pool_3=[
            {"image_id": f"{n:064x}", "extractor_id": "e", "view": "identity", "pool_3": kinds[w]}
            for n, w in enumerate(which)
        ],
    )
    full = nearest(store, store.pin(), kinds[0], layer="pool_3", extractor_id="e", k=300)
    for k in (1, 5, 20, 100, 150):
        part = nearest(store, store.pin(), kinds[0], layer="pool_3", extractor_id="e", k=k)
        assert part == full[:k], k


def test_similarity_is_within_one(store: Store, put: Put) -> None:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(200, 2048)).astype(np.float32)
    put(
        store,
        pool_3=[
            {"image_id": f"{n:064x}", "extractor_id": "e", "view": "identity", "pool_3": x} for n, x in enumerate(v)
        ],
    )
    for x in v:
        assert nearest(store, store.pin(), x, layer="pool_3", extractor_id="e", k=1)[0].similarity <= 1


def test_a_loss_that_is_no_number_is_found(store: Store, put: Put) -> None:
    rows = [
        {"run_id": "r", "part": "train", "step": n, "loss": loss} for n, loss in enumerate([1.0, 2.0, float("nan")])
    ]
    put(store, metrics=rows)
    assert FeatureStore(store).sql("select step from metrics where isnan(loss)").rows() == [(2,)]
