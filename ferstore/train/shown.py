"""A training's curve as progress: updates on the bar, validations as lines."""

from __future__ import annotations

import time

from ferstore.progress import Progress
from ferstore.train.job import Measured
from ferstore.train.plan import Plan
from ferstore.train.recipe import epoch_steps


class Shown:
    """Shows points of a curve as they come.

    Args:
        progress: where.
        plan: the training.
    """

    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        self._report = plan.report()
        self._batch = plan.request.recipe.batch_size
        self._began = 0.0
        self._first = self._seen = 0
        self._last: Measured | None = None

    def show(self, points: list[Measured]) -> None:
        """Show some more, in their order; steps that come again are those after a worker was lost."""
        for point in points:
            if self._last is None:  # not before: the start of the workers would count into the rate
                self._progress.start(f"train {self._report.experiment}", self._report.total_steps)
                self._began = time.monotonic()
                self._first = self._seen = point.step - 1
                self._progress.advance(self._seen)
            if point.part == "train":
                if point.step <= self._seen:
                    self._progress.note(f"a worker was lost after update {self._seen}; went on from {point.step - 1}")
                    self._progress.advance(point.step - 1 - self._seen)
                    self._seen = point.step - 1
                self._progress.advance(max(0, point.step - self._seen))
                self._seen = max(self._seen, point.step)
                self._last = point
            elif self._last is not None:
                samples = self._samples(point.step) - self._samples(self._first)
                rate = samples / max(time.monotonic() - self._began, 1e-9)
                left = (self._samples(self._report.total_steps) - self._samples(point.step)) / max(rate, 1e-9)
                self._progress.note(
                    f"epoch {point.epoch}: loss {self._last.loss:.3f}, accuracy {self._last.accuracy:.3f}; "
                    f"validation loss {point.loss:.3f}, accuracy {point.accuracy:.3f}; "
                    f"{rate:.0f} samples/s, at most {left:.0f} s left"
                )

    def _samples(self, step: int) -> int:
        """Examples seen in so many updates."""
        epochs, rest = divmod(step, epoch_steps(self._report.examples, self._batch))
        return epochs * self._report.examples + min(rest * self._batch, self._report.examples)
