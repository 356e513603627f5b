"""An extract over several machines: each is used at its own speed, whatever goes or comes, and none is the neck."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_store, sql
from extract_driver import check_whole, until
from filled import fill
from machines import Places, machines

from ferstore.cluster import machine_alive
from ferstore.extract.request import ExtractReport, ExtractRequest
from ferstore.extract.run import extract
from ferstore.progress import Silent
from ferstore.store.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

REQUEST = ExtractRequest(weights="random", batch_size=4, gpus_per_actor=1.0)
TWO_GPUS = {"num_cpus": 4, "num_gpus": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three machines with two logical GPUs each; the test that changes them leaves as many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        with machines(**TWO_GPUS) as made:
            for _ in range(2):
                add(made)
            yield made


def add(cluster: Any) -> Any:
    return cluster.add_node(**TWO_GPUS, include_dashboard=False)


def nodes(store: Store) -> dict[str, dict[str, int]]:
    """What the newest run says its machines had and did."""
    [(details,), *_] = sql(store, "select details from runs where command = 'extract' order by started_at desc")
    found: dict[str, dict[str, int]] = json.loads(str(details))["nodes"]
    return found


class Once(Silent):
    """Progress that does something as the first shard comes back; in the main thread, which starts machines."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._left = [action]

    def advance(self, items: int) -> None:
        if self._left:
            self._left.pop()()


def soon(action: Callable[[], None]) -> None:
    """Do something beside."""
    threading.Thread(target=action, daemon=True).start()


def run(store: Store, cluster: Any, places: Places, request: ExtractRequest, progress: Any) -> ExtractReport:
    return extract(store, request, address=cluster.address, network=places.factory(), progress=progress)


def test_all_machines_work_one_that_comes_is_used_and_one_that_goes_costs_its_shards(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = noise_store(tmp_path, 480)
    places = Places(tmp_path / "places", {"": 0.0}, batches=2)
    went, came, missed = next(iter(cluster.worker_nodes)).node_id, [], []

    def change() -> None:
        came.append(add(cluster).node_id)
        soon(go)

    def go() -> None:
        until(lambda: len(places.seen()) == 8)
        there = machine_alive(went)
        cluster.remove_node(*[node for node in cluster.worker_nodes if node.node_id == went], allow_graceful=False)
        missed.extend([there, machine_alive(went)])
        places.go()

    report = run(store, cluster, places, REQUEST, Once(change))
    assert (report.computed, report.quarantined, report.actors) == (480, 0, 8)
    check_whole(store, 480)
    told = nodes(store)
    assert set(told) >= {went, *came}
    assert [counts["actors"] for counts in told.values()] == [2] * 4
    assert all(counts["shards"] for node, counts in told.items() if node != went)
    built = Counter((seen.node, seen.visible) for seen in places.seen())
    assert built == {(node, visible): 1 for node in told for visible in ("0", "1")}, "an actor sees its own GPU alone"
    assert caplog.text.count("an actor died with 2 shards in it") == 2
    assert missed == [True, False], "Ray itself misses it after ten seconds and more"


class Opened:
    """Names of files that this process opens, for a while."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._on = False
        sys.addaudithook(self._note)  # it cannot be taken away

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._on and event == "open" and isinstance(arguments[0], str):
            how = arguments[1] or ("w" if arguments[2] & (os.O_WRONLY | os.O_RDWR) else "r")
            self.names.append(f"{how[0]} {arguments[0]}")

    def __enter__(self) -> Opened:
        self._on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._on = False

    def images(self, store: Store) -> list[str]:
        return [name for name in self.names if f"{Path(store.url.removeprefix('file://')).parent}/noise/" in name]

    def features(self, store: Store) -> list[str]:
        folders = [store.data_folder(layer).removeprefix("file://") for layer in REQUEST.layers]
        return [name for name in self.names if name[0] != "r" and any(folder in name for folder in folders)]


def test_each_works_at_its_own_speed_reads_images_and_writes_features_and_none_goes_through_ray(
    cluster: Any, tmp_path: Path
) -> None:
    store = noise_store(tmp_path, 240)
    slow = cluster.head_node.node_id
    places = Places(tmp_path / "places", {"": 0.05, slow: 0.8})
    held: list[int] = []

    class Look(Silent):
        def advance(self, items: int) -> None:
            held.append(created(cluster))

    with Opened() as opened:
        report = run(store, cluster, places, REQUEST, Look())
    assert report.computed == 240
    done = nodes(store)
    assert len(done) == 3
    others = [counts["shards"] for node, counts in done.items() if node != slow]
    assert 0 < done[slow]["shards"] < min(others)
    assert (opened.images(store), opened.features(store)) == ([], [])
    assert report.nbytes > 60 << 20
    assert held[-1] - held[0] < report.nbytes / 1000, "objects made for 240 images"
    check_whole(store, 240)
    with opened:  # it sees what the actors do, where they do it
        fill(store, ExtractRequest(weights="random", seed=1, limit=8))
    assert len(opened.images(store)) == 8
    assert len(opened.features(store)) == 2


def created(cluster: Any) -> int:
    """Bytes of all objects that were ever put into the object stores of the machines."""
    import ray
    from ray._private.internal_api import node_stats

    there = {machine.node_id for machine in cluster.list_all_nodes()}  # Ray misses one that a test removed only later
    alive = [node for node in ray.nodes() if node["NodeID"] in there]
    replies = [node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False) for node in alive]
    return sum(reply.store_stats.cumulative_created_bytes for reply in replies)
