"""What follows a death or a failure, played through without processes."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.extract.decide import (
    NEIGHBOURS,
    Quarantine,
    Requeue,
    Stop,
    after_death,
    after_failure,
    deaths_to_stop,
)
from ferstore.extract.plan import Shard, WorkItem


def work(number: int) -> WorkItem:
    return WorkItem(f"{number:064x}", "identity", (), "d", str(number))


def shard(*numbers: int, **fields: int) -> Shard:
    return Shard(tuple(map(work, numbers)), ("pool_3",), **fields)  # type: ignore[arg-type]


def play(shards: list[Shard], poison: set[int], together: int) -> tuple[list[int], list[int], Counter[int], int]:
    """Work through shards as a pool of one actor does.

    Returns:
        Items done, items quarantined, deaths with one item alone, and the longest row of deaths without a result.
    """
    waiting = deque(shards)
    done: list[int] = []
    quarantined: list[int] = []
    alone: Counter[int] = Counter()
    row = longest = 0
    while waiting:
        batch = [waiting.popleft()]
        while not batch[0].alone and waiting and not waiting[0].alone and len(batch) < together:
            batch.append(waiting.popleft())
        if not any(int(item.item_id) in poison for one in batch for item in one.items):
            done += [int(item.item_id) for one in batch for item in one.items]
            row = 0
            continue
        if len(batch) == 1 and len(batch[0].items) == 1:
            alone[int(batch[0].items[0].item_id)] += 1
        row += 1
        longest = max(longest, row)
        for decision in reversed(after_death(batch, node_alive=True)):
            match decision:
                case Requeue(again):
                    waiting.appendleft(again)
                case Quarantine(item):
                    quarantined.append(int(item.item_id))
                case Stop():
                    pytest.fail("a death never stops a run")
    return done, quarantined, alone, longest


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6), together=st.integers(1, 2), data=st.data())
def test_a_poison_item_is_quarantined_after_two_deaths_alone_and_all_others_are_done(
    sizes: list[int], together: int, data: st.DataObject
) -> None:
    count = sum(sizes)
    poison = data.draw(st.sets(st.integers(0, count - 1), max_size=4))
    numbers = iter(range(count))
    shards = [shard(*(next(numbers) for _ in range(size))) for size in sizes]
    done, quarantined, alone, _ = play(shards, poison, together)
    assert sorted(done) == sorted(set(range(count)) - poison)
    assert sorted(quarantined) == sorted(poison)
    assert alone == dict.fromkeys(poison, 2)


@given(size=st.integers(1, 256), data=st.data(), together=st.integers(1, 2))
def test_poison_items_never_look_like_a_broken_machine_unless_many_lie_side_by_side(
    size: int, data: st.DataObject, together: int
) -> None:
    drawn = data.draw(st.sets(st.integers(0, 3 * size - 1)))
    poison = {n for n in drawn if not all(m in drawn for m in range(n - NEIGHBOURS, n))}
    shards = [shard(*range(at, at + size)) for at in range(0, 3 * size, size)]
    *_, longest = play(shards, poison, together)
    assert longest < deaths_to_stop(size)


def test_a_lost_machine_blames_nobody() -> None:
    held = (shard(1, kills=1), shard(2, 3))
    assert after_death(held, node_alive=False) == tuple(map(Requeue, held))


def test_two_shards_in_a_dead_process_are_tried_alone_and_whole() -> None:
    decisions = after_death((shard(1, 2), shard(3)), node_alive=True)
    assert decisions == (
        Requeue(Shard((work(1), work(2)), ("pool_3",), alone=True)),
        Requeue(Shard((work(3),), ("pool_3",), alone=True)),
    )


def test_a_process_that_died_idle_decides_nothing() -> None:
    assert after_death((), node_alive=True) == ()


def test_halves_keep_every_item_and_layer_once() -> None:
    decisions = after_death((shard(*range(7), failures=1),), node_alive=True)
    halves = [decision.shard for decision in decisions if isinstance(decision, Requeue)]
    assert [item for half in halves for item in half.items] == [work(n) for n in range(7)]
    assert all(half.alone and half.layers == ("pool_3",) and half.failures == 1 for half in halves)


def test_the_third_failure_of_a_shard_stops_the_run() -> None:
    once = after_failure(shard(1), "disk full")
    assert once == Requeue(shard(1, failures=1))
    assert after_failure(shard(1, failures=1), "disk full") == Requeue(shard(1, failures=2))
    assert after_failure(shard(1, failures=2), "disk full") == Stop("disk full")
