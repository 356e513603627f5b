"""Rows are replaced by key, whole files at a time, and only the files that hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem

from ferstore.store import rows as rows_module
from ferstore.store.commit import transact
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, replace_rows, write_rows
from ferstore.store.store import Store, init_store
from ferstore.store.writer import feature_values

Put = Callable[..., Pin]
TableOf = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def paths(pin: Pin, table: str) -> set[str]:
    return {data_file.file_path for data_file in pin.data_files(table)}


def test_files_without_a_changed_row_stay_as_they_are(store: Store, put: Put) -> None:
    first = paths(put(store, images=[{"item_id": "a"}]), "images")
    second = paths(put(store, images=[{"item_id": "b"}]), "images") - first
    after = paths(put(store, images=[{"item_id": "a", "label": "sad"}]), "images")
    assert second <= after
    assert not first & after


def test_removed_keys_leave_and_their_file_keeps_its_other_rows(store: Store, put: Put, table_of: TableOf) -> None:
    put(store, images=[{"item_id": item, "label": item} for item in "abc"])
    none = table_of(store, "images", [])
    gone = pa.table({"dataset": ["-", "-"], "item_id": ["b", "never there"]})
    pin = transact(store, lambda pin: [replace_rows(store, pin, "images", none, gone)], {})
    assert sorted(read_rows(store, pin, "images")["label"].to_pylist()) == ["a", "c"]


def test_removing_every_row_leaves_an_empty_table(store: Store, put: Put, table_of: TableOf) -> None:
    put(store, images=[{}])
    gone = pa.table({"dataset": ["-"], "item_id": ["-"]})
    pin = transact(store, lambda pin: [replace_rows(store, pin, "images", table_of(store, "images", []), gone)], {})
    assert paths(pin, "images") == set()
    assert len(read_rows(store, pin, "images")) == 0


@pytest.mark.parametrize("part", ["extractor_id", "view"])
def test_a_null_key_part_is_a_key_of_its_own(store: Store, put: Put, part: str) -> None:
    named = {"extractor_id": "e", "view": "identity"}
    put(store, quarantine=[{**named, "error": "named"}])
    put(store, quarantine=[{**named, part: None, "error": "null"}])
    pin = put(store, quarantine=[{**named, part: None, "error": "null again"}])
    assert sorted(read_rows(store, pin, "quarantine")["error"].to_pylist()) == ["named", "null again"]


def test_rows_put_again_unchanged_are_there_once(store: Store, put: Put) -> None:
    """The new file has the bytes of the one it replaces, but not its name: an overwrite cannot remove what it adds."""
    before = put(store, images=[{"item_id": "a"}, {"item_id": "b"}])
    after = put(store, images=[{"item_id": "a"}, {"item_id": "b"}])
    assert not paths(after, "images") & paths(before, "images")
    assert sorted(read_rows(store, after, "images")["item_id"].to_pylist()) == ["a", "b"]


def test_rows_that_return_to_an_older_state_are_there_once(store: Store, put: Put) -> None:
    for label in ("happy", "sad", "happy"):
        pin = put(store, images=[{"label": label}])
    assert read_rows(store, pin, "images")["label"].to_pylist() == ["happy"]


def test_maps_and_vectors_survive_the_rewrite_of_their_file(store: Store, put: Put) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 8, 8, 2048)).astype(np.float32)
    put(store, mixed_10=[{"image_id": str(n), "mixed_10": values} for n, values in enumerate(maps)])
    pin = put(store, mixed_10=[{"image_id": "1", "mixed_10": maps[1] * 2}])
    found = read_rows(store, pin, "mixed_10").sort_by("image_id")
    stored = feature_values(store.schemas["mixed_10"], found["mixed_10"].combine_chunks())
    assert np.array_equal(stored, np.stack([maps[0], maps[1] * 2, maps[2]]).astype(np.float16))


def test_only_the_columns_and_rows_asked_for_are_read(store: Store, put: Put) -> None:
    pin = put(store, images=[{"item_id": item, "width": n} for n, item in enumerate("abc")])
    found = read_rows(store, pin, "images", ["item_id"], pc.field("width") > 0)
    assert found.column_names == ["item_id"]
    assert sorted(found["item_id"].to_pylist()) == ["b", "c"]


@pytest.mark.parametrize("table", ["images", "pool_3"])
def test_what_arrows_threads_hold_is_no_object_of_pythons(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """They let go of it later; where the interpreter was just ending, a command that had succeeded ended in SIGABRT."""
    put(
        store,
        images=[{"item_id": "1", "image_id": "a"}],
        pool_3=[{"image_id": "a", "pool_3": np.ones(2048, np.float32)}],
    )
    bytes_of_pythons: list[bytes] = []
    sources: list[Any] = []
    checked, original = rows_module.read_checked, pq.read_table

    def read(url: str) -> bytes:
        bytes_of_pythons.append(checked(url))
        return bytes_of_pythons[-1]

    def read_table(source: Any, **options: Any) -> pa.Table:
        sources.append((source, options["filesystem"]))
        return original(source, **options)

    monkeypatch.setattr(rows_module, "read_checked", read)
    monkeypatch.setattr(pq, "read_table", read_table)
    assert len(read_rows(store, store.pin(), table, ["image_id"], pc.field("image_id") != "b")) == 1
    [(source, at)] = sources
    if isinstance(source, str):
        assert isinstance(at, LocalFileSystem)
    else:
        theirs = np.frombuffer(bytes_of_pythons[0], np.uint8).ctypes.data
        assert source.read_buffer(1).address != theirs


def test_an_empty_table_is_read_with_its_columns(store: Store) -> None:
    assert read_rows(store, store.pin(), "images").schema == store.schemas["images"].arrow()
    assert read_rows(store, store.pin(), "images", ["label"]).column_names == ["label"]


def test_many_rows_are_written_as_several_files(
    store: Store, table_of: TableOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_ROWS_A_FILE", 2)
    files = write_rows(store, "images", table_of(store, "images", [{"item_id": str(n)} for n in range(5)]))
    assert [file.rows for file in files] == [2, 2, 1]
