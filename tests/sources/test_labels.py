from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.errors import SourceError
from ferstore.sources.labels import EMOTIONS, VOTES, majority, soft

ten_votes = st.lists(st.integers(0, 10), min_size=10, max_size=10)


def shares(**of: float) -> tuple[float, ...]:
    return tuple(of.get(emotion, 0.0) for emotion in EMOTIONS)


@pytest.mark.parametrize(
    ("votes", "label", "distribution"),
    [
        # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
        ((10, 0, 0, 0, 0, 0, 0, 0, 0, 0), "neutral", shares(neutral=1.0)),
        ((0, 0, 0, 0, 0, 0, 0, 9, 0, 0), "contempt", shares(contempt=1.0)),
        # Four of nine that remain are no majority.
        ((4, 0, 0, 1, 3, 2, 0, 0, 0, 0), None, None),
        # Exactly half is not more than half: two equal tops, and one top against several.
        ((5, 5, 0, 0, 0, 0, 0, 0, 0, 0), None, None),
        ((5, 3, 2, 0, 0, 0, 0, 0, 0, 0), None, None),
        ((4, 4, 1, 1, 0, 0, 0, 0, 0, 0), None, None),
        # Single votes are dropped first: 5 of 7, and 2 of 2 although eight others voted differently.
        ((5, 2, 1, 1, 1, 0, 0, 0, 0, 0), "neutral", shares(neutral=5 / 7, happiness=2 / 7)),
        ((2, 1, 1, 1, 1, 1, 1, 1, 1, 0), "neutral", shares(neutral=1.0)),
        ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), None, None),
        # unknown and NF count in the sum, and a row that is theirs is dropped.
        ((4, 0, 0, 0, 0, 0, 0, 0, 3, 3), None, None),
        ((0, 0, 6, 0, 0, 0, 0, 0, 4, 0), "surprise", shares(surprise=1.0)),
        ((4, 0, 0, 0, 0, 0, 0, 0, 6, 0), None, None),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None, None),
        # Microsoft's probability mode would keep this one; the rule of facts.md does not.
        ((4, 4, 2, 0, 0, 0, 0, 0, 0, 0), None, None),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0), None, None),
    ],
)
def test_the_rule_on_cases_worked_by_hand(
    votes: Sequence[int], label: str | None, distribution: tuple[float, ...] | None
) -> None:
    assert majority(votes) == label
    assert soft(votes) == (distribution if distribution is None else pytest.approx(distribution))


@given(ten_votes)
def test_soft_targets_are_a_distribution_of_exactly_the_rows_majority_keeps(votes: list[int]) -> None:
    label, distribution = majority(votes), soft(votes)
    assert (label is None) == (distribution is None)
    if label is not None and distribution is not None:
        assert sum(distribution) == pytest.approx(1)
        assert EMOTIONS[int(np.argmax(distribution))] == label
        assert all(share == 0 for share, count in zip(distribution, votes, strict=False) if count <= 1)


@given(ten_votes, st.permutations(range(8)))
def test_the_order_of_the_emotions_does_not_matter(votes: list[int], order: list[int]) -> None:
    label, moved = majority(votes), majority([votes[place] for place in order] + votes[8:])
    assert (label is None) == (moved is None)
    if label is not None and moved is not None:
        assert order[EMOTIONS.index(moved)] == EMOTIONS.index(label)


@pytest.mark.parametrize("votes", [[1] * 9, [1] * 11, [], [-1] + [2] * 9])
def test_votes_that_are_not_ten_counts_are_refused(votes: list[int]) -> None:
    with pytest.raises(SourceError, match="10 counts"):
        majority(votes)


def test_the_shared_faces_agree_with_the_rule_in_numpy(shared: Path) -> None:
    for label_file in sorted((shared / "data" / "ferplus-sample").glob("*/label.csv")):
        with open(label_file, newline="") as file:
            votes = np.array([row[2:] for row in csv.reader(file)], dtype=int)
        kept = np.where(votes == 1, 0, votes)
        top = kept.argmax(axis=1)
        wins = (kept.max(axis=1) > kept.sum(axis=1) / 2) & (top < 8)
        expected = [VOTES[place] if won else None for place, won in zip(top, wins, strict=True)]
        assert [majority(row) for row in votes.tolist()] == expected
