"""Which weights are kept, and when there is no use in going on: decisions as values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Progressed:
    """What validation has said so far.

    Attributes:
        patience: validations without a better loss until it stops; 0 keeps the last weights and never stops.
        best_loss: lowest so far.
        best_step: updates made then.
        worse: validations since.
    """

    patience: int
    best_loss: float = math.inf
    best_step: int = 0
    worse: int = 0

    def after(self, step: int, loss: float) -> Progressed:
        """With one more validation."""
        if loss < self.best_loss:
            return replace(self, best_loss=loss, best_step=step, worse=0)
        return replace(self, worse=self.worse + 1)

    @property
    def improved(self) -> bool:
        """Whether the last validation was the best."""
        return self.worse == 0

    @property
    def stop(self) -> bool:
        """Whether to stop now."""
        return 0 < self.patience <= self.worse


def validate_every(steps_an_epoch: int, at_least: int = 20) -> int:
    """Updates between validations: whole epochs, and no fewer than ``at_least`` updates."""
    return steps_an_epoch * -(-at_least // steps_an_epoch)
