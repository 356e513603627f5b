"""A training set is frozen: the same items for ever, whatever is ingested later, killed, or done at the same time."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from drawn import sql, tree_digest
from pyiceberg.exceptions import CommitFailedException
from sqlalchemy.exc import OperationalError

from ferstore.errors import ConflictError, InputError
from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import ingest
from ferstore.store import attempts as attempts_module
from ferstore.store import commit as commit_module
from ferstore.store.catalog import commit_transactions
from ferstore.store.commit import transact
from ferstore.store.rows import replace_rows
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.verify import verify
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import open_training_set, split

VIEW = (
    "select kind, part, item_id, counterpart_item_id, distance from leakage where training_set = 'parts' order by all"
)


def register(store: Store, rows: list[dict[str, Any]]) -> None:
    """Rows of ``images`` as an ingest would write them, without pictures."""
    schema = store.schemas["images"].arrow()
    common = {"source_url": "memory://x", "width": 8, "height": 8, "mode": "L", "ingested_at": datetime.now(UTC)}
    images = pa.Table.from_pylist([common | row for row in rows], schema)
    transact(store, lambda pin: [replace_rows(store, pin, "images", images)], {"command": "ingest"})


def face(number: int, **other: Any) -> dict[str, Any]:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return {
        "dataset": "set",
        "item_id": f"{number:03}.png",
        "image_id": digest,
        "perceptual_hash": digest[:16],
        "subject": f"S{number % 6}",
        "label": "ab"[number // 6 % 2],
        **other,
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = init_store(str(tmp_path / "store"))
    register(store, [face(number) for number in range(48)])
    return store


def request(name: str = "parts", protocol: Any = "random", **other: Any) -> SplitRequest:
    return SplitRequest(name, "set", protocol, **other)


def items(store: Store, name: str = "parts", fold: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_training_set(store, name).items(fold).to_pylist()
    return found


def test_a_set_opens_as_it_was_reported(store: Store) -> None:
    report = split(store, request(protocol="subject", folds=3, seed=5))
    opened = open_training_set(store, "parts")
    assert (opened.protocol, opened.folds, opened.seed, opened.classes) == ("subject", 3, 5, ("a", "b"))
    for fold in range(3):
        parts = [row["part"] for row in items(store, fold=fold)]
        assert {part: parts.count(part) for part in ("train", "validation", "test")} == report.parts[fold]
    assert [row["item_id"] for row in items(store)] == [f"{number:03}.png" for number in range(48)]
    assert verify(store).sound


def test_the_split_stays_whatever_is_ingested_and_relabelled_later(store: Store) -> None:
    split(store, request())
    before = items(store)
    register(store, [face(number, label="c") for number in range(40, 60)])
    assert items(store) == before
    frozen = open_training_set(store, "parts").pin
    assert frozen.snapshots["images"] != store.pin().snapshots["images"]
    with_tag = sql(store, "select images_snapshot from training_sets")
    assert with_tag == [(frozen.snapshots["images"],)]


def test_the_same_request_again_changes_nothing_and_says_so(store: Store, tmp_path: Path) -> None:
    first = split(store, request(folds=2))
    register(store, [face(number) for number in range(48, 60)])
    before = tree_digest(tmp_path / "store")
    again = split(store, request(folds=2))
    assert (first.existed, again.existed) == (False, True)
    assert (again.parts, again.run_id, again.counts) == (first.parts, first.run_id, first.counts)
    assert tree_digest(tmp_path / "store") == before


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"folds": 2}, {"leaks": "drop"}, {"labels": "soft"}, {"protocol": "subject"}]
)
def test_another_request_under_a_taken_name_is_refused(store: Store, tmp_path: Path, other: dict[str, Any]) -> None:
    split(store, request())
    before = tree_digest(tmp_path / "store")
    with pytest.raises(InputError, match="'parts' exists and never changes"):
        split(store, request(**other))
    assert tree_digest(tmp_path / "store") == before


def test_two_sets_of_the_same_state_and_request_are_the_same_split(store: Store) -> None:
    split(store, request("one"))
    split(store, request("two"))
    assert items(store, "one") == items(store, "two")


def test_a_dry_run_reports_the_same_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    before = tree_digest(tmp_path / "store")
    dry = split(store, request(folds=3), dry_run=True)
    assert tree_digest(tmp_path / "store") == before
    assert dry.run_id is None
    made = split(store, request(folds=3))
    assert (dry.parts, dry.leak_counts, dry.counts) == (made.parts, made.leak_counts, made.counts)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (SplitRequest("parts", "nowhere", "random"), "no data set 'nowhere'; allowed: set"),
        (SplitRequest("a/b", "set", "random"), "training set name 'a/b'"),
        (SplitRequest("parts", "set", "official"), "official split has no train"),
        (SplitRequest("parts", "set", "random", folds=49), "allowed: 2 to 48"),
        (SplitRequest("parts", "set", "random", leaks="refuse"), "same_subject train"),
        (SplitRequest("parts", "set", "random", leaks="drop"), "would have no train"),
    ],
)
def test_wrong_input_is_refused_before_anything_changes(
    store: Store, tmp_path: Path, asked: SplitRequest, said: str
) -> None:
    before = tree_digest(tmp_path / "store")
    with pytest.raises(InputError, match=said):
        split(store, asked)
    assert tree_digest(tmp_path / "store") == before


def test_a_tag_that_is_in_the_way_is_not_taken_over(store: Store) -> None:
    create_tag(store, "training-set parts")
    with pytest.raises(InputError, match="tag 'training-set parts' exists"):
        split(store, request())
    assert sql(store, "select count(*) from training_sets") == [(0,)]


def twins(store: Store) -> None:
    """Ten items without persons; a twin by bytes, by hash and by a near hash in validation or test."""
    parts = ["train"] * 6 + ["validation", "validation", "test", "test"]
    rows = [
        face(n, item_id=f"t{n}", dataset="twins", subject=None, label="ab"[n % 2], official_split=part)
        for n, part in enumerate(parts)
    ]
    rows[6]["image_id"] = rows[2]["image_id"]
    rows[7]["perceptual_hash"] = rows[3]["perceptual_hash"]
    rows[8]["perceptual_hash"] = f"{int(str(rows[4]['perceptual_hash']), 16) ^ 0b101:016x}"
    register(store, rows)


def test_the_leakage_view_lists_both_sides_by_kind(store: Store) -> None:
    twins(store)
    split(store, SplitRequest("parts", "twins", "official"))
    assert sql(store, VIEW) == [
        ("near_duplicate", "test", "t8", "t4", 2),
        ("near_duplicate", "train", "t4", "t8", 2),
        ("same_bytes", "train", "t2", "t6", None),
        ("same_bytes", "validation", "t6", "t2", None),
        ("same_hash", "train", "t3", "t7", 0),
        ("same_hash", "validation", "t7", "t3", 0),
    ]
    counts = json.loads(str(sql(store, "select leak_counts from training_sets")[0][0]))
    assert counts["near_duplicate"] == {"train": 1, "validation": 0, "test": 1}


def test_the_leakage_view_is_empty_after_the_leaks_were_dropped(store: Store) -> None:
    twins(store)
    report = split(store, SplitRequest("parts", "twins", "official", leaks="drop"))
    assert report.dropped == 3
    assert [row["item_id"] for row in items(store)] == ["t0", "t1", "t5", "t6", "t7", "t8", "t9"]
    assert sql(store, VIEW) == []
    dropped = sql(store, "select item_id from training_set_leaks where part = 'train' order by all")
    assert dropped == [("t2",), ("t3",), ("t4",)]


def test_a_person_on_both_sides_is_in_the_view(store: Store) -> None:
    split(store, request())
    assert sql(store, "select distinct kind from leakage") == [("same_subject",)]


def test_a_set_that_is_not_there_is_refused_with_those_that_are(store: Store) -> None:
    split(store, request("one"))
    with pytest.raises(InputError, match="no training set 'two'; allowed: one"):
        open_training_set(store, "two")


def test_a_fold_that_is_not_there_is_refused(store: Store) -> None:
    split(store, request(folds=2))
    with pytest.raises(InputError, match="allowed: 0 to 1"):
        open_training_set(store, "parts").items(2)


@pytest.mark.parametrize("table", ["images", "training_set_items"])
def test_a_set_whose_snapshot_was_vacuumed_is_refused(store: Store, table: str) -> None:
    split(store, request())
    store.pin().tables[table].manage_snapshots().remove_tag("training-set parts").commit()
    with pytest.raises(InputError, match=f"snapshot of {table} is gone"):
        open_training_set(store, "parts")


def test_the_rows_and_the_tag_land_together_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(commit_module, "commit_transactions", killed)
        with pytest.raises(KeyboardInterrupt):
            split(store, request())
    assert sql(store, "select count(*) from training_set_items") == [(0,)]
    assert "training-set parts" not in store.pin().tags()
    assert not split(store, request()).existed


def test_a_commit_whose_answer_was_lost_is_told_as_it_landed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []

    def commit_and_lose(*arguments: Any, **options: Any) -> None:
        commit_transactions(*arguments, **options)
        if not lost:
            lost.append(1)
            raise OperationalError("update", {}, Exception("connection lost"))

    monkeypatch.setattr(commit_module, "commit_transactions", commit_and_lose)
    report = split(store, request())
    assert (report.existed, lost) == (False, [1])
    assert sql(store, "select count(*) from training_set_items") == [(48,)]
    assert sql(store, "select run_id, state from runs where command = 'split'") == [(report.run_id, "done")]


def test_an_ingest_that_lands_meanwhile_is_read_or_left_out_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed: list[int] = []

    def ingest_first(*arguments: Any, **options: Any) -> None:
        if not landed:
            landed.append(1)
            register(store, [face(number) for number in range(48, 60)])
        commit_transactions(*arguments, **options)

    monkeypatch.setattr(commit_module, "commit_transactions", ingest_first)
    report = split(store, request())
    frozen = open_training_set(store, "parts")
    listed = sum(file.record_count for file in frozen.pin.data_files("images"))
    assert listed == report.counts["listed"] == frozen.items().num_rows


def test_two_at_once_under_one_name_make_one_set(store: Store) -> None:
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(lambda _: split(open_store(store.url), request()), range(2)))
    assert sorted(report.existed for report in reports) == [False, True]
    assert sql(store, "select count(*), count(distinct item_id) from training_set_items") == [(48, 48)]


def test_writers_that_never_let_go_are_a_conflict(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CommitFailedException("moved on")

    monkeypatch.setattr(commit_module, "commit_transactions", refuse)
    monkeypatch.setattr(attempts_module, "_PATIENCE", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ConflictError, match="40 times"):
        split(store, request())


def test_the_shared_sample_splits_officially_into_its_2114_534_and_520_labelled_faces(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "_READERS", 2)
    store = init_store(str(tmp_path / "store"))
    ingest(store, "ferplus", str(shared / "data/ferplus-sample"), name="sample")
    report = split(store, SplitRequest("parts", "sample", "official", "soft"))
    assert report.parts == ({"train": 2114, "validation": 534, "test": 520},)
    assert report.counts["kept"] + report.counts["no_label"] == report.counts["listed"] == 3600
    # Counted apart from ferstore, with Pillow and NumPy: bytes, hashes and their bits.
    assert report.leak_counts["same_bytes"] == {"train": 7, "validation": 2, "test": 5}
    assert report.leak_counts["same_hash"] == {"train": 1, "validation": 1, "test": 0}
    assert report.leak_counts["near_duplicate"] == {"train": 9, "validation": 4, "test": 5}
    agree = """select count(*), count(*) filter (classes[list_position(soft_label, list_max(soft_label))] = label),
        max(abs(list_sum(soft_label) - 1)) < 1e-6 from training_set_items join training_sets on name = training_set"""
    assert sql(store, agree) == [(3168, 3168, True)]
