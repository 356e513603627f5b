"""A state of the store, found by tag, snapshot and time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyiceberg.table import DataScan

from ferstore.errors import InputError, StoreError
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag

Put = Callable[..., Pin]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def both(store: Store, put: Put, item: str) -> Pin:
    return put(store, images=[{"item_id": item}], runs=[{"run_id": item}])


def seen(store: Store, at: str | None) -> tuple[list[str], list[str]]:
    pin = store.pin(at)
    return (
        sorted(read_rows(store, pin, "images")["item_id"].to_pylist()),
        sorted(read_rows(store, pin, "runs")["run_id"].to_pylist()),
    )


def commit_time(pin: Pin, table: str = "images") -> datetime:
    snapshot = pin.tables[table].metadata.current_snapshot()
    assert snapshot
    return datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)


@pytest.mark.parametrize("table", ["images", "runs"])
def test_a_snapshot_of_one_table_stands_for_its_whole_commit(store: Store, put: Put, table: str) -> None:
    pins = [both(store, put, item) for item in "abc"]
    for pin, expected in zip(pins, (["a"], ["a", "b"], ["a", "b", "c"]), strict=True):
        assert seen(store, str(pin.snapshots[table])) == (expected, expected)


def test_other_tables_are_read_as_of_that_commit(store: Store, put: Put) -> None:
    put(store, images=[{"item_id": "a"}])
    middle = put(store, runs=[{"run_id": "r"}])
    put(store, images=[{"item_id": "b"}])
    assert seen(store, str(middle.snapshots["runs"])) == (["a"], ["r"])
    assert seen(store, str(middle.snapshots["images"])) == (["a"], [])


def test_a_snapshot_is_found_by_id_though_a_later_writers_clock_is_behind(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = both(store, put, "a")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 20)
    second = both(store, put, "b")
    monkeypatch.undo()
    assert commit_time(second) < commit_time(first)  # the guard of this test: the clock did go back
    assert seen(store, str(first.snapshots["images"])) == (["a"], ["a"])
    assert seen(store, str(second.snapshots["images"])) == (["a", "b"], ["a", "b"])


def test_a_time_is_utc_unless_it_says_otherwise(store: Store, put: Put) -> None:
    first = both(store, put, "a")
    moment = max(commit_time(first, table) for table in ("images", "runs"))  # when the commit was complete
    time.sleep(0.02)
    both(store, put, "b")
    zone = timezone(timedelta(hours=5, minutes=30))
    for at in (moment.replace(tzinfo=None), moment, moment.astimezone(zone)):
        assert seen(store, at.isoformat()) == (["a"], ["a"])
    assert seen(store, moment.astimezone(zone).replace(tzinfo=None).isoformat()) == (["a", "b"], ["a", "b"])


def test_a_commit_is_seen_whole_or_not_at_all_at_any_time(store: Store, put: Put) -> None:
    """Its snapshots in two tables carry slightly different times."""
    pin = both(store, put, "a")
    times = [commit_time(pin, table) for table in ("images", "runs")]
    for moment in (min(times) - timedelta(milliseconds=1), *times, max(times) + timedelta(milliseconds=1)):
        images, runs = seen(store, moment.isoformat())
        assert images == runs
        assert bool(images) == (moment >= max(times))


def test_before_the_first_commit_everything_is_empty(store: Store, put: Put) -> None:
    both(store, put, "a")
    assert seen(store, "2001-01-01T00:00:00Z") == ([], [])
    assert set(store.pin("2001-01-01").tables) == set(store.schemas)


def test_a_tag_freezes_every_table(store: Store, put: Put) -> None:
    put(store, images=[{"item_id": "a"}])
    assert set(create_tag(store, "ünï cödé tag")) == {"images"}
    both(store, put, "b")
    assert seen(store, "ünï cödé tag") == (["a"], [])  # runs was empty at the tag


def test_a_tag_can_name_an_older_state(store: Store, put: Put) -> None:
    older = both(store, put, "a")
    both(store, put, "b")
    create_tag(store, "then", str(older.snapshots["images"]))
    assert seen(store, "then") == (["a"], ["a"])


def test_there_is_nothing_to_tag_in_an_empty_store(store: Store) -> None:
    with pytest.raises(InputError, match="nothing to tag"):
        create_tag(store, "early")


@pytest.mark.parametrize("at", ["nosuch", "12", "2026-13-45", "yesterday"])
def test_what_is_no_state_is_refused_with_the_tags_there_are(store: Store, put: Put, at: str) -> None:
    both(store, put, "a")
    for tag in ("v2", "v1"):
        create_tag(store, tag)
    with pytest.raises(InputError, match=r"a tag \(v1, v2\).*ISO 8601"):
        store.pin(at)


def test_an_unknown_snapshot_is_refused(store: Store, put: Put) -> None:
    both(store, put, "a")
    with pytest.raises(InputError, match=r"no snapshot 123456789012.*ferstore snapshots"):
        store.pin("123456789012")


def test_delete_files_of_another_engine_are_not_ignored(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = both(store, put, "a")
    original = DataScan.plan_files

    def with_deletes(scan: DataScan) -> list[Any]:
        return [SimpleNamespace(file=task.file, delete_files={"a position delete"}) for task in original(scan)]

    monkeypatch.setattr(DataScan, "plan_files", with_deletes)
    with pytest.raises(StoreError, match=r"'images' has row-level delete files.*rewrite"):
        pin.data_files("images")


def test_snapshots_are_told_oldest_first(store: Store, put: Put) -> None:
    for item in "abc":
        both(store, put, item)
    told = [(name, snapshot.snapshot_id) for name, snapshot in store.pin().all_snapshots()]
    assert len(told) == 6
    images = [s.snapshot_id for s in store.pin().tables["images"].metadata.snapshots]
    assert [snapshot for name, snapshot in told if name == "images"] == images
