"""What changed between two states: rows by key, labels by item, vectors by extractor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ferstore.api import FeatureStore
from ferstore.query.diff import Diff, Drift, Relabelled, diff
from ferstore.store.commit import transact
from ferstore.store.pin import Pin
from ferstore.store.rows import replace_rows
from ferstore.store.store import Store, init_store

Put = Callable[..., Pin]
Row = dict[str, Any]
LATER = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def counts(found: Diff) -> dict[str, tuple[int, int, int]]:
    return {t.table: (t.added, t.removed, t.changed) for t in found.tables}


def item(name: str, label: str | None = "happy", **more: Any) -> Row:
    return {"item_id": name, "label": label, **more}


def take_out(store: Store, *items: str) -> Pin:
    gone = pa.table({"dataset": ["-"] * len(items), "item_id": list(items)})
    none = store.schemas["images"].arrow().empty_table()
    return transact(store, lambda pin: [replace_rows(store, pin, "images", none, gone)], {})


def vectors(values: np.ndarray, extractor: str = "e", view: str = "identity", first: int = 0) -> list[Row]:
    """Rows of pool_3; ``values`` are the first channels, the others are zero."""
    full = np.zeros((len(values), 2048), np.float32)
    full[:, : values.shape[1]] = values
    named = {"extractor_id": extractor, "view": view}
    return [{"image_id": f"{n}", "pool_3": row, **named} for n, row in enumerate(full, first)]


def test_rows_are_added_removed_and_changed_by_key(store: Store, put: Put) -> None:
    put(store, images=[item(name) for name in "abcdef"], runs=[{"run_id": "1"}])
    before = put(store, images=[item("g")])
    put(store, images=[item("a", width=7), item("b", mode="L"), item("h"), item("i"), item("j")])
    put(store, runs=[{"run_id": "1", "state": "done"}, {"run_id": "2"}], quarantine=[{"error": "e"}])
    after = take_out(store, "c", "d", "e", "g", "never there")
    assert counts(diff(store, before, after)) == {"images": (3, 4, 2), "runs": (1, 0, 1), "quarantine": (1, 0, 0)}
    assert counts(diff(store, after, before)) == {"images": (4, 3, 2), "runs": (0, 1, 1), "quarantine": (0, 1, 0)}


def test_the_same_item_of_another_data_set_is_another_row(store: Store, put: Put) -> None:
    before = put(store, images=[item("a", dataset="x")])
    after = put(store, images=[item("a", "sad", dataset="y")])
    found = diff(store, before, after)
    assert (counts(found), found.relabelled) == ({"images": (1, 0, 0)}, ())


def test_a_rewritten_file_is_no_change_of_the_rows_in_it(store: Store, put: Put) -> None:
    before = put(store, images=[item(name, votes=[1, 2]) for name in "abc"])
    put(store, images=[item("b", "sad")])
    after = put(store, images=[item("b", votes=[1, 2])])  # the same rows in another order
    assert before.data_files("images")[0].file_path not in {f.file_path for f in after.data_files("images")}
    assert diff(store, before, after) == Diff((), (), ())


def test_when_a_row_was_written_is_no_difference(store: Store, put: Put) -> None:
    values = np.ones((2, 3))
    before = put(store, images=[item("a")], pool_3=vectors(values))
    rows = [{**row, "extracted_at": LATER} for row in vectors(values)]
    after = put(store, images=[item("a", ingested_at=LATER)], pool_3=rows)
    found = diff(store, before, after)
    assert (found.tables, found.relabelled) == ((), ())
    assert [(d.before, d.after, d.largest_shift) for d in found.drift] == [(2, 2, 0)]


def test_a_recomputed_vector_is_a_change(store: Store, put: Put) -> None:
    before = put(store, pool_3=vectors(np.ones((3, 4))))
    after = put(store, pool_3=vectors(np.full((1, 4), 2.0), first=1))
    assert counts(diff(store, before, after)) == {"pool_3": (0, 0, 1)}


def test_relabelled_items_are_named_in_order_with_both_labels(store: Store, put: Put) -> None:
    votes = {"a": [5, 5], "b": [9, 1], "c": [2, 8], "d": [7, 3]}
    before = put(store, images=[item(name, votes=votes[name]) for name in "abcd"] + [item("e", None), item("gone")])
    put(
        store,
        images=[
            item("e", "sad"),
            item("d", "happy", votes=[3, 7]),  # the votes moved, the majority stayed
            item("c", None, votes=votes["c"]),
            item("b", votes=votes["b"], width=9, source_url="elsewhere"),  # neither
            item("a", "fear", votes=votes["a"]),
            item("new", "sad"),
        ],
    )
    after = take_out(store, "gone")
    found = diff(store, before, after)
    assert counts(found) == {"images": (1, 1, 5)}
    assert found.relabelled == (
        Relabelled("-", "a", "happy", "fear"),
        Relabelled("-", "c", "happy", None),
        Relabelled("-", "d", "happy", "happy"),
        Relabelled("-", "e", None, "sad"),
    )
    back = diff(store, after, before).relabelled
    assert [(r.item_id, r.before, r.after) for r in back] == [(r.item_id, r.after, r.before) for r in found.relabelled]


def drift_of(store: Store, before: Pin, after: Pin) -> Drift:
    (found,) = diff(store, before, after).drift
    return found


def test_drift_is_the_largest_shift_of_a_mean_in_its_own_deviations(store: Store, put: Put) -> None:
    # Deviations before: 1 and 10. The first mean moves by 3 of them, the second by 1; the third is constant.
    before = put(store, pool_3=vectors(np.array([[1.0, 10, 4], [3, 30, 4]])))
    after = put(store, pool_3=vectors(np.array([[4.0, 30, 5], [6, 30, 5]])))
    found = drift_of(store, before, after)
    assert (found.extractor_id, found.before, found.after) == ("e", 2, 2)
    assert found.largest_shift == pytest.approx(3)
    a, b = np.array([2, 20, 4]), np.array([5, 30, 5])
    assert found.mean_cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert drift_of(store, after, before).largest_shift == pytest.approx(3)  # deviation of the first is 1 there too


@pytest.mark.parametrize("files", [1, 2, 4])
def test_drift_of_vectors_in_any_files_is_that_of_numpy(store: Store, put: Put, files: int) -> None:
    chance = np.random.default_rng(files)
    first, both = chance.normal(3, 2, size=(9, 2048)), chance.normal(2, 3, size=(15, 2048))
    both[:9] = first
    for number, part in enumerate(np.array_split(first, files)):
        before = put(store, pool_3=vectors(part, first=number * 100))
    found = drift_of(store, before, put(store, pool_3=vectors(both[9:], first=1000)))
    shift = np.abs(both.mean(0) - first.mean(0)) / first.std(0)
    cosine = both.mean(0) @ first.mean(0) / np.linalg.norm(both.mean(0)) / np.linalg.norm(first.mean(0))
    assert (found.before, found.after) == (9, 15)
    assert (found.largest_shift, found.mean_cosine) == pytest.approx((shift.max(), cosine), rel=1e-5)


def test_extractors_drift_apart_and_mirrored_views_do_not_count(store: Store, put: Put) -> None:
    ones = np.array([[1.0, 2], [3, 2]])
    before = put(store, pool_3=[*vectors(ones, "b"), *vectors(ones, "a"), *vectors(ones, "left"), *vectors(ones, "m")])
    put(store, pool_3=vectors(ones + 5, "b", first=2) + vectors(ones * 9, "m", view="hflip"))
    after = put(store, pool_3=vectors(ones, "new"))
    found = {
        d.extractor_id: (d.before, d.after, pytest.approx(d.largest_shift)) for d in diff(store, before, after).drift
    }
    assert found == {"a": (2, 2, 0), "b": (2, 4, 2.5), "left": (2, 2, 0), "m": (2, 2, 0)}
    assert list(found) == sorted(found)


def test_vectors_that_are_all_zero_have_not_drifted(store: Store, put: Put) -> None:
    before = put(store, pool_3=vectors(np.zeros((2, 1))))
    found = drift_of(store, before, put(store, pool_3=vectors(np.zeros((2, 1)), first=2)))
    assert (found.mean_cosine, found.largest_shift) == (1, 0)


def test_a_state_differs_in_nothing_from_itself(store: Store, put: Put) -> None:
    pin = put(store, images=[item("a")], pool_3=vectors(np.ones((2, 2))))
    assert diff(store, pin, store.pin()) == Diff((), (), ())
    assert diff(store, pin, put(store, images=[item("b")])).drift == ()


def test_states_are_given_as_tags_snapshots_and_times(store: Store, put: Put) -> None:
    first = put(store, images=[item("a")], runs=[{"run_id": "1"}])
    api = FeatureStore(store)
    api.tag("then")
    put(store, images=[item("a", "sad"), item("b")])
    api.tag("now")
    for before in ("then", f"{first.snapshots['images']}", f"{first.snapshots['runs']}"):
        found = api.diff(before, "now")
        assert counts(found) == {"images": (1, 0, 1)}
        assert [(r.item_id, r.before, r.after) for r in found.relabelled] == [("a", "happy", "sad")]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert counts(api.diff("2001-01-01", tomorrow)) == {"images": (2, 0, 0), "runs": (1, 0, 0)}
