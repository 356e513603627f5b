"""Small files become large ones, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import sql, tree_digest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.errors import CorruptionError
from ferstore.store import compact as compact_module
from ferstore.store.compact import compact, merges
from ferstore.store.erase import erase
from ferstore.store.files import local_path
from ferstore.store.rows import read_rows
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag
from ferstore.store.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def put_features(put: Any, store: Store, files: int, rows: int = 3) -> None:
    values = np.random.default_rng(0).normal(size=(files * rows, 2048)).astype(np.float32)
    values[0, 0] = np.nan
    for file in range(files):
        keys = range(file * rows, (file + 1) * rows)
        put(store, pool_3=[{"image_id": f"{n:03}", "extractor_id": f"{file % 2}", "pool_3": values[n]} for n in keys])


def rows_of(store: Store, table: str, at: str | None = None) -> pa.Table:
    return read_rows(store, store.pin(at), table).sort_by("image_id")


@given(
    sizes=st.lists(st.integers(0, 300), max_size=40),
    target=st.integers(2, 200),
)
def test_every_small_file_is_in_one_merge_at_most_and_a_second_time_finds_nothing(
    sizes: list[int], target: int
) -> None:
    groups = merges(sizes, target)
    chosen = [index for group in groups for index in group]
    assert chosen == sorted(set(chosen))
    assert all(len(group) > 1 and sum(sizes[i] for i in group) <= target for group in groups)
    assert all(sizes[index] * 2 < target for index in chosen)
    after = [size for index, size in enumerate(sizes) if index not in chosen]
    merged = [sum(sizes[i] for i in group) for group in groups]
    assert len([size for size in after + merged if size * 2 < target]) <= 1


def test_many_files_become_one_with_the_same_rows(store: Store, put: Any) -> None:
    put_features(put, store, files=5)
    before = rows_of(store, "pool_3")
    report = compact(store)
    (table,) = [t for t in report.tables if t.table == "pool_3"]
    assert (table.rows, table.files, table.files_after) == (15, 5, 1)
    after = rows_of(store, "pool_3")
    values = [np.asarray(t["pool_3"].combine_chunks().flatten()).tobytes() for t in (before, after)]
    assert values[0] == values[1]  # not a number included
    assert after.drop_columns(["pool_3", "norm"]) == before.drop_columns(["pool_3", "norm"])
    assert len(store.pin().data_files("pool_3")) == 1
    assert verify(store).sound


def test_a_map_keeps_its_bytes_and_its_row_groups(store: Store, put: Any) -> None:
    values = np.random.default_rng(1).normal(size=(70, 8, 8, 2048)).astype(np.float16)
    for start in range(0, 70, 35):
        put(
            store,
            mixed_10=[
                {"image_id": f"{n:03}", "mixed_10": values[n].astype(np.float32)} for n in range(start, start + 35)
            ],
        )
    compact(store)
    (file,) = store.pin().data_files("mixed_10")
    path = str(local_path(file.file_path))
    layout = pq.read_metadata(path)
    assert [layout.row_group(n).num_rows for n in range(layout.num_row_groups)] == [64, 6]
    found = rows_of(store, "mixed_10")["mixed_10"].to_pylist()
    assert found == [value.astype("<f2").tobytes() for value in values]


def test_every_row_group_of_a_file_is_merged(store: Store, put: Any) -> None:
    blank = np.zeros((8, 8, 2048), np.float32)
    for start, count in ((0, 70), (70, 3)):
        put(store, mixed_10=[{"image_id": f"{n:03}", "mixed_10": blank} for n in range(start, start + count)])
    compact(store)
    (file,) = store.pin().data_files("mixed_10")
    assert file.record_count == 73
    assert sorted(rows_of(store, "mixed_10")["image_id"].to_pylist()) == [f"{n:03}" for n in range(73)]


def test_a_second_time_there_is_nothing_to_do(store: Store, put: Any, tmp_path: Path) -> None:
    put_features(put, store, files=3)
    put(store, runs=[{"run_id": "a"}])
    put(store, runs=[{"run_id": "b"}])
    assert compact(store).run_id
    before = tree_digest(tmp_path / "store")
    again = compact(store)
    assert (again.tables, again.run_id) == ((), None)
    assert tree_digest(tmp_path / "store") == before


def test_a_dry_run_changes_nothing(store: Store, put: Any, tmp_path: Path) -> None:
    put_features(put, store, files=3)
    before = tree_digest(tmp_path / "store")
    (table,) = compact(store, dry_run=True).tables
    assert (table.table, table.files, table.files_after) == ("pool_3", 3, 1)
    assert tree_digest(tmp_path / "store") == before


def test_tags_and_past_states_read_what_they_read_before(store: Store, put: Any) -> None:
    put_features(put, store, files=2)
    create_tag(store, "first")
    put(store, pool_3=[{"image_id": "new", "pool_3": np.ones(2048)}])
    before = rows_of(store, "pool_3", "first")["image_id"]
    compact(store)
    assert rows_of(store, "pool_3", "first")["image_id"] == before
    assert sql(store, "select count(*) from pool_3") == [(7,)]


def test_a_damaged_file_is_not_given_a_new_digest(store: Store, put: Any) -> None:
    put_features(put, store, files=2)
    files = store.pin().data_files("pool_3")
    path = local_path(files[0].file_path)
    assert path is not None
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptionError, match=path.name):
        compact(store)
    assert {f.file_path for f in store.pin().data_files("pool_3")} == {f.file_path for f in files}


def test_a_file_without_a_digest_that_lacks_rows_is_refused(store: Store, put: Any, monkeypatch: Any) -> None:
    put_features(put, store, files=2)
    original = compact_module.rewrite
    monkeypatch.setattr(compact_module, "rewrite", lambda s, t, urls: original(s, t, urls[:1]))
    with pytest.raises(CorruptionError, match="hold 3 rows, their manifest says 6"):
        compact(store)
    assert len(store.pin().data_files("pool_3")) == 2


def test_rows_that_left_meanwhile_do_not_come_back(store: Store, put: Any, monkeypatch: Any) -> None:
    """Another writer replaces one of the files between reading and committing."""
    for label in ("a", "b"):
        put(store, images=[{"item_id": label, "label": "old"}])
    original = compact_module.rewrite

    def slow(*arguments: Any) -> Any:
        file = original(*arguments)
        if arguments[1] == "images":
            put(store, images=[{"item_id": "a", "label": "new"}])
        return file

    monkeypatch.setattr(compact_module, "rewrite", slow)
    report = compact(store)
    assert "images" not in [table.table for table in report.tables]
    assert sql(store, "select item_id, label from images order by all") == [("a", "new"), ("b", "old")]
    assert verify(store).sound


@pytest.mark.parametrize("when", ["before its files are read", "before it commits"])
def test_an_erasure_meanwhile_leaves_nothing_of_the_person_and_is_no_damage(
    store: Store, put: Any, monkeypatch: Any, when: str
) -> None:
    """It takes away the state that the compaction began with, manifests and all."""
    for number in range(3):
        put(store, images=[{"item_id": f"{number}", "image_id": f"{number:064x}", "subject": f"s{number}"}])
    original, erased = compact_module.rewrite, []

    def rewriting(*arguments: Any) -> Any:
        def once() -> None:
            if not erased:
                erased.append(erase(store, subject="s1"))

        if when == "before its files are read":
            once()
        made = original(*arguments)
        once()
        return made

    monkeypatch.setattr(compact_module, "rewrite", rewriting)
    compact(store)
    assert erased
    assert sql(store, "select subject from images order by subject") == [("s0",), ("s2",)]
    assert verify(store).sound


def test_rows_that_come_meanwhile_stay(store: Store, put: Any, monkeypatch: Any) -> None:
    put_features(put, store, files=2)
    original = compact_module.rewrite

    def slow(*arguments: Any) -> Any:
        put(store, pool_3=[{"image_id": "late", "pool_3": np.ones(2048)}])
        monkeypatch.undo()
        return original(*arguments)

    monkeypatch.setattr(compact_module, "rewrite", slow)
    compact(store)
    assert sql(store, "select count(*), count(distinct image_id) from pool_3") == [(7, 7)]
    assert len(store.pin().data_files("pool_3")) == 2
