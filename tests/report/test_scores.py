"""Arithmetic of the report, against numbers counted by hand or published elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.report.scores import accuracy, calibration, class_scores, mcnemar, paired_interval, relative_gain


def test_scores_of_a_confusion_counted_by_hand() -> None:
    # a: 3 of 4 found, 5 predicted. b: 1 of 3, 2 predicted. c: no item, 1 predicted. d: 1 item. e: neither.
    confusion = np.zeros((5, 5))
    confusion[0, :2], confusion[1, :2], confusion[3, 2] = (3, 1), (2, 1), 1
    a, b, c, d, e = class_scores(confusion, "abcde")
    assert (a.items, a.predicted, a.precision, a.recall, a.f1) == (4, 5, 3 / 5, 3 / 4, 6 / 9)
    assert (b.precision, b.recall, b.f1) == (1 / 2, 1 / 3, 2 / 5)
    assert (c.precision, c.recall, c.f1) == (0, None, 0)
    assert (d.precision, d.recall, d.f1) == (None, 0, 0)
    assert (e.precision, e.recall, e.f1) == (None, None, None)
    assert accuracy(confusion) == 4 / 8
    assert accuracy(np.zeros((2, 2))) is None


def test_a_bin_holds_its_upper_end_and_the_error_weighs_bins_by_their_items() -> None:
    sure = np.array([0.3, 0.31, 0.4, 1.0, 0.0], np.float32).astype(np.float64)  # 0.3 as float32 is more than 0.3
    right = np.array([True, False, True, True, False])
    weights = np.array([1, 1, 1, 2, 0.5])
    found = calibration(sure, right, weights)
    assert [b.items for b in found.bins] == [0.5, 0, 1, 2, 0, 0, 0, 0, 0, 2]
    assert [b.accuracy for b in found.bins][:4] == [0, None, 1, 0.5]
    assert found.bins[3].confidence == pytest.approx(0.355)
    assert found.error == pytest.approx((0.5 * 0 + 1 * 0.7 + 2 * abs(0.5 - 0.355) + 2 * 0) / 5.5)
    assert calibration(sure[:0], right[:0], weights[:0]).error is None


def test_gains_are_relative_to_the_other() -> None:
    paper = [(63.6, 59.4, 7.1), (99.4, 98.9, 0.5), (75.5, 72.3, 4.4)]
    paper += [(63.6, 47.7, 33.3), (99.4, 97.2, 2.3), (75.5, 61.9, 22.0)]
    assert [round(relative_gain(new, old) or 0, 1) for new, old, _ in paper] == [gain for *_, gain in paper]
    assert (relative_gain(None, 1), relative_gain(1, None), relative_gain(1, 0)) == (None, None, None)


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [(0, 0, 1), (5, 5, 1), (1, 0, 1), (6, 0, 0.03125), (9, 3, 0.14599609375), (2, 12, 0.012939453125)],
)
def test_mcnemar_is_the_exact_binomial_test(fixed: int, broken: int, p: float) -> None:
    assert mcnemar(fixed, broken) == pytest.approx(p, rel=1e-12)
    assert mcnemar(broken, fixed) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_items_is_a_number() -> None:
    assert 0 <= mcnemar(3000, 2000) < 1e-40


@pytest.mark.parametrize(
    ("fixed", "changed", "low", "high"),
    # Clopper and Pearson's intervals of the share: R's binom.test(5, 20), (0, 10), (10, 10).
    [(5, 20, 0.08657147, 0.49104587), (0, 10, 0, 0.30849710), (10, 10, 0.69150290, 1)],
)
def test_the_interval_is_clopper_and_pearsons(fixed: int, changed: int, low: float, high: float) -> None:
    found = paired_interval(fixed, changed - fixed, 100)
    assert found == pytest.approx([(2 * end - 1) * changed for end in (low, high)], abs=1e-5)
    assert paired_interval(0, 0, 100) == (0, 0)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000))
def test_interval_and_test_agree_about_no_difference(fixed: int, broken: int, others: int) -> None:
    items = fixed + broken + others
    if not items:
        return
    low, high = paired_interval(fixed, broken, items)
    assert low <= 100 * (fixed - broken) / items <= high
    assert (low > 0 or high < 0) == (mcnemar(fixed, broken) < 0.05)
    assert all(math.isfinite(end) for end in (low, high))
