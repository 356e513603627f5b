"""A training's curve as progress: updates on the bar, validations as lines."""

from __future__ import annotations

import time
from collections.abc import Callable

from ferstore.progress import Progress
from ferstore.train.job import Measured
from ferstore.train.plan import Plan
from ferstore.train.recipe import epoch_steps

_APART = 2.0
"""Least seconds between two lines: a softmax on vectors validates many times a second."""


class Shown:
    """Shows points of a curve as they come.

    Args:
        progress: where.
        plan: the training.
        clock: seconds.
    """

    def __init__(self, progress: Progress, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._report = plan.report()
        self._batch = plan.request.recipe.batch_size
        self._began: float | None = None
        self._said = 0.0
        self._first = self._seen = 0
        self._epoch: dict[int, Measured] = {}  # updates since the last validation, by step

    def show(self, points: list[Measured]) -> None:
        """Show some more, in their order; steps that come again are those after a worker was lost."""
        for point in points:
            if self._began is None:  # not before: the start of the workers would count into the rate
                self._progress.start(f"train {self._report.experiment}", self._report.total_steps)
                self._began = self._said = self._clock()
                self._first = self._seen = point.step - 1
                self._progress.advance(self._seen)
            if point.part == "train":
                self._updated(point)
            else:
                self._validated(point, self._began)

    def _updated(self, point: Measured) -> None:
        if point.step <= self._seen:
            self._progress.note(f"a worker was lost after update {self._seen}; went on from {point.step - 1}")
            self._epoch = {step: kept for step, kept in self._epoch.items() if step < point.step}
        self._progress.advance(point.step - self._seen)
        self._seen = point.step
        self._epoch[point.step] = point

    def _validated(self, point: Measured, began: float) -> None:
        updates, self._epoch = list(self._epoch.values()), {}
        now = self._clock()
        if now - self._said < _APART and point.step < self._report.total_steps:
            return
        self._said = now
        rate = (self._samples(point.step) - self._samples(self._first)) / max(now - began, 1e-9)
        left = (self._samples(self._report.total_steps) - self._samples(point.step)) / max(rate, 1e-9)
        loss, accuracy = (
            sum(getattr(update, name) for update in updates) / max(1, len(updates)) for name in ("loss", "accuracy")
        )
        self._progress.note(
            f"epoch {point.epoch}: loss {loss:.3f}, accuracy {accuracy:.3f}; "
            f"validation loss {point.loss:.3f}, accuracy {point.accuracy:.3f}; "
            f"{rate:.0f} samples/s, at most {left:.0f} s left"
        )

    def _samples(self, step: int) -> int:
        """Examples seen in so many updates."""
        epochs, rest = divmod(step, epoch_steps(self._report.examples, self._batch))
        return epochs * self._report.examples + min(rest * self._batch, self._report.examples)
