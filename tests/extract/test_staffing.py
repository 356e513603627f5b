"""How many actors an extract has, as machines come and go and its work ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.errors import InputError
from ferstore.extract.request import ExtractRequest
from ferstore.extract.staffing import Staffing, change, staffing
from ferstore.resources import Resources

GIB = 1 << 30
MANY = 10**6
GPUS = ExtractRequest(gpus_per_actor=1.0)


def cluster(*nodes: tuple[float, float], memory: int = 640 * GIB, may_grow: bool = True) -> Resources:
    return Resources(nodes, memory, may_grow)


THREE = cluster((4, 2), (4, 2), (4, 2))


def wanted(staff: Staffing, resources: Resources, *, left: int = MANY, withdrawn: int = 0) -> int:
    return staff.wanted(resources, left=left, withdrawn=withdrawn)


def test_auto_begins_with_what_the_machines_hold() -> None:
    assert staffing(GPUS, THREE, todo=MANY) == Staffing(None, 6, 2, 1.0, 32)
    assert staffing(replace(GPUS, gpus_per_actor=0.5), THREE, todo=MANY).first == 12
    assert staffing(replace(GPUS, gpus_per_actor=0.4), THREE, todo=MANY).first == 12, "two fifths of two GPUs are none"
    assert staffing(ExtractRequest(), THREE, todo=MANY).first == 12
    assert staffing(ExtractRequest(), THREE, todo=300).first == 3
    assert staffing(ExtractRequest(), cluster((8, 0), memory=7 * GIB), todo=MANY).first == 2


def test_what_a_cluster_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="7 actors on a cluster with 12 CPUs and 6 GPUs; allowed: at most 6"):
        staffing(replace(GPUS, actors=7), THREE, todo=MANY)
    with pytest.raises(InputError, match="1 GPUs an actor on a cluster with 0"):
        staffing(GPUS, cluster((8, 0)), todo=MANY)


def test_a_number_that_was_asked_for_stands_whatever_comes_or_goes() -> None:
    staff = staffing(replace(GPUS, actors=4), THREE, todo=MANY)
    for now in (cluster(), cluster((4, 2)), cluster(*[(4.0, 2.0)] * 9)):
        assert wanted(staff, now) == wanted(staff, now, left=0) == 4
    assert wanted(staff, THREE, withdrawn=1) == 3
    assert wanted(staff, THREE, withdrawn=9) == 1


def test_auto_follows_the_machines_and_asks_for_as_many_again() -> None:
    staff = staffing(GPUS, THREE, todo=MANY)
    assert wanted(staff, THREE) == 12
    assert wanted(staff, cluster((4, 2), (4, 2))) == 8
    assert wanted(staff, cluster((4, 2), (4, 2), (4, 2), (2, 1))) == 14
    assert wanted(staff, cluster()) == 1, "one waits for a machine, and the pool for it"


def test_nobody_is_waited_for_where_no_machine_can_come_or_memory_was_short() -> None:
    staff = staffing(GPUS, THREE, todo=MANY)
    assert wanted(staff, replace(THREE, may_grow=False)) == 6
    assert wanted(staff, THREE, withdrawn=1) == 5
    assert wanted(staff, THREE, withdrawn=9) == 1


def test_machines_are_asked_for_only_while_the_work_is_worth_them() -> None:
    staff = staffing(GPUS, THREE, todo=MANY)
    four_batches = 4 * 32
    assert wanted(staff, THREE, left=7 * four_batches) == 7
    assert wanted(staff, THREE, left=3 * four_batches) == 3
    assert wanted(staff, THREE, left=0) == 1


machines = st.lists(st.tuples(st.integers(0, 16).map(float), st.sampled_from([0.0, 1.0, 4.0])), max_size=5)


@given(nodes=machines, more=machines, left=st.integers(0, 10**5), withdrawn=st.integers(0, 5))
def test_more_machines_are_never_fewer_actors(
    nodes: list[tuple[float, float]], more: list[tuple[float, float]], left: int, withdrawn: int
) -> None:
    staff = Staffing(None, 2, 1, 1.0, 8)
    few, many = (
        wanted(staff, cluster(*nodes), left=left, withdrawn=withdrawn),
        wanted(staff, cluster(*nodes, *more), left=left, withdrawn=withdrawn),
    )
    assert 1 <= few <= many


@given(wanted=st.integers(1, 50), built=st.integers(0, 50), unbuilt=st.integers(0, 50))
def test_a_change_brings_as_many_as_wanted_and_takes_back_none_that_works(
    wanted: int, built: int, unbuilt: int
) -> None:
    by = change(wanted, built=built, unbuilt=unbuilt)
    assert unbuilt + by >= 0
    assert built + unbuilt + by == max(wanted, built)
