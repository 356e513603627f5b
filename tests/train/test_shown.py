"""What is said while a training runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ferstore.progress import Silent
from ferstore.train.job import Measured
from ferstore.train.recipe import PAPER
from ferstore.train.shown import Shown


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.bar: list[tuple[str, int | None]] = []
        self.done = 0

    def start(self, what: str, total: int | None) -> None:
        self.bar.append((what, total))

    def advance(self, items: int) -> None:
        self.done += items

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def shown(told: Told, now: list[float]) -> Shown:
    """250 examples in batches of 100: three updates an epoch, the last of 50."""
    report = SimpleNamespace(experiment="deepest", total_steps=9, examples=250)
    plan: Any = SimpleNamespace(report=lambda: report, request=SimpleNamespace(recipe=PAPER))
    return Shown(told, plan, clock=lambda: now[0])


def updates(first: int, last: int, loss: float = 1.0) -> list[Measured]:
    return [Measured(step, -(-step // 3), "train", loss, 0.5) for step in range(first, last + 1)]


def test_a_line_has_the_means_since_the_last_validation_and_the_rate(
    shown: Shown, told: Told, now: list[float]
) -> None:
    shown.show([*updates(1, 2, loss=3.0), *updates(3, 3, loss=1.5)])
    now[0] += 5
    shown.show([Measured(3, 1, "validation", 2.0, 0.25)])
    assert told.bar == [("train deepest", 9)]
    assert told.done == 3
    assert told.notes == [
        "epoch 1: loss 2.500, accuracy 0.500; validation loss 2.000, accuracy 0.250; 50 samples/s, at most 10 s left"
    ]
    now[0] += 5
    shown.show([*updates(4, 6, loss=0.5), Measured(6, 2, "validation", 1.0, 0.5)])
    assert told.notes[1].startswith("epoch 2: loss 0.500, ")


def test_lines_are_two_seconds_apart_but_for_the_last(shown: Shown, told: Told, now: list[float]) -> None:
    for epoch in (1, 2, 3):
        now[0] += 0.1
        shown.show([*updates(3 * epoch - 2, 3 * epoch), Measured(3 * epoch, epoch, "validation", 1.0, 0.5)])
    assert [note.split(":")[0] for note in told.notes] == ["epoch 3"]


def test_a_lost_worker_is_told_and_its_updates_count_once(shown: Shown, told: Told, now: list[float]) -> None:
    shown.show(updates(1, 5, loss=9.0))
    shown.show(updates(4, 6, loss=1.0))
    assert told.notes == ["a worker was lost after update 5; went on from 3"]
    assert told.done == 6
    now[0] += 3
    shown.show([Measured(6, 2, "validation", 1.0, 0.5)])
    assert told.notes[1].startswith("epoch 2: loss 5.000, ")  # (3 x 9 + 3 x 1) / 6


def test_a_resumed_training_does_not_count_what_was_done_before(shown: Shown, told: Told, now: list[float]) -> None:
    shown.show(updates(7, 8))
    assert told.done == 8
    now[0] += 1
    shown.show([*updates(9, 9), Measured(9, 3, "validation", 1.0, 0.5)])
    assert "250 samples/s, at most 0 s left" in told.notes[0]
