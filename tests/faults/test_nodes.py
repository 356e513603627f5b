"""Machines of a cluster that go away and come in mid-job: every image once, or an end that says why."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_store
from extract_driver import Driver, check_whole, committed, until

from ferstore.cluster_access import own_token

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture
def machines() -> Iterator[Any]:
    """A head without GPUs, to which machines with one (logical) GPU each are added."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    terminate = signal.getsignal(signal.SIGTERM)
    with own_token():
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        signal.signal(signal.SIGTERM, terminate)  # Ray puts its own there
        try:
            yield made
        finally:
            made.shutdown()


def add(machines: Any) -> Any:
    return machines.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)


def start(machines: Any, store: Any, *options: str) -> Driver:
    return Driver(store, 0.15, "--address", machines.address, "--gpus", "1", *options)


def test_a_machine_that_is_lost_and_one_that_comes_cost_nothing_but_time(
    full: None, machines: Any, tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    store = noise_store(tmp_path, 400)
    lost, _ = add(machines), add(machines)
    driver = start(machines, store)
    try:
        assert driver.started()
        until(lambda: len(committed(store)) >= 32)
        machines.remove_node(lost, allow_graceful=False)
        tally("kills", 1)
        before = committed(store)
        assert len(before) < 300, "it was nearly done"
        add(machines)
        report = driver.finish()
    finally:
        driver.end()
    assert (report["computed"], report["quarantined"]) == (400, 0)
    assert committed(store) >= before
    check_whole(store, 400)


def test_without_a_machine_to_run_on_the_job_ends_and_says_why(
    full: None, machines: Any, tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    store = noise_store(tmp_path, 400)
    only = add(machines)
    driver = start(machines, store, "--actors", "1", "--patience", "5")
    try:
        assert driver.started()
        until(lambda: len(committed(store)) > 0)
        machines.remove_node(only, allow_graceful=False)
        tally("kills", 1)
        _, said = driver.process.communicate(timeout=90)
    finally:
        driver.end()
    assert driver.process.returncode == 1
    assert "ExtractError: no actor could be started for 5 s: the cluster lost the machines" in said
    assert 0 < len(committed(store)) < 400
