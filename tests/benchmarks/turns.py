"""Several ways to do one work, turn by turn, so that a change of the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def rates(
    ways: Mapping[str, Callable[[], int]], count: int, *, warm: int = 1, pieces: Mapping[str, int] | None = None
) -> dict[str, tuple[float, ...]]:
    """Items a second of each way in each turn.

    Args:
        ways: each does its work once and says how many items that was.
        count: turns.
        warm: turns before them that do not count.
        pieces: how often a turn calls a way, between calls of the others; once where it is not named. Short calls in
            turn meet the same changes of the machine, which those of a second each do not.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    pieces = pieces or {}
    for turn in range(warm + count):
        items, seconds = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
        for piece in range(max(pieces.get(way, 1) for way in ways)):
            order = [way for way in ways if piece < pieces.get(way, 1)]
            for way in order if (turn + piece) % 2 else order[::-1]:  # none is always the first after the others
                began = time.perf_counter()
                items[way] += ways[way]()
                seconds[way] += time.perf_counter() - began
        if turn >= warm:
            for way in ways:
                found[way].append(items[way] / seconds[way])
    return {way: tuple(rates) for way, rates in found.items()}
