"""Machines of a cluster that go away and come in mid-job: every image once, or an end that says why.

``tests/extract/test_machines.py`` has those that come and go by themselves.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_store, sql
from extract_driver import Driver, check_whole, committed, until
from machines import Places, machines
from ray_head import Head, head

from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import extract

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without GPUs, to which machines with one (logical) GPU each are added."""
    with machines(num_cpus=1) as made:
        yield made


def add(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)


def start(cluster: Any, store: Any, *options: str) -> Driver:
    return Driver(store, 0.15, "--address", cluster.address, "--gpus", "1", *options)


def test_a_machine_that_is_lost_and_one_that_comes_cost_nothing_but_time(
    full: None, cluster: Any, tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    store = noise_store(tmp_path, 400)
    lost, _ = add(cluster), add(cluster)
    driver = start(cluster, store)
    try:
        assert driver.started()
        until(lambda: len(committed(store)) >= 32)
        cluster.remove_node(lost, allow_graceful=False)
        tally("kills", 1)
        before = committed(store)
        assert len(before) < 300, "it was nearly done"
        add(cluster)
        report = driver.finish()
    finally:
        driver.end()
    assert (report["computed"], report["quarantined"]) == (400, 0)
    assert committed(store) >= before
    check_whole(store, 400)


def test_without_a_machine_to_run_on_the_job_ends_and_says_why(
    full: None, cluster: Any, tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    store = noise_store(tmp_path, 400)
    only = add(cluster)
    driver = start(cluster, store, "--actors", "1", "--patience", "5")
    try:
        assert driver.started()
        until(lambda: len(committed(store)) > 0)
        cluster.remove_node(only, allow_graceful=False)
        tally("kills", 1)
        _, said = driver.process.communicate(timeout=90)
    finally:
        driver.end()
    assert driver.process.returncode == 1
    assert "ExtractError: no actor could be started for 5 s: the cluster lost the machines" in said
    assert 0 < len(committed(store)) < 400


def test_two_actors_share_a_gpu(full: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    store = noise_store(tmp_path, 96)
    places = Places(tmp_path / "places", {"": 0.0}, batches=0)

    def go() -> None:
        until(lambda: len(places.seen()) == 12)
        places.go()

    request = ExtractRequest(weights="random", batch_size=2, gpus_per_actor=0.5)
    two = {"num_cpus": 4, "num_gpus": 2}
    with machines(**two) as cluster:
        for _ in range(2):
            cluster.add_node(**two, include_dashboard=False)
        threading.Thread(target=go, daemon=True).start()
        report = extract(store, request, address=cluster.address, network=places.factory())
    assert (report.computed, report.actors) == (96, 12)
    seen = Counter((seen.node, seen.visible) for seen in places.seen())
    assert set(seen.values()) == {2}
    assert len(seen) == 6
    check_whole(store, 96)


_NO_COMMANDS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    *(f"{which}_{what}_commands" for which in ("head", "worker") for what in ("setup", "start_ray")),
)


@pytest.fixture
def autoscaled(tmp_path: Path) -> Iterator[Head]:
    """A head with one GPU, to which Ray's autoscaler brings up to two machines more, as processes here."""
    one = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}}
    own, worker = {**one, "max_workers": 0}, {**one, "min_workers": 0, "max_workers": 2}

    def more(address: str) -> list[str]:
        config = {
            "cluster_name": "scaled",
            "max_workers": 2,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {"ray.head.default": own, "worker": worker},
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 10,
            "auth": {},
            "file_mounts": {},
            **{name: [] for name in _NO_COMMANDS},
        }
        file = tmp_path / "autoscaling.yaml"
        file.write_text(json.dumps(config))
        return ["--num-gpus=1", f"--autoscaling-config={file}"]

    token = secrets.token_hex(32)
    environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with pytest.MonkeyPatch.context() as patch, head(environment, more=more) as made:
        patch.setenv("RAY_AUTH_TOKEN", token)
        yield made


def test_machines_that_an_autoscaler_can_bring_are_asked_for_and_used(
    full: None, autoscaled: Head, tmp_path: Path
) -> None:
    store = noise_store(tmp_path, 800)
    driver = Driver(store, 0.5, "--address", autoscaled.gcs, "--gpus", "1", "--actors", "auto")
    try:
        assert driver.started(), driver.process.communicate()
        report = driver.finish(200)
    finally:
        driver.end()
    assert (report["computed"], report["actors"]) == (800, 3)
    check_whole(store, 800)
    [(details,)] = sql(store, "select details from runs where command = 'extract'")
    assert len(json.loads(str(details))["nodes"]) == 3
