"""In which order examples are read: a pure function of a seed, the same for any number of workers.

Examples lie in Parquet row groups. They are cut into *lanes*: runs of equal length in the order of the files. Every
batch takes the same share of every lane, and a lane belongs to one worker, so that each worker reads its own row groups
and the batches are the same however many workers there are. Within a lane an epoch goes through the row groups in a
shuffled order, and through each row group's examples in a shuffled order; every example comes once an epoch.

A reader holds one row group a lane. A batch thus mixes `LANES` places of the data set, whatever order it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ferstore.train.recipe import epoch_steps

LANES = 12
"""At most so many lanes, unless there are more workers."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Take:
    """What one worker takes of one batch.

    Attributes:
        examples: indices of its examples.
        positions: their places in the whole batch.
        batch: size of the whole batch.
    """

    examples: Indices
    positions: Indices
    batch: int


def lane_count(batch_size: int, world: int) -> int:
    """The largest divisor of the batch size that is at most `LANES`: each lane then gives each batch the same number.

    Where that is no more than half of `LANES`, there are `LANES`, which give numbers that differ by one. There are no
    fewer lanes than workers.
    """
    divisors = [n for n in range(1, LANES + 1) if batch_size % n == 0]
    lanes = max(divisors) if max(divisors) > LANES // 2 else min(LANES, batch_size)
    return max(lanes, world)


@dataclass(frozen=True, slots=True)
class Order:
    """The endless stream of batches over some examples.

    Attributes:
        groups: row group of each example, numbered in reading order; examples are numbered in that order too.
        batch_size: examples a batch; the last of an epoch may be short.
        seed: what is shuffled how.
        world: workers.
    """

    groups: Indices
    batch_size: int
    seed: int
    world: int

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return epoch_steps(len(self.groups), self.batch_size)

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return lane_count(self.batch_size, self.world)

    def epoch(self, number: int, rank: int) -> list[Take]:
        """What worker ``rank`` takes of each batch of one epoch."""
        plan = _plan(len(self.groups), self.lanes, self.batch_size, rank, self.world)
        # One generator an epoch, of which every worker draws the same: making one takes longer than a batch of vectors.
        random = np.random.Generator(np.random.PCG64([self.seed, number]))
        shuffled = random.permutation(len(self.groups))  # within its row group each example keeps this order
        group_turns = random.permutation(int(self.groups[-1]) + 1 if len(self.groups) else 0)
        mine = shuffled if self.world == 1 else shuffled[plan.lanes[shuffled] % self.world == rank]
        turns = plan.lanes[mine] * len(group_turns) + group_turns[self.groups[mine]]
        small = turns.astype(np.min_scalar_type(self.lanes * len(group_turns)))  # two bytes are sorted ten times faster
        examples = mine[np.argsort(small, kind="stable")]
        taken = np.split(examples[plan.turns], plan.cuts)
        return [Take(*mine) for mine in zip(taken, plan.positions, plan.sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is alike in every epoch of one worker.

    Attributes:
        lanes: lane of each example, also of other workers'.
        turns: its examples in the order they are taken, as indices into its lanes one after another.
        cuts: where each batch but the first begins among them.
        positions: places of each batch's examples in the whole batch.
        sizes: of the whole batches.
    """

    lanes: Indices
    turns: Indices
    cuts: Indices
    positions: Sequence[Indices]
    sizes: Sequence[int]


@lru_cache(maxsize=8)
def _plan(examples: int, lanes: int, batch_size: int, rank: int, world: int) -> _Plan:
    lengths = np.diff(lane_bounds(examples, lanes))
    taken = lane_shares(lengths, batch_size)
    counts = np.diff(taken, axis=0)
    places = np.cumsum(counts, axis=1) - counts
    mine = np.arange(rank, lanes, world)
    first = np.cumsum(lengths[mine]) - lengths[mine]
    turns, positions = [np.empty(0, np.int64)], []
    for step, share in enumerate(counts[:, mine]):
        turns += [start + np.arange(count) for start, count in zip(first + taken[step, mine], share, strict=True)]
        spans = [start + np.arange(count) for start, count in zip(places[step, mine], share, strict=True)]
        positions.append(np.concatenate([np.empty(0, np.int64), *spans]))
    cuts = np.cumsum([len(some) for some in positions])[:-1]
    return _Plan(
        np.repeat(np.arange(lanes), lengths), np.concatenate(turns), cuts, positions, counts.sum(axis=1).tolist()
    )


def lane_bounds(examples: int, lanes: int) -> Indices:
    """Where lanes begin and end: int64 (lanes + 1,), their lengths differ by at most one."""
    return np.arange(lanes + 1, dtype=np.int64) * examples // lanes


def lane_shares(lengths: Indices, batch_size: int) -> Indices:
    """How many examples of each lane have been taken before each batch of an epoch, and at its end.

    Batches are full but for the last. Lanes are drawn on in proportion to their lengths, which differ by at most one:
    what has been taken of each differs from its exact share by less than one.

    Returns:
        int64 (batches + 1, lanes), from all 0 to all of each lane.
    """
    total = int(lengths.sum())
    taken = np.zeros((epoch_steps(total, batch_size) + 1, len(lengths)), np.int64)
    for step in range(1, len(taken)):
        seen = min(step * batch_size, total)
        exact = lengths * seen
        share = np.maximum(exact // max(total, 1), taken[step - 1])
        missing = seen - int(share.sum())
        # Those furthest behind their share come first; ties go to the earlier lane.
        behind = np.argsort(-(exact - share * total), kind="stable")
        behind = behind[share[behind] < lengths[behind]]
        share[behind[:missing]] += 1
        taken[step] = share
    return taken


def rank_span(examples: int, rank: int, world: int) -> tuple[int, int]:
    """The run of examples that a worker evaluates."""
    return examples * rank // world, examples * (rank + 1) // world
