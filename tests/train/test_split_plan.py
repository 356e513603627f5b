"""What a split writes, from a request and the rows of ``images``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ferstore.errors import InputError
from ferstore.store.schema import declared_schemas
from ferstore.train.split_plan import IMAGE_COLUMNS, SplitRequest, describe_leaks, label_shares, plan_split

Row = dict[str, Any]


def image(number: int, **other: Any) -> Row:
    row = dict.fromkeys(IMAGE_COLUMNS) | {
        "item_id": f"{number:03}.png",
        "image_id": f"image-{number}",
        "label": "ab"[number % 2],
        "subject": f"S{number % 5}",
        "width": 8,
        "height": 8,
    }
    return row | other


def table(rows: list[Row]) -> pa.Table:
    schema = declared_schemas()["images"].arrow()
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in IMAGE_COLUMNS]))


def request(protocol: Any = "random", **other: Any) -> SplitRequest:
    return SplitRequest("parts", "set", protocol, **other)


ROWS = [image(number) for number in range(20)]


def test_every_listed_item_is_kept_or_counted_with_the_reason() -> None:
    places = ["train", "train", "validation", "test", None]
    rows = [image(n, official_split=places[n % 5], label=None if n == 7 else "ab"[n % 2]) for n in range(40)]
    plan = plan_split(table(rows), request("official"))
    assert plan.counts == {
        "listed": 40,
        "kept": 31,
        "no_label": 1,
        "no_official_split": 8,
        "class_only_in_validation": 0,
        "images": 31,
        "with_votes": 0,
    }
    kept = {row["item_id"]: row["official_split"] for row in rows if row["label"] and row["official_split"]}
    assert dict(zip(plan.items["item_id"].to_pylist(), plan.items["part"].to_pylist(), strict=True)) == kept


def test_a_class_that_only_validation_has_is_left_out_and_one_that_test_has_is_refused() -> None:
    parts = ["train", "train", "validation", "test"]
    rows = [image(n, official_split=parts[n % 4], label="ab"[n // 20]) for n in range(40)]
    rare = image(40, official_split="validation", label="c")
    plan = plan_split(table([*rows, rare]), request("official"))
    assert plan.classes == ("a", "b")
    assert (plan.counts["kept"], plan.counts["class_only_in_validation"]) == (40, 1)
    assert rare["item_id"] not in plan.items["item_id"].to_pylist()
    with pytest.raises(InputError, match="no train example of class 'c'"):
        plan_split(table([*rows, image(41, official_split="test", label="c")]), request("official"))


def test_items_without_an_official_part_are_kept_by_the_other_protocols() -> None:
    assert plan_split(table(ROWS), request()).counts["kept"] == 20


def test_the_order_of_the_rows_does_not_matter() -> None:
    one, other = (plan_split(table(rows), request(folds=3, seed=4)) for rows in (ROWS, ROWS[::-1]))
    assert one.items.equals(other.items)


def test_folds_are_listed_one_after_another_with_all_items() -> None:
    items = plan_split(table(ROWS), request("subject", folds=5)).items
    assert Counter(items["fold"].to_pylist()) == dict.fromkeys(range(5), 20)


def twins(policy: str) -> tuple[pa.Table, SplitRequest]:
    """Four train items, of which two have a twin in validation or test."""
    parts = {0: "train", 1: "train", 2: "train", 3: "train", 4: "validation", 5: "test"}
    twin_of = {4: 2, 5: 3}
    rows = [
        image(n, official_split=part, image_id=f"image-{twin_of.get(n, n)}", subject=None) for n, part in parts.items()
    ]
    return table(rows), request("official", leaks=policy)


def test_leaks_are_reported_and_kept() -> None:
    plan = plan_split(*twins("report"))
    assert Counter(plan.items["part"].to_pylist()) == {"train": 4, "validation": 1, "test": 1}
    assert plan.leak_counts["same_bytes"] == {"train": 2, "validation": 1, "test": 1}
    listed = plan.leaks.select(["kind", "item_id", "part", "counterpart_item_id", "counterpart_part"]).to_pylist()
    assert [tuple(row.values()) for row in listed] == [
        ("same_bytes", "002.png", "train", "004.png", "validation"),
        ("same_bytes", "003.png", "train", "005.png", "test"),
        ("same_bytes", "004.png", "validation", "002.png", "train"),
        ("same_bytes", "005.png", "test", "003.png", "train"),
    ]


def test_dropped_leaks_leave_train_and_nothing_else_and_stay_counted() -> None:
    plan = plan_split(*twins("drop"))
    assert plan.items["item_id"].to_pylist() == ["000.png", "001.png", "004.png", "005.png"]
    assert plan.leak_counts["same_bytes"]["train"] == 2
    assert plan.counts["kept"] == 6


def test_leaks_are_refused_with_their_counts() -> None:
    with pytest.raises(InputError, match="same_bytes train 2, validation 1, test 1"):
        plan_split(*twins("refuse"))


def test_a_clean_split_is_not_refused() -> None:
    assert plan_split(table(ROWS), request("subject", leaks="refuse")).leaks.num_rows == 0


def test_dropping_the_last_train_example_of_a_class_is_refused() -> None:
    rows = [image(n, subject="one") for n in range(20)]
    with pytest.raises(InputError, match="fold 0 would have no train items"):
        plan_split(table(rows), request(leaks="drop"))


def test_a_data_set_without_a_label_is_refused() -> None:
    with pytest.raises(InputError, match="no item of data set 'set' has a label"):
        plan_split(table([image(n, label=None) for n in range(9)]), request())


CLASSES = ("anger", "happiness", "neutral")
VOTED = {"label": "neutral", "votes": [5, 3, 1, 0, 0, 0, 0, 0, 0, 1]}  # neutral, happiness, surprise, ...


def test_soft_labels_are_the_shares_of_the_votes_in_the_order_of_the_classes() -> None:
    np.testing.assert_allclose(label_shares([VOTED], CLASSES, "soft"), [[0, 3 / 8, 5 / 8]], rtol=1e-6)


def test_votes_for_an_emotion_that_is_no_class_are_left_out_and_the_rest_scaled_up() -> None:
    voted = {"label": "neutral", "votes": [6, 2, 0, 0, 0, 0, 0, 2, 0, 0]}
    np.testing.assert_allclose(label_shares([voted], CLASSES, "soft"), [[0, 2 / 8, 6 / 8]], rtol=1e-6)


@pytest.mark.parametrize(("row", "labels"), [(VOTED, "majority"), ({"label": "neutral", "votes": None}, "soft")])
def test_labels_are_one_hot_without_votes_or_by_majority(row: Row, labels: Any) -> None:
    shares = label_shares([row], CLASSES, labels)
    assert shares.dtype == np.float32
    assert shares.tolist() == [[0, 0, 1]]


def test_classes_are_those_of_the_kept_items_and_each_soft_label_spans_them() -> None:
    plan = plan_split(table(ROWS), request(labels="soft"))
    assert plan.classes == ("a", "b")
    targets = zip(plan.items["label"].to_pylist(), plan.items["soft_label"].to_pylist(), strict=True)
    assert set(map(str, targets)) == {"('a', [1.0, 0.0])", "('b', [0.0, 1.0])"}


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "../a", "-a", ".a", "a'b", "x" * 81])
def test_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="training set name"):
        SplitRequest(name, "set", "random").check()


@pytest.mark.parametrize("name", ["a", "fold_10", "ck-48", "2026.11", "jaffé"])
def test_ordinary_names_are_fine(name: str) -> None:
    SplitRequest(name, "set", "random").check()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_cannot_be_stored_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match="--seed"):
        request(seed=seed).check()


def test_no_leaks_are_described_as_none() -> None:
    assert describe_leaks({"same_bytes": {"train": 0, "test": 0}}) == "none"
