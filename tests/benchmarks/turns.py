"""Several ways to do one work, turn by turn, so that a change of the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def rates(ways: Mapping[str, Callable[[], int]], count: int, *, warm: int = 1) -> dict[str, tuple[float, ...]]:
    """Items a second of each way in each turn.

    Args:
        ways: each does its work once and says how many items that was.
        count: turns.
        warm: turns before them that do not count.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(warm + count):
        order = list(ways.items())
        for way, run in order if turn % 2 else order[::-1]:  # none is always the first after the others
            began = time.perf_counter()
            items = run()
            if turn >= warm:
                found[way].append(items / (time.perf_counter() - began))
    return {way: tuple(rates) for way, rates in found.items()}
