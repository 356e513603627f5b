"""A training's results land together or not at all, and once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import sql
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from train_store import data_of

from ferstore.errors import SchemaError
from ferstore.store import commit as commit_module
from ferstore.store.files import StoredFile
from ferstore.store.rows import write_rows
from ferstore.store.runs import Run, new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.store.verify import verify
from ferstore.train.job import Measured, Outcome, scores
from ferstore.train.outcome import commit_outcome, curve_rows, part_scores, prediction_rows

TABLES = ("metrics", "predictions", "conv4", "runs")
DATA = data_of([], ["train", "test", "validation", "test"], labels=[0, 1, 0, 0], classes=("sad", "happy"))
CURVE = (
    Measured(1, 1, "train", 0.75, 0.5),
    Measured(2, 1, "train", 0.5, 1.0),
    Measured(2, 1, "validation", 0.25, 1.0),
)
SHARES = np.array([[math.nan, math.nan], [0.25, 0.75], [0.125, 0.875], [0.625, 0.375]], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


@pytest.fixture
def run(store: Store) -> Run:
    run = new_run("train", {"experiment": "sub_deep"}, dataset="set")
    record_run(store, run, "running")
    return run


def conv4_file(store: Store, table_of: Any, run: Run, *images: str) -> StoredFile:
    rows = [{"image_id": i, "run_id": run.run_id, "view": "identity", "conv4": [1.0] * 2048} for i in images]
    (file,) = write_rows(store, "conv4", table_of(store, "conv4", rows))
    return file


@pytest.fixture
def outcomes(store: Store, run: Run, table_of: Any) -> list[Outcome]:
    """Of two ranks."""
    files = [(conv4_file(store, table_of, run, *images),) for images in (("i0", "i1"), ("i2", "i3"))]
    return [Outcome(files[0], CURVE, SHARES, steps=2, best_step=2), Outcome(files[1])]


def commit(store: Store, run: Run, outcomes: list[Outcome], **other: Any) -> None:
    given = {"state": "done", "counts": {"steps": 2}, "error": None, "details": {"best_step": 2}}
    commit_outcome(store, run, DATA, outcomes, since=store.pin(), **{**given, **other})


def commits(store: Store) -> dict[str, str]:
    """The newest commit of each table that has rows."""
    pin = store.pin()
    found = {}
    for table in TABLES:
        snapshot = pin.tables[table].metadata.current_snapshot()
        if snapshot is not None and snapshot.summary is not None:
            found[table] = snapshot.summary.additional_properties["ferstore.commit-id"]
    return found


def test_a_curve_predictions_conv4_and_the_end_of_the_run_are_one_commit(
    store: Store, run: Run, outcomes: list[Outcome]
) -> None:
    before = commits(store)
    assert list(before) == ["runs"]
    commit(store, run, outcomes)
    after = commits(store)
    assert list(after) == list(TABLES)
    assert len(set(after.values())) == 1
    assert after["runs"] != before["runs"]
    assert verify(store).sound


def test_what_is_committed_is_what_was_handed_in(store: Store, run: Run, outcomes: list[Outcome]) -> None:
    commit(store, run, outcomes, counts={"steps": 2, "test_items": 2})
    mine = f"where run_id = '{run.run_id}'"
    assert sql(store, f"select step, epoch, part, loss, accuracy from metrics {mine} order by part, step") == [
        (1, 1, "train", 0.75, 0.5),
        (2, 1, "train", 0.5, 1.0),
        (2, 1, "validation", 0.25, 1.0),
    ]
    assert sql(store, f"select item_id, image_id, part, predicted, label from predictions {mine} order by all") == [
        ("001.png", "image-001", "test", "happy", "happy"),
        ("002.png", "image-002", "validation", "happy", "sad"),
        ("003.png", "image-003", "test", "sad", "sad"),
    ]
    assert sql(store, f"select image_id from conv4 {mine} order by all") == [("i0",), ("i1",), ("i2",), ("i3",)]
    ((state, counts, details, error),) = sql(store, f"select state, counts, details, error from runs {mine}")
    assert (state, error) == ("done", None)
    assert json.loads(str(counts)) == {"steps": 2, "test_items": 2}
    assert json.loads(str(details)) == {"best_step": 2}


def test_committing_again_changes_nothing(store: Store, run: Run, outcomes: list[Outcome]) -> None:
    commit(store, run, outcomes)
    before = store.pin().snapshots
    commit(store, run, outcomes)
    commit(store, run, outcomes, state="failed")
    assert store.pin().snapshots == before
    counts = [sql(store, f"select count(*) from {table}")[0][0] for table in TABLES]
    assert counts == [3, 3, 4, 1]


def test_a_commit_whose_answer_was_lost_lands_once(
    store: Store, run: Run, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    plain, calls = commit_module._commit, []

    def lost(*given: Any) -> None:
        plain(*given)
        calls.append(1)
        raise OperationalError("lost", None, Exception())

    monkeypatch.setattr(commit_module, "_commit", lost)
    commit(store, run, outcomes)
    assert len(calls) == 1
    counts = [sql(store, f"select count(*) from {table}")[0][0] for table in TABLES]
    assert counts == [3, 3, 4, 1]


def test_two_trainings_stay_beside_each_other(store: Store, run: Run, outcomes: list[Outcome], table_of: Any) -> None:
    commit(store, run, outcomes)
    other = new_run("train", {})
    file = conv4_file(store, table_of, other, "i0")
    commit(store, other, [Outcome((file,), CURVE[:1], SHARES)])
    found = sql(store, "select run_id, count(*) from predictions group by all order by all")
    assert sorted(found) == sorted([(run.run_id, 3), (other.run_id, 3)])
    assert sql(store, "select count(*) from conv4") == [(5,)]


def test_nothing_lands_where_one_file_does_not_fit_its_table(
    store: Store, run: Run, outcomes: list[Outcome], table_of: Any
) -> None:
    (wrong,) = write_rows(store, "images", table_of(store, "images", [{}]))
    before = store.pin().snapshots
    with pytest.raises(SchemaError, match="conv4"):
        commit(store, run, [*outcomes, Outcome((wrong,))])
    assert store.pin().snapshots == before


def test_a_training_without_conv4_leaves_none(store: Store, run: Run) -> None:
    commit(store, run, [Outcome((), CURVE, SHARES)])
    assert set(commits(store)) == {"metrics", "predictions", "runs"}


def test_a_diverged_training_leaves_its_curve_and_no_predictions(store: Store, run: Run) -> None:
    diverged = Outcome((), (*CURVE, Measured(3, 2, "train", math.nan, 0.0)), None, steps=3)
    commit(store, run, [diverged], state="failed", error="diverged")
    assert set(commits(store)) == {"metrics", "runs"}
    assert sql(store, "select count(*) filter (isnan(loss)) from metrics") == [(1,)]
    assert sql(store, "select state, error from runs") == [("failed", "diverged")]
    commit(store, run, [diverged], state="failed", error="diverged")
    assert sql(store, "select count(*) from metrics") == [(4,)]


def test_curves_and_predictions_have_the_columns_of_their_tables(store: Store) -> None:
    for table, rows in (
        ("metrics", curve_rows("r", Outcome((), CURVE))),
        ("predictions", prediction_rows("r", DATA, Outcome((), CURVE, SHARES))),
        ("predictions", prediction_rows("r", DATA, Outcome((), CURVE, None))),
    ):
        assert set(rows.column_names) == set(store.schemas[table].names)
        rows.select(store.schemas[table].names).cast(store.schemas[table].arrow())


def test_probabilities_are_those_of_the_item() -> None:
    rows = prediction_rows("r", DATA, Outcome((), CURVE, SHARES)).to_pylist()
    assert [row["probabilities"] for row in rows] == [[0.25, 0.75], [0.125, 0.875], [0.625, 0.375]]
    assert [row["item_id"] for row in rows] == ["001.png", "002.png", "003.png"]


def test_scores_are_of_one_part() -> None:
    outcome = Outcome((), CURVE, SHARES)
    assert part_scores(DATA, outcome, DATA.targets("hard"), "test") == {
        "loss": pytest.approx(-(math.log(0.75) + math.log(0.625)) / 2),
        "accuracy": 1.0,
    }
    assert part_scores(DATA, outcome, DATA.targets("hard"), "validation")["accuracy"] == 0


def test_a_part_without_items_and_a_diverged_training_have_no_scores() -> None:
    without = data_of([], ["train", "test", "test", "test"])
    assert part_scores(without, Outcome((), CURVE, SHARES), without.targets("hard"), "validation") == {}
    assert part_scores(DATA, Outcome((), CURVE, None), DATA.targets("hard"), "test") == {}


# Scores.


def test_a_loss_is_the_mean_cross_entropy_in_nats_and_accuracy_the_share_of_labels_hit() -> None:
    shares = np.array([[0.5, 0.5, 0], [0.1, 0.2, 0.7], [1, 0, 0]], np.float32)
    targets = np.array([[0.5, 0.5, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    loss, accuracy = scores(shares, targets, np.array([1, 2, 0]))
    assert loss == pytest.approx((math.log(2) - math.log(0.7)) / 3, rel=1e-6)
    assert accuracy == pytest.approx(2 / 3)  # of equal shares the first class is the answer


def test_a_share_of_zero_for_the_class_costs_much_and_not_infinitely_much() -> None:
    loss, accuracy = scores(np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32), np.array([1]))
    assert loss == pytest.approx(-math.log(1e-12))
    assert accuracy == 0


@settings(deadline=None, max_examples=50)
@given(nps.arrays(np.float32, (6, 4), elements=st.floats(0.0625, 1, width=32)), st.integers(0, 3))
def test_a_loss_is_least_where_the_shares_are_the_targets(raw: Any, label: int) -> None:
    targets = raw / raw.sum(axis=1, keepdims=True)
    labels = np.full(6, label)
    own, _ = scores(targets, targets, labels)
    even, _ = scores(np.full((6, 4), 0.25, np.float32), targets, labels)
    assert own <= even + 1e-6
    assert even == pytest.approx(math.log(4), rel=1e-5)
    assert scores(targets, targets, targets.argmax(axis=1))[1] == 1
