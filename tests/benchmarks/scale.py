"""The driver of an extract at the pace of many GPUs: everything of it is real but the network behind the actors.

A stub holds each shard for a fixed time, and answers with files of the right shape that were written before. The driver
plans, hands out, collects and commits as ever.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ferstore.cluster import cluster
from ferstore.extract.committer import Committer, Counts
from ferstore.extract.plan import Shard
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _prepare, _work
from ferstore.extract.watch import ExtractWatch
from ferstore.extract.worker import ShardResult
from ferstore.store.files import StoredFile, local_path
from ferstore.store.runs import new_run
from ferstore.store.store import Store, init_store
from ferstore.watch import Recorder
from tests.benchmarks.big_store import add_extractor, add_images, feature_files, image_ids
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

LAYERS = ("pool_3", "mixed_10")
REQUEST = ExtractRequest(weights="random", layers=LAYERS)
SHARD = 256  # images, the largest of a CPU actor
ACTORS = 64
LATENCY = 0.6  # seconds of a shard: 64 actors that are always busy do 107 of them a second


def stub(
    latency: float, templates: dict[str, tuple[str, int]], size: int, gather: str, actors: int
) -> Callable[[Any], Any]:
    """A factory of workers that hold a shard for so long, one at a time, and link a file that is there already.

    They begin together.

    Everything is nested, so that it is sent by value to actors that cannot import this module.

    Args:
        latency: seconds of a shard.
        templates: for each layer a file of a whole shard, and its bytes.
        size: images of a shard.
        gather: an empty folder, where they find one another.
        actors: how many there are.
    """

    def factory(_: object) -> Any:
        from ferstore.extract.worker import ShardResult
        from ferstore.store.files import StoredFile

        class Stub:
            def __init__(self) -> None:
                self._turn = threading.Lock()
                self._free = 0.0

            def run(self, shard: Shard) -> ShardResult:
                with self._turn:
                    if not self._free:
                        self._gather()
                    began = time.perf_counter()
                    waited = began - self._free if self._free else 0.0
                    time.sleep(latency)
                    self._free = time.perf_counter()
                    seconds = self._free - began
                files = tuple(self._link(layer) for layer in shard.layers)
                return ShardResult(shard.layers, files, shard.items, (), seconds, waited)

            def _gather(self) -> None:
                # Else the first actors would do all the work while the last are still being started.
                with open(os.path.join(gather, secrets.token_hex(8)), "x"):
                    pass
                until = time.perf_counter() + 120
                while len(os.listdir(gather)) < actors and time.perf_counter() < until:
                    time.sleep(0.05)

            def _link(self, layer: str) -> StoredFile:
                path, nbytes = templates[layer]
                new = path.replace("-template", f"-{secrets.token_hex(8)}")
                os.link(path, new)
                return StoredFile(f"file://{new}", path[-72:-8], nbytes, size)

        return Stub()

    return factory


@dataclass
class Clock:
    """Looks on as results come: from the moment that every actor has delivered one."""

    actors: int
    size: int
    began: float = 0.0
    warm_at: float = 0.0
    shards: list[tuple[float, float, float]] = field(default_factory=list)  # when it came, seconds at work, and before
    commits: list[tuple[float, int]] = field(default_factory=list)  # seconds and shards
    _seen: int = 0

    def finished(self, result: ShardResult) -> None:
        now = time.perf_counter()
        self._seen += not result.waited  # only an actor's first shard waited for nothing
        if self.warm_at:
            self.shards.append((now, result.seconds, result.waited))
        elif self._seen >= self.actors:
            self.warm_at = now

    def windows(self, count: int = 3) -> list[tuple[float, float]]:
        """Shards a second and the share of time at work, in so many parts of the run; the last shards are left out."""
        steady = self.shards[: -2 * self.actors] or self.shards
        size = max(1, len(steady) // count)
        found = []
        began = self.warm_at
        for part in (steady[at : at + size] for at in range(0, count * size, size)):
            work, wait = sum(one[1] for one in part), sum(one[2] for one in part)
            found.append((len(part) / (part[-1][0] - began), work / (work + wait)))
            began = part[-1][0]
        return found

    def committed(self, seconds: float, counts: Counts) -> None:
        self.commits.append((seconds, counts.computed // self.size))

    def start(self, what: str, total: int | None) -> None: ...

    def advance(self, items: int) -> None: ...

    def note(self, text: str) -> None: ...


class _Watch(ExtractWatch):
    """Real metrics, and the clock."""

    clock: Clock

    def finished(self, result: ShardResult) -> None:
        super().finished(result)
        self.clock.finished(result)


def templates(store: Store, extractor_id: str, size: int) -> dict[str, tuple[str, int]]:
    """One file of zeros for each layer, as large as a shard."""
    found = {}
    ids = pa.chunked_array([image_ids(store).slice(0, size).combine_chunks()])
    for layer in LAYERS:
        [file] = feature_files(store, layer, ids, size, extractor_id)
        path = str(local_path(file.url))
        name = f"{os.path.dirname(path)}/stub-template-{file.sha256}.parquet"
        os.rename(path, name)
        found[layer] = name, file.nbytes
    return found


def drive(folder: Path, shards: int, latency: float, *, actors: int = ACTORS, size: int = SHARD) -> Clock:
    """Extract so many shards with so many actors, each in a process of its own."""
    from ferstore.extract.pool import Pool

    store = init_store(str(folder))
    add_images(store, shards * size)
    extractor_id = add_extractor(store, REQUEST)
    files = templates(store, extractor_id, size)
    clock = Clock(actors, size)
    gather = folder / "gather"
    gather.mkdir()
    with cluster(None, cpus=actors):
        clock.began = time.perf_counter()
        job = _prepare(store, REQUEST)
        run = new_run("extract", {}, extractor_id=extractor_id)
        committer = Committer(store, run, job.extractor, job.pin)
        committer.told = clock.committed
        watch = _Watch(Recorder(dataset="all"), job.plan.todo)
        watch.clock = clock
        pool = Pool(
            stub(latency, files, size, str(gather), actors), None, actors=actors, cpus=1, gpus=0, largest_shard=size
        )
        _work(pool, job.plan, size, committer, watch, clock)
    committed = sum(int(f.record_count) for f in store.pin().data_files("pool_3"))
    if (committer.counts.computed, committed) != (shards * size,) * 2:
        raise AssertionError(f"{shards * size} images were planned, {committed} are committed")
    return clock


def rows(inputs: Inputs) -> Iterator[Row]:
    """Shards a second, and the share of their time that actors work, in three parts of one run."""
    folder, full = inputs.folder, inputs.size == "full"
    clock = drive(folder / "scale", 4000 if full else 1000, LATENCY)
    windows = clock.windows()
    seconds = sum(one for one, _ in clock.commits) / len(clock.commits)
    count = sum(shards for _, shards in clock.commits) / len(clock.commits)
    note = (
        f"{ACTORS} actor processes on this machine, shards of {SHARD} images in two layers, {LATENCY:g} s each; from "
        f"when every actor has delivered one; {count:.0f} shards a commit of {seconds:.2f} s"
    )
    rates, shares = zip(*windows, strict=True)
    yield Row("shards planned, handed out and committed", tuple(rates), (), "shards/s", 100.0, note=note)
    yield Row("share of their time that the actors work meanwhile", tuple(shares), (), "of 1", 0.95, note=note)
    started = clock.warm_at - clock.began
    yield Row(f"from the plan until all of {ACTORS} actors delivered a shard", (started,), (), "s", None, higher=False)
    shutil.rmtree(folder / "scale")
