"""What a query gives back: Arrow, NumPy, Python values and a picture of itself."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ferstore.api import FeatureStore
from ferstore.errors import QueryError
from ferstore.store.pin import Pin
from ferstore.store.store import init_store

Put = Callable[..., Pin]
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
MANY = 5000  # more than one batch of DuckDB's 2,048 rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore(init_store(str(tmp_path_factory.mktemp("result") / "store")))


def test_rows_are_python_values_in_the_order_asked_for(store: FeatureStore) -> None:
    query = "select 1, 'ä', null, 1.5, [1, null], {'a': 1}, timestamptz '2026-11-23 08:00:00Z', 'ab'::blob, true"
    ((*first, struct, moment, data, truth),) = store.sql(query).rows()
    assert [float(value) if n == 3 else value for n, value in enumerate(first)] == [1, "ä", None, 1.5, [1, None]]
    assert (struct, moment, data, truth) == ({"a": 1}, NOW, b"ab", True)
    assert store.sql("from range(3) order by 1 desc").rows() == [(2,), (1,), (0,)]


def test_all_rows_come_in_order_however_many_batches_they_are(store: FeatureStore) -> None:
    result = store.sql(f"select range as n, [range, -range]::FLOAT[] as pair from range({MANY})")
    assert result.rows()[-1] == (MANY - 1, [MANY - 1, 1 - MANY])
    found = result.numpy()
    assert np.array_equal(found["n"], np.arange(MANY))
    assert np.array_equal(found["pair"], np.stack([np.arange(MANY), -np.arange(MANY)], axis=1))
    assert (found["pair"].dtype, found["pair"].flags.c_contiguous) == (np.float32, True)


def test_lists_of_one_length_are_one_array_and_others_are_lists(store: FeatureStore) -> None:
    columns = {
        "even": "[i, i + 1]",
        "single": "[i]",
        "ragged": "range(i)",
        "some_null": "case when i > 1 then [i] end",
        "all_null": "null::INTEGER[]",
        "nested": "[[i]]",
        "words": "['a', 'b' || i]",
        "empty": "[]::FLOAT[]",
    }
    shown = ", ".join(f"{text} as {name}" for name, text in columns.items())
    found = store.sql(f"select {shown} from range(3) r(i)").numpy()
    assert list(found) == list(columns)
    assert found["even"].tolist() == [[0, 1], [1, 2], [2, 3]]
    assert found["single"].shape == (3, 1)
    assert [list(value) for value in found["ragged"]] == [[], [0], [0, 1]]
    assert [None if value is None else list(value) for value in found["some_null"]] == [None, None, [2]]
    assert found["all_null"].tolist() == [None] * 3
    assert found["nested"].shape == (3, 1)
    assert found["words"].tolist() == [["a", f"b{n}"] for n in range(3)]
    assert found["empty"].shape == (3, 0)


def test_plain_columns_are_arrays_of_their_own_type(store: FeatureStore) -> None:
    found = store.sql("select 1::INTEGER i, 2::BIGINT l, 0.5::FLOAT f, 0.5::DOUBLE d, 'x' s, true b").numpy()
    kinds = {"i": np.int32, "l": np.int64, "f": np.float32, "d": np.float64, "s": np.object_, "b": np.bool_}
    assert {name: array.dtype for name, array in found.items()} == {n: np.dtype(kind) for n, kind in kinds.items()}
    assert {name: array.tolist() for name, array in found.items()} == {
        "i": [1], "l": [2], "f": [0.5], "d": [0.5], "s": ["x"], "b": [True]
    }  # fmt: skip
    numbers = store.sql("select case when i > 0 then i end as n from range(2) r(i)").numpy()["n"]
    assert np.isnan(numbers[0])
    assert numbers[1] == 1


def test_vectors_of_the_store_are_a_matrix(tmp_path: Path, put: Put) -> None:
    store = FeatureStore(init_store(str(tmp_path / "store")))
    values = np.random.default_rng(0).normal(size=(5, 2048)).astype(np.float32)
    for half in ((0, 2, 4), (1, 3)):  # of two files
        put(store.store, pool_3=[{"image_id": f"{n}", "pool_3": values[n]} for n in half])
    found = store.sql("select image_id, pool_3, norm from pool_3 order by image_id").numpy()
    assert np.array_equal(found["pool_3"], values)
    assert found["pool_3"].dtype == np.float32
    assert found["norm"] == pytest.approx(np.linalg.norm(values, axis=1))


def test_no_rows_still_have_their_columns(store: FeatureStore) -> None:
    result = store.sql("select item_id, votes, width from images where false")
    assert result.rows() == []
    assert {name: len(array) for name, array in result.numpy().items()} == {"item_id": 0, "votes": 0, "width": 0}
    assert result.arrow().schema.names == ["item_id", "votes", "width"]
    assert repr(result).startswith("<0 rows: item_id, votes, width>\n")


def test_a_result_can_be_asked_again_in_every_form(store: FeatureStore) -> None:
    result = store.sql("select range as n, random() as chance from range(3)")
    first = result.arrow()
    assert isinstance(first, pa.Table)
    assert result.arrow() is first  # computed once: chance is what it was
    assert result.numpy()["chance"].tolist() == first["chance"].to_pylist() == [row[1] for row in result.rows()]
    assert repr(result) == repr(result)


def test_columns_are_known_before_and_after_rows_are_read(store: FeatureStore) -> None:
    result = store.sql("select 1::BIGINT as n, [0.5::FLOAT] as list, 'a' as \"a word\"")
    for _ in range(2):
        assert result.columns.names == ("n", "list", "a word")
        assert result.columns.types == ("BIGINT", "FLOAT[]", "VARCHAR")
        result.arrow()


def test_a_picture_of_a_result_says_how_many_rows_and_shows_ten(store: FeatureStore) -> None:
    shown = repr(store.sql(f"select 'row' || range as name, range + 1 as n from range({MANY})"))
    assert shown.startswith(f"<{MANY} rows: name, n>\n")
    assert "row9" in shown
    assert "row10" not in shown


def test_rows_are_of_the_state_when_the_query_was_asked(tmp_path: Path, put: Put) -> None:
    store = FeatureStore(init_store(str(tmp_path / "store")))
    put(store.store, images=[{"item_id": "a", "label": "happy"}])
    store.tag("then")
    result = store.sql("select item_id, label from images")
    put(store.store, images=[{"item_id": "a", "label": "sad"}, {"item_id": "b"}])
    assert result.rows() == [("a", "happy")]
    assert sorted(store.sql("select item_id, label from images").rows()) == [("a", "sad"), ("b", None)]
    assert store.sql("select label from images", at="then").rows() == [("happy",)]


@pytest.mark.parametrize("read", ["arrow", "numpy", "rows", "__repr__"])
def test_a_query_that_fails_on_its_way_says_so_in_one_line(store: FeatureStore, read: str) -> None:
    result = store.sql(
        f"select case when range = {MANY - 1} then error('the last\nrow') else range end from range({MANY})"
    )
    with pytest.raises(QueryError, match="the last") as caught:
        getattr(result, read)()
    assert "\n" not in str(caught.value)


def test_reading_ends_the_process_of_the_query(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def remember(*given: Any, **named: Any) -> Any:
        started.append(popen(*given, **named))
        return started[-1]

    monkeypatch.setattr("ferstore.query.isolated.subprocess.Popen", remember)
    result = store.sql("select 1")
    assert result.rows() == [(1,)]
    assert [process.returncode is None for process in started] == [False]


def test_a_result_that_nobody_reads_ends_with_its_last_holder(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def remember(*given: Any, **named: Any) -> Any:
        started.append(popen(*given, **named))
        return started[-1]

    monkeypatch.setattr("ferstore.query.isolated.subprocess.Popen", remember)
    result = store.sql("from range(1000000000)")
    assert result.columns.names == ("range",)
    del result
    gc.collect()
    assert [process.returncode is None for process in started] == [False]
