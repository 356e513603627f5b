"""How a training's worker is watched: its updates, added up here and told to Ray's metrics twice a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ferstore.watch import STEP_SECONDS, TRAIN_EXAMPLES, TRAIN_UPDATES, TRAIN_WAIT_SECONDS, Metric, Recorder

_APART = 0.5  # seconds; a softmax on vectors makes hundreds of updates in one


@dataclass(slots=True)
class TrainWatch:
    """Adds up what updates took.

    Attributes:
        recorder: where sums go.
        clock: seconds.
    """

    recorder: Recorder
    clock: Callable[[], float] = time.monotonic
    _sums: dict[Metric, float] = field(default_factory=dict, init=False)
    _told: float = field(default=0.0, init=False)

    def updated(self, examples: int, waited: float, stepped: float) -> None:
        """One update of this worker: its examples, seconds waited for them, and seconds of the update itself."""
        new = {TRAIN_UPDATES: 1.0, TRAIN_EXAMPLES: examples, TRAIN_WAIT_SECONDS: waited, STEP_SECONDS: stepped}
        self._sums = {metric: self._sums.get(metric, 0.0) + value for metric, value in new.items()}
        if self.clock() - self._told > _APART:
            self.flush()

    def flush(self) -> None:
        """Tell what has added up."""
        for metric, value in self._sums.items():
            self.recorder.record(metric, value)
        self._sums, self._told = {}, self.clock()
