"""Reading order is a pure function of a seed: every example once an epoch, the same batches for any workers."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.train.order import LANES, Order, Take, lane_bounds, lane_count, lane_shares, rank_span

seeds = st.integers(0, 2**31 - 1)


@st.composite
def orders(draw: st.DrawFn, *, most: int = 60) -> Order:
    sizes = draw(st.lists(st.integers(1, most // 4), min_size=1, max_size=8))
    batch = draw(st.integers(1, 40))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return Order(groups, batch, draw(seeds), draw(st.integers(1, min(batch, 16))))


def whole(order: Order, epoch: int = 0) -> list[list[int]]:
    """Examples of every batch, each at its place."""
    batches = []
    for takes in zip(*(order.epoch(epoch, rank) for rank in range(order.world)), strict=True):
        batch = np.full(takes[0].batch, -1)
        for take in takes:
            batch[take.positions] = take.examples
        batches.append(batch.tolist())
    return batches


def with_world(order: Order, world: int) -> Order:
    return Order(order.groups, order.batch_size, order.seed, world)


@settings(deadline=None, max_examples=50)
@given(orders(), st.integers(0, 3))
def test_every_example_comes_exactly_once_an_epoch(order: Order, epoch: int) -> None:
    read = np.concatenate([take.examples for rank in range(order.world) for take in order.epoch(epoch, rank)])
    assert sorted(read.tolist()) == list(range(len(order.groups)))


@settings(deadline=None, max_examples=50)
@given(orders(), st.integers(0, 3))
def test_the_places_of_all_workers_fill_every_batch_once(order: Order, epoch: int) -> None:
    by_rank = [order.epoch(epoch, rank) for rank in range(order.world)]
    assert {len(takes) for takes in by_rank} == {order.steps}
    for takes in zip(*by_rank, strict=True):
        (batch,) = {take.batch for take in takes}
        assert sorted(np.concatenate([take.positions for take in takes]).tolist()) == list(range(batch))
        assert all(len(take.examples) == len(take.positions) for take in takes)


@settings(deadline=None, max_examples=50)
@given(orders())
def test_all_batches_are_full_but_the_last(order: Order) -> None:
    sizes = [len(batch) for batch in whole(order)]
    assert all(size == order.batch_size for size in sizes[:-1])
    assert sum(sizes) == len(order.groups)
    assert 0 < sizes[-1] <= order.batch_size


@settings(deadline=None, max_examples=50)
@given(orders(), st.integers(0, 3))
def test_the_batches_are_the_same_for_any_number_of_workers_that_gives_as_many_lanes(order: Order, epoch: int) -> None:
    for world in range(1, order.lanes + 1):
        other = with_world(order, world)
        if other.lanes == order.lanes:
            assert whole(other, epoch) == whole(order, epoch)


def test_the_papers_batches_are_the_same_for_one_to_ten_workers() -> None:
    order = Order(np.repeat(np.arange(20), 64), 100, 3, 1)
    assert [whole(with_world(order, world)) == whole(order) for world in (2, 3, 7, 10)] == [True] * 4


@settings(deadline=None, max_examples=50)
@given(orders())
def test_an_epoch_is_the_same_whenever_it_is_asked_for(order: Order) -> None:
    again = Order(order.groups.copy(), order.batch_size, order.seed, order.world)
    later = again.epoch(1, 0)  # of a resumed training, which has seen no epoch 0
    order.epoch(0, 0)
    assert flat(order.epoch(1, 0)) == flat(later)


def flat(takes: list[Take]) -> list[tuple[list[int], list[int], int]]:
    return [(take.examples.tolist(), take.positions.tolist(), take.batch) for take in takes]


def test_another_seed_and_another_epoch_are_other_orders() -> None:
    groups = np.repeat(np.arange(6), 8)
    found = [whole(Order(groups, 10, seed, 1), epoch) for seed in range(4) for epoch in range(4)]
    assert all(one != other for at, one in enumerate(found) for other in found[:at])


def test_a_seed_gives_the_same_order_on_every_machine_and_version() -> None:
    # These lines are part of what a seed promises. If they change, a resumed training reads on in another order.
    order = Order(np.repeat(np.arange(3), [5, 4, 3]), 2, 7, 1)
    assert whole(order, 0) == [[4, 10], [0, 9], [1, 11], [3, 6], [2, 8], [5, 7]]
    assert whole(order, 1) == [[5, 7], [0, 6], [1, 8], [3, 10], [4, 11], [2, 9]]


@settings(deadline=None, max_examples=50)
@given(orders(), st.integers(0, 3))
def test_within_a_lane_each_row_group_is_read_to_its_end_before_the_next(order: Order, epoch: int) -> None:
    bounds = lane_bounds(len(order.groups), order.lanes)
    read = np.concatenate([take.examples for rank in range(order.world) for take in order.epoch(epoch, rank)])
    for first, last in pairwise(bounds):
        mine = order.groups[read[(read >= first) & (read < last)]]
        turns = [group for group, _ in groupby(mine.tolist())]
        assert len(turns) == len(set(turns))


def test_row_groups_and_the_examples_in_them_are_shuffled() -> None:
    groups = np.repeat(np.arange(5), 8)
    read = [np.concatenate([t.examples for t in Order(groups, 1, seed, 1).epoch(0, 0)]) for seed in range(20)]
    assert len({groups[epoch[0]].item() for epoch in read}) == 5  # any row group may be the first,
    assert len({epoch[0].item() % 8 for epoch in read}) > 4  # and any example the first of it
    assert all((np.diff(epoch.reshape(5, 8), axis=1) < 0).any() for epoch in read)


@settings(deadline=None, max_examples=50)
@given(orders(), st.integers(0, 3))
def test_a_lane_belongs_to_one_worker(order: Order, epoch: int) -> None:
    bounds = lane_bounds(len(order.groups), order.lanes)
    for rank in range(order.world):
        read = np.concatenate([take.examples for take in order.epoch(epoch, rank)])
        lanes = np.searchsorted(bounds, read, side="right") - 1
        assert (lanes % order.world == rank).all()


@settings(deadline=None, max_examples=50)
@given(orders())
def test_a_batch_takes_the_same_number_from_every_lane_to_within_one(order: Order) -> None:
    taken = np.diff(lane_shares(np.diff(lane_bounds(len(order.groups), order.lanes)), order.batch_size), axis=0)
    assert all(np.ptp(batch) <= 1 for batch in taken[:-1])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(1, 14), st.integers(1, 40))
def test_lanes_are_drawn_on_in_proportion_in_full_batches_to_their_end(total: int, lanes: int, batch: int) -> None:
    given_lengths = np.diff(lane_bounds(total, lanes))
    taken = lane_shares(given_lengths, batch)
    assert (taken[0] == 0).all()
    assert (taken[-1] == given_lengths).all()
    assert (np.diff(taken, axis=0) >= 0).all()
    assert (taken <= given_lengths).all()
    assert (np.diff(taken.sum(axis=1))[:-1] == batch).all()
    for step, share in enumerate(taken):
        exact = given_lengths * min(step * batch, total) / max(total, 1)
        assert (np.abs(share - exact) < 1).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 5000), st.integers(1, 40))
def test_lanes_cut_the_examples_into_runs_of_equal_length_to_within_one(examples: int, lanes: int) -> None:
    bounds = lane_bounds(examples, lanes)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, examples, lanes + 1)
    assert np.ptp(np.diff(bounds)) <= 1
    assert (np.diff(bounds) >= 0).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 65536), st.integers(1, 100))
def test_there_are_as_many_lanes_as_workers_at_least_and_never_more_than_a_batch_fills(batch: int, world: int) -> None:
    lanes = lane_count(batch, world)
    assert world <= lanes <= max(LANES, world)
    assert lanes <= max(batch, world)


@pytest.mark.parametrize(
    ("batch", "lanes"), [(100, 10), (128, 8), (64, 8), (120, 12), (90, 10), (1, 1), (5, 5), (97, 12), (26, 12)]
)
def test_lanes_divide_the_batch_where_there_is_a_divisor_worth_it(batch: int, lanes: int) -> None:
    assert lane_count(batch, 1) == lanes


def test_more_workers_than_lanes_have_a_lane_each() -> None:
    assert lane_count(100, 13) == 13


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 500), st.integers(1, 20))
def test_workers_evaluate_runs_that_follow_one_another(examples: int, world: int) -> None:
    spans = [rank_span(examples, rank, world) for rank in range(world)]
    assert [number for first, last in spans for number in range(first, last)] == list(range(examples))
    assert max(last - first for first, last in spans) - min(last - first for first, last in spans) <= 1
