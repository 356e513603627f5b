"""Nearest images: the exact order of the cosines, of one extractor and one view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.api import FeatureStore
from ferstore.errors import InputError
from ferstore.query.similar import Neighbour, nearest, stored_vector
from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import write_rows
from ferstore.store.store import Store, init_store

Put = Callable[..., Pin]
NOW = datetime(2026, 11, 23, tzinfo=UTC)
COUNT, FILES = 60, 4


def image(number: int) -> str:
    return f"{number:064x}"


def number_of(found: Neighbour) -> int:
    return int(found.image_id, 16)


def vector(*values: float, size: int = 2048) -> np.ndarray:
    return np.array([*values, *[0.0] * (size - len(values))], np.float32)


def row(number: int, values: np.ndarray, extractor: str = "e", view: str = "identity", later: int = 0) -> Any:
    """A row of pool_3; ``later`` in seconds."""
    named = {"image_id": image(number), "extractor_id": extractor, "view": view, "pool_3": values}
    return {**named, "extracted_at": NOW + timedelta(seconds=later)}


def near(store: Store, query: np.ndarray, k: int = 100, extractor: str = "e", **named: Any) -> list[Neighbour]:
    return nearest(store, store.pin(), query, layer=named.pop("layer", "pool_3"), extractor_id=extractor, k=k, **named)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """Vectors of both signs and of lengths from a thousandth to a thousand."""
    chance = np.random.default_rng(4)
    values = chance.normal(size=(COUNT, 2048)) * 10 ** chance.uniform(-3, 3, size=(COUNT, 1))
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, many: np.ndarray) -> Store:
    """``many`` in several files, whose rows are in no order of their ids."""
    import pyarrow as pa

    from ferstore.store.writer import feature_column

    store = init_store(str(tmp_path_factory.mktemp("similar") / "store"))
    schema = store.schemas["pool_3"]
    for numbers in np.array_split(np.random.default_rng(5).permutation(COUNT), FILES):
        columns = [
            pa.array([image(n) for n in numbers]),
            pa.array(["e"] * len(numbers)),
            pa.array(["identity"] * len(numbers)),
            feature_column(schema, many[numbers]),
            pa.array(np.linalg.norm(many[numbers], axis=1), pa.float32()),
            pa.array([NOW] * len(numbers), pa.timestamp("us", tz="UTC")),
        ]
        rows = pa.Table.from_arrays(columns, schema=schema.arrow())
        transact(store, lambda pin, rows=rows: [Change("pool_3", write_rows(store, "pool_3", rows))], {})  # type: ignore[misc]
    assert len(store.pin().data_files("pool_3")) == FILES
    return store


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    a, b = vectors.astype(np.float64), query.astype(np.float64)
    return a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))


@settings(deadline=None, max_examples=20)
@given(k=st.integers(1, COUNT + 10), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_nearest_are_those_of_a_plain_scan_in_its_order(
    full: Store, many: np.ndarray, k: int, seed: int, scale: float
) -> None:
    query = (np.random.default_rng(seed).normal(size=2048) * scale).astype(np.float32)
    expected = cosines(many, query)
    order = np.argsort(-expected)[:k]
    found = near(full, query, k)
    assert [number_of(n) for n in found] == order.tolist()
    assert [n.similarity for n in found] == pytest.approx(expected[order].tolist(), abs=1e-6)


@pytest.mark.parametrize("k", [1, 7, COUNT - 1, COUNT, COUNT + 1, 10_000])
def test_an_image_is_left_out_and_all_others_stay(full: Store, many: np.ndarray, k: int) -> None:
    order = [n for n in np.argsort(-cosines(many, many[9])) if n != 9]
    assert [number_of(n) for n in near(full, many[9], k, without=image(9))] == order[:k]
    assert number_of(near(full, many[9], 1)[0]) == 9


def test_by_its_id_an_image_is_no_neighbour_of_its_own(full: Store, many: np.ndarray) -> None:
    found = FeatureStore(full).similar(image(3), k=COUNT)
    assert sorted(number_of(n) for n in found) == [n for n in range(COUNT) if n != 3]


def test_equals_come_in_the_order_of_their_ids(store: Store, put: Put) -> None:
    put(store, pool_3=[row(n, vector(1, 1)) for n in (5, 1)] + [row(0, vector(1))])
    put(store, pool_3=[row(n, vector(1, 1)) for n in (4, 2)])
    assert [number_of(n) for n in near(store, vector(1, 1))] == [1, 2, 4, 5, 0]
    assert [number_of(n) for n in near(store, vector(1, 1), without=image(2))] == [1, 4, 5, 0]
    assert [n.similarity for n in near(store, vector(1, 1), 2)] == pytest.approx([1, 1])
    # The same pixels in another file are another image: not left out, and nearest.
    assert number_of(near(store, vector(1, 1), 1, without=image(1))[0]) != 1


def test_length_does_not_matter_and_direction_does(store: Store, put: Put) -> None:
    put(store, pool_3=[row(1, vector(0.001)), row(2, vector(500, 500)), row(3, vector(-7)), row(4, vector(0, 3))])
    found = near(store, vector(20))
    assert [(number_of(n), n.similarity) for n in found] == [
        (1, pytest.approx(1)),
        (2, pytest.approx(0.5**0.5)),
        (4, 0),
        (3, pytest.approx(-1)),
    ]


def test_a_vector_of_zeros_is_near_nothing_and_divides_nothing(store: Store, put: Put) -> None:
    put(store, pool_3=[row(1, vector()), row(2, vector(1)), row(3, vector(-1))])
    assert [(number_of(n), n.similarity) for n in near(store, vector(1))] == [(2, 1), (1, 0), (3, -1)]
    assert {n.similarity for n in near(store, vector())} == {0}


def test_two_extractors_are_never_mixed(store: Store, put: Put) -> None:
    put(store, pool_3=[row(n, vector(1, n), "e") for n in range(3)])
    put(store, pool_3=[row(n, vector(1, -n), "other", later=9) for n in range(2, 6)])
    assert {number_of(n) for n in near(store, vector(1))} == {0, 1, 2}
    assert {number_of(n) for n in near(store, vector(1), extractor="other")} == {2, 3, 4, 5}
    assert near(store, vector(1), extractor="third") == []
    # An image is compared by the extractor that computed it last, or by the one that is named.
    assert {number_of(n) for n in FeatureStore(store).similar(image(2))} == {3, 4, 5}
    assert {number_of(n) for n in FeatureStore(store).similar(image(2), extractor_id="e")} == {0, 1}


def test_views_other_than_identity_are_left_out(store: Store, put: Put) -> None:
    put(store, pool_3=[row(1, vector(0, 1)), row(2, vector(1)), row(1, vector(1), view="hflip", later=9)])
    put(store, pool_3=[row(3, vector(1), view="hflip")])
    assert [(number_of(n), n.similarity) for n in near(store, vector(1))] == [(2, 1), (1, 0)]
    found, _ = stored_vector(store, store.pin(), image(1), "pool_3", None)
    assert found.tolist() == vector(0, 1).tolist()
    with pytest.raises(InputError, match="has no pool_3"):
        stored_vector(store, store.pin(), image(3), "pool_3", None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out_and_is_no_question(store: Store, put: Put, bad: float) -> None:
    put(store, pool_3=[row(n, vector(1, bad if n == 2 else n)) for n in range(4)])
    assert [number_of(n) for n in near(store, vector(1), 3)] == [0, 1, 3]
    with pytest.raises(InputError, match="not finite"):
        FeatureStore(store).similar(image(2))


@pytest.mark.parametrize("k", [0, -3])
def test_fewer_than_one_neighbour_is_refused(full: Store, many: np.ndarray, k: int) -> None:
    with pytest.raises(InputError, match=f"k = {k}; allowed: 1 and more"):
        near(full, many[0], k)


def test_neighbours_carry_their_first_item(store: Store, put: Put) -> None:
    items: Sequence[tuple[str, str, int, str | None]] = [
        ("b", "1", 1, "sad"), ("a", "9", 1, "happy"), ("a", "10", 1, None), ("b", "0", 2, None)
    ]  # fmt: skip
    put(
        store,
        images=[{"dataset": d, "item_id": i, "image_id": image(n), "label": label} for d, i, n, label in items],
        pool_3=[row(n, vector(1, n)) for n in (1, 2, 3)],
    )
    assert [(n.dataset, n.item_id, n.label) for n in near(store, vector(1))] == [
        ("a", "10", None),
        ("b", "0", None),
        (None, None, None),
    ]


def test_an_empty_table_has_no_neighbours(store: Store, put: Put) -> None:
    assert near(store, vector(1)) == []
    put(store, pool_3=[row(1, vector(1))])
    assert FeatureStore(store).similar(image(1)) == []


def test_an_older_state_has_its_own_neighbours(store: Store, put: Put) -> None:
    before = put(store, pool_3=[row(1, vector(1)), row(2, vector(0, 1))])
    put(store, pool_3=[row(2, vector(1)), row(3, vector(1))])
    found = nearest(store, before, vector(1), layer="pool_3", extractor_id="e", k=5)
    assert [(number_of(n), n.similarity) for n in found] == [(1, 1), (2, 0)]


def test_any_layer_of_vectors_can_be_searched_and_a_layer_of_maps_not(store: Store, put: Put) -> None:
    def mean_row(number: int) -> Any:
        named = {"image_id": image(number), "extractor_id": "e", "view": "identity"}
        return {**named, "mixed_8_mean": vector(1, number, size=1280)}

    put(store, mixed_8_mean=[mean_row(n) for n in range(3)])
    found = FeatureStore(store).similar(image(0), layer="mixed_8_mean")
    assert [number_of(n) for n in found] == [1, 2]
    for layer in ("mixed_8", "images", "nosuch"):
        with pytest.raises(InputError, match=rf"'{layer}' holds no vectors; allowed: .*mixed_8_mean.*pool_3"):
            stored_vector(store, store.pin(), image(0), layer, None)
