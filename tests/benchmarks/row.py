"""One row of the benchmark table: two sides of one work, measured turn by turn."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        what: the work, in words.
        ours: figures of ferstore, one a turn, in ``unit``.
        other: figures of what it is held against, one a turn; empty where the aim is an absolute figure.
        unit: of both.
        aim: the least ratio (``higher``) or the most (not ``higher``) that passes; of ``ours`` where there is no other.
        higher: whether more is better.
        note: what the reader must know (weights, precision, data).
        missing: why it was not measured, else None.
    """

    what: str
    ours: tuple[float, ...]
    other: tuple[float, ...]
    unit: str
    aim: float | None
    higher: bool = True
    note: str = ""
    missing: str | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours over other, turn by turn; ours where there is no other."""
        return [a / b for a, b in zip(self.ours, self.other, strict=True)] if self.other else list(self.ours)

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def passes(self) -> bool | None:
        """Whether the aim is met; None where there is none or nothing was measured."""
        if self.missing or self.aim is None:
            return None
        return self.ratio >= self.aim if self.higher else self.ratio <= self.aim
