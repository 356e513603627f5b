"""How many processes machines hold, and how many CPUs each may take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.resources import Resources

machines = st.lists(st.tuples(st.integers(0, 32).map(float), st.sampled_from([0.0, 1.0, 4.0])), min_size=1, max_size=5)
shares = st.sampled_from([0.0, 0.2, 0.3, 0.4, 0.5, 1.0, 2.0])


@given(nodes=machines, processes=st.integers(1, 40), gpus=shares)
def test_every_process_fits_on_one_machine_with_as_many_cpus_as_can_be(
    nodes: list[tuple[float, float]], processes: int, gpus: float
) -> None:
    have = Resources(tuple(nodes), 0)
    cpus = have.cpus_each(processes, gpus=gpus)
    if have.room(cpus=1, gpus=gpus) >= processes:
        assert have.room(cpus=cpus, gpus=gpus) >= processes
        assert have.room(cpus=cpus + 1, gpus=gpus) < processes
    else:
        assert cpus == 1


def test_a_process_takes_no_more_than_a_machine_and_a_machine_without_cpus_is_none() -> None:
    two = Resources(((4.0, 0.0), (4.0, 0.0)), 0)
    assert two.cpus_each(1, gpus=0) == 4
    assert two.cpus_each(3, gpus=0) == 2
    head = Resources(((0.0, 0.0), (4.0, 0.0)), 0)
    assert head.cpus_each(2, gpus=0) == 2, "two of four CPUs would wait for ever"


@pytest.mark.parametrize(
    ("gpus", "share", "room"),
    [
        (0.6, 0.2, 3),
        (1.0, 0.3, 3),
        (1.0, 2.0, 0),
        (2.0, 0.4, 4),
        (2.0, 0.3, 6),
        (2.0, 0.5, 4),
        (4.0, 2.0, 2),
        (2, 1, 2),
    ],
)
def test_a_share_lies_on_one_gpu(gpus: float, share: float, room: int) -> None:
    assert Resources(((16.0, gpus),), 0).room(cpus=1, gpus=share) == room
