"""Batches in the network: how many at a time, in which order, and what its time is counted as."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from ferstore.extract import run as run_module
from ferstore.extract.calls import Features, NetworkCalls, Pixels
from ferstore.extract.request import ExtractRequest
from ferstore.extract.staffing import Staffing


def batch(number: int) -> Pixels:
    return np.full((1, 2, 2, 3), number, np.uint8)


def number(pixels: Pixels) -> int:
    return int(pixels[0, 0, 0, 0])


class Gate:
    """A network whose calls begin and end when the test lets them."""

    def __init__(self) -> None:
        self.began = [threading.Event() for _ in range(5)]
        self.may_end = [threading.Event() for _ in range(5)]

    def __call__(self, pixels: Pixels) -> Features:
        self.began[number(pixels)].set()
        assert self.may_end[number(pixels)].wait(20)
        return {"pool_3": pixels[:, 0, 0].astype(np.float32)}


@pytest.mark.parametrize("at_once", [1, 2])
def test_as_many_calls_as_are_allowed_are_under_way_and_the_next_waits(at_once: int) -> None:
    gate = Gate()
    calls = begun(gate, at_once)
    assert calls.depth == at_once + 1
    given = [calls.submit(batch(one)) for one in range(calls.depth)]
    for one in range(at_once):
        assert gate.began[one].wait(20)
    assert not gate.began[at_once].wait(0.1)
    gate.may_end[0].set()
    assert gate.began[at_once].wait(20)
    for one in range(calls.depth):
        gate.may_end[one].set()
    assert [float(call.result(20).features["pool_3"][0, 0]) for call in given] == list(range(calls.depth))


def begun(gate: Gate, at_once: int) -> NetworkCalls:
    """Calls of which the first has ended."""
    calls = NetworkCalls(gate, at_once)
    gate.may_end[4].set()
    calls.submit(batch(4)).result(20)
    return calls


def test_the_first_call_runs_alone() -> None:
    """A second one beside it would take its cores, and the first features would come later."""
    gate = Gate()
    calls = NetworkCalls(gate, 2)
    given = [calls.submit(batch(one)) for one in range(3)]
    assert gate.began[0].wait(20)
    assert not gate.began[1].wait(0.1)
    gate.may_end[0].set()
    assert gate.began[1].wait(20)
    assert gate.began[2].wait(20)
    for one in range(3):
        gate.may_end[one].set()
    wait(given, 20)


def test_the_time_of_two_calls_at_once_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("ferstore.extract.calls.time.perf_counter", lambda: now[0])
    gate = Gate()
    calls = begun(gate, 2)
    given = [calls.submit(batch(one)) for one in range(2)]
    assert gate.began[0].wait(20)
    assert gate.began[1].wait(20)
    time.sleep(0.05)  # both have looked at the clock before they began
    for one, moment in ((0, 14.0), (1, 17.0)):
        now[0] = moment
        gate.may_end[one].set()
        wait([given[one]], 20)
    assert [call.result().seconds for call in given] == [4.0, 3.0]


def test_the_network_is_idle_from_its_last_call_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("ferstore.extract.calls.time.perf_counter", lambda: now[0])
    gate = Gate()
    calls = NetworkCalls(gate, 1)
    assert calls.idle(since=7.0) == 3.0
    call = calls.submit(batch(0))
    assert calls.idle(since=7.0) == 0.0
    now[0] = 12.0
    gate.may_end[0].set()
    call.result(20)
    now[0] = 15.0
    assert calls.idle(since=7.0) == 3.0
    assert calls.idle(since=14.0) == 1.0


def test_a_call_that_fails_leaves_the_network_to_the_next() -> None:
    def network(pixels: Pixels) -> Features:
        if number(pixels) == 0:
            raise RuntimeError("out of memory")
        return {}

    calls = NetworkCalls(network, 1)
    first, second = calls.submit(batch(0)), calls.submit(batch(1))
    with pytest.raises(RuntimeError, match="out of memory"):
        first.result(20)
    assert second.result(20).features == {}
    assert calls.idle(since=0.0) > 0


@pytest.mark.parametrize(
    ("cpus", "gpus", "at_once", "shards"),
    [(2, 0.0, 2, 1), (1, 0.0, 1, 1), (8, 0.0, 2, 1), (1, 1.0, 3, 1), (16, 1.0, 3, 12), (4, 0.25, 3, 3)],
    ids=["several cores", "one core", "many cores", "a GPU, one core", "a GPU, many cores", "a share of a GPU"],
)
def test_an_actor_has_several_batches_at_once_where_that_helps_and_as_many_shards_as_threads_that_encode(
    cpus: int, gpus: float, at_once: int, shards: int
) -> None:
    request = ExtractRequest(weights="random", gpus_per_actor=gpus)
    staff = Staffing(None, 1, cpus, gpus, request.batch_size)
    assert (staff.calls_at_once, staff.shards_at_once) == (at_once, shards)
    settings = run_module._WorkerSettings({}, "e", "r", request, staff)
    worker = run_module._build_worker(settings, lambda: lambda pixels: {}, None)
    assert worker._calls.depth == at_once + 1
    assert worker._turn._value == shards
