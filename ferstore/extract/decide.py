"""What to do when a process died or a shard failed: decisions as values, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ferstore.extract.plan import Shard, WorkItem

KILLS_TO_QUARANTINE = 2
FAILURES_TO_STOP = 3
NEIGHBOURS = 4
"""Bad images side by side that are still told from a machine without memory."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Try this shard again."""

    shard: Shard


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Give up on this item."""

    item: WorkItem
    error: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Give up on the run."""

    error: str


Decision = Requeue | Quarantine | Stop


def after_death(in_flight: Sequence[Shard], *, node_alive: bool) -> tuple[Decision, ...]:
    """A process died with these shards in it.

    A lost node says nothing about its shards. Of several shards any may be to blame, so each is tried alone. A shard
    that was alone is cut in half, until one item is left; a second death with that item quarantines it.
    """
    if not node_alive:
        return tuple(Requeue(shard) for shard in in_flight)
    if len(in_flight) > 1:
        return tuple(Requeue(replace(shard, alone=True)) for shard in in_flight)
    decisions: list[Decision] = []
    for shard in in_flight:
        if len(shard.items) > 1:
            middle = len(shard.items) // 2
            decisions += [
                Requeue(replace(shard, items=half, alone=True, kills=0))
                for half in (shard.items[:middle], shard.items[middle:])
            ]
        elif shard.kills + 1 >= KILLS_TO_QUARANTINE:
            decisions.append(Quarantine(shard.items[0], f"the process computing it died {KILLS_TO_QUARANTINE} times"))
        else:
            decisions.append(Requeue(replace(shard, alone=True, kills=shard.kills + 1)))
    return tuple(decisions)


def after_failure(shard: Shard, error: str) -> Decision:
    """A shard ended in an error that is no item's fault, such as a full disk: try again, then stop the run."""
    if shard.failures + 1 >= FAILURES_TO_STOP:
        return Stop(error)
    return Requeue(replace(shard, failures=shard.failures + 1))


def deaths_to_stop(largest_shard: int) -> int:
    """Deaths in a row at one actor, with no shard done between them, after which it is not the images.

    Finding one bad image takes a death with a neighbour, log2 of a shard and two more; each bad image beside it takes
    at most three. More than `NEIGHBOURS` in a row are taken for a machine that kills whatever runs on it.
    """
    return largest_shard.bit_length() + 3 * NEIGHBOURS + KILLS_TO_QUARANTINE
