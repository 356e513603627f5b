"""What a classifier's answers amount to: plain arithmetic on counts, without a store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 10
"""Bins of a reliability diagram, equally wide from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How well one class is found.

    Attributes:
        label: the class.
        items: test items of the class.
        predicted: test items taken for it.
        precision: share of the predicted that are of the class; None where nothing was taken for it.
        recall: share of its items that were found; None without items.
        f1: 2 x hits / (items + predicted); None where both are 0, which a macro-F1 counts as 0.
    """

    label: str
    items: float
    predicted: float
    precision: float | None
    recall: float | None
    f1: float | None


def class_scores(confusion: Floats, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every class.

    Args:
        confusion: items by class (rows) and predicted class (columns); whole numbers, or shares of several seeds.
        classes: of its rows and columns.
    """
    found = []
    for number, label in enumerate(classes):
        hits, items, predicted = (float(part) for part in _counts(confusion, number))
        found.append(
            ClassScore(
                label,
                items,
                predicted,
                hits / predicted if predicted else None,
                hits / items if items else None,
                2 * hits / (items + predicted) if items + predicted else None,
            )
        )
    return tuple(found)


def _counts(confusion: Floats, number: int) -> tuple[float, float, float]:
    return confusion[number, number], confusion[number].sum(), confusion[:, number].sum()


def accuracy(confusion: Floats) -> float | None:
    """Share on the diagonal; None without items."""
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else None


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose likeliest class had a probability in (low, high].

    Attributes:
        low: not included, but for 0.
        high: included.
        items: answers in it; a seed's share where several seeds answered.
        confidence: their mean probability; None without answers.
        accuracy: share of them that are right; None without answers.
    """

    low: float
    high: float
    items: float
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Is a probability of 0.8 right eight times in ten?

    Attributes:
        bins: `BINS` of them, from low to high.
        error: expected calibration error (Guo et al. 2017): the bins' |accuracy - confidence|, weighted by their items;
            None without items.
    """

    bins: tuple[Bin, ...]
    error: float | None


def calibration(confidence: Floats, correct: npt.NDArray[np.bool_], weights: Floats) -> Calibration:
    """Reliability of the likeliest class's probability.

    Args:
        confidence: (n,), 0 to 1.
        correct: (n,), whether the answer was right.
        weights: (n,), what each answer counts.
    """
    # Rounded first: a float32 probability of 0.3 is a little more than 0.3, and belongs to the bin below.
    place = np.clip(np.ceil(np.round(confidence * BINS, 5)).astype(int) - 1, 0, BINS - 1)
    bins, error, total = [], 0.0, float(weights.sum())
    for number in range(BINS):
        mine = place == number
        items = float(weights[mine].sum())
        sure = float((weights * confidence)[mine].sum() / items) if items else None
        right = float((weights * correct)[mine].sum() / items) if items else None
        bins.append(Bin(number / BINS, (number + 1) / BINS, items, sure, right))
        if sure is not None and right is not None:
            error += items / total * abs(right - sure)
    return Calibration(tuple(bins), error if total else None)


def relative_gain(new: float | None, old: float | None) -> float | None:
    """By how many per cent of ``old`` is ``new`` more: 63.6 over 59.4 is 7.1; None where there is nothing to divide."""
    return None if new is None or not old else 100 * (new - old) / old


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p of McNemar's test: were items fixed and broken equally likely, how often would they differ so
    much? The binomial test of ``fixed`` among both at 1/2; 1 where nothing changed.
    """
    changed = fixed + broken
    tail = sum(math.comb(changed, count) for count in range(min(fixed, broken) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def paired_interval(fixed: int, broken: int, items: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference in accuracy, in points, of two classifiers on the same items.

    It is exact given how many items changed: Clopper and Pearson's interval of the share of those that were fixed,
    carried over to the difference, (2 share - 1) x changed / items.

    Args:
        fixed: items only the second classifier has right.
        broken: items only the first has right.
        items: all of them, at least 1.
        level: share of such intervals that hold the truth, at least.
    """
    changed = fixed + broken
    if not changed:
        return 0.0, 0.0
    tail = (1 - level) / 2
    low = _solve(lambda p: 1 - _at_most(fixed - 1, changed, p), tail) if fixed else 0.0
    high = _solve(lambda p: 1 - _at_most(fixed, changed, p), 1 - tail) if broken else 1.0
    return 100 * (2 * low - 1) * changed / items, 100 * (2 * high - 1) * changed / items


def _at_most(most: int, trials: int, share: float) -> float:
    """Probability of no more than ``most`` successes."""
    counts = np.arange(most + 1)
    combinations = np.array(
        [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts]
    )
    logs = combinations + counts * math.log(share) + (trials - counts) * math.log1p(-share)
    return float(np.exp(logs).sum())


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Where a rising function of a share reaches ``target``, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
