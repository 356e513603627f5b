"""How large a job is: a model of an extract, from what this machine measures and what you say of yours.

    python -m tests.benchmarks.sizing measure OUT.json --store STORE       (minutes; STORE holds features of real faces)
    python -m tests.benchmarks.sizing table OUT.json [--gpu-images R] [--gpu-hour P] ...

``measure`` writes what one image, shard and commit cost here. ``table`` prints time, bytes, requests, commits, driver
memory, cost and what saturates first. Nothing in it is a measurement of a cluster: it multiplies.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import ferstore
from ferstore.extract.committer import Committer
from ferstore.extract.plan import MOST_ITEMS, WorkItem
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _prepare
from ferstore.extract.worker import feature_rows
from ferstore.image.decode import pixels
from ferstore.store.listing import list_tables
from ferstore.store.runs import new_run
from ferstore.store.store import init_store, open_store
from ferstore.store.writer import ParquetBuffer
from tests.benchmarks import commits, planning, scale
from tests.benchmarks.big_store import add_extractor

IMAGES, GPUS = (36_000, 1_000_000, 100_000_000), (1, 8, 64)
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Measured:
    """What this machine found.

    Attributes:
        plan_seconds: of planning, an image.
        plan_bytes: of the driver's memory, an image.
        driver_bytes: of the driver before it plans.
        driver_shards: shards of 1,024 images that a driver hands out, collects and commits a second, actors beside it.
        shards_a_commit: in that run.
        decode_seconds: of one core to decode and resize a 48 x 48 PNG.
        encode_seconds: of one core to make an image's rows of both layers and compress them.
        image_bytes: of stored features, all layers.
        layers: how many.
        commit_gets, commit_puts: requests of the driver to the object store, a commit.
        shard_gets, shard_puts: requests of driver and actor, a shard, the pictures left out.
        metadata_bytes: that the newest metadata of a table grows by, a commit.
    """

    plan_seconds: float
    plan_bytes: float
    driver_bytes: float
    driver_shards: float
    shards_a_commit: float
    decode_seconds: float
    encode_seconds: float
    image_bytes: float
    layers: int
    commit_gets: float
    commit_puts: float
    shard_gets: float
    shard_puts: float
    metadata_bytes: float

    @property
    def cpu_seconds(self) -> float:
        """Of one core beside a GPU, an image."""
        return self.decode_seconds + self.encode_seconds


@dataclass(frozen=True, slots=True)
class Given:
    """What is said, not measured: each is an option.

    Attributes:
        gpu_images: images a second of one GPU in the network; the aim of issue 8 for any data-centre GPU.
        shard: images of a shard on GPUs (``ferstore.extract.run``).
        gpu_cores: of the machine, for each of its GPUs.
        gpu_hour: price of a machine with one GPU, US$; the list price of an AWS g5.4xlarge in us-east-1 is about this.
        month_gb: of a GB kept for a month, US$ (S3 Standard's list price).
        put_thousand, get_thousand: of a thousand requests, US$ (the same).
        prefix_gets: GETs a second of one prefix of a bucket that S3 documents.
        prefixes: over which the pictures are spread.
        start: seconds until an actor has loaded TensorFlow and built the network.
        driver_memory: bytes of the machine the driver runs on.
    """

    gpu_images: float = 2500.0
    shard: int = 1024
    gpu_cores: int = 16
    gpu_hour: float = 1.62
    month_gb: float = 0.023
    put_thousand: float = 0.005
    get_thousand: float = 0.0004
    prefix_gets: float = 5500.0
    prefixes: int = 32
    start: float = 30.0
    driver_memory: float = 32 * GIB


@dataclass(frozen=True, slots=True)
class Sized:
    """One job.

    Attributes:
        images, gpus: of the job.
        seconds: all in all.
        rate: images a second while actors work.
        nbytes: of features.
        gets, puts: requests, a GET a picture included.
        commits: transactions of the catalog.
        driver: bytes of memory; more than the machine has means several jobs, one a data set.
        jobs: how many that takes, each after the other.
        cost: of GPUs and requests, US$.
        kept: of a month's storage, US$.
        first: what saturates first, in words.
    """

    images: int
    gpus: int
    seconds: float
    rate: float
    nbytes: float
    gets: float
    puts: float
    commits: int
    driver: float
    jobs: int
    cost: float
    kept: float
    first: str


def sized(images: int, gpus: int, found: Measured, given: Given) -> Sized:
    """The model. Rates are those of the slowest part; parts work at the same time, but the plan comes before."""
    parts = {
        f"the network, on {gpus} GPU{'s' * (gpus > 1)}": gpus * given.gpu_images,
        f"the {gpus * given.gpu_cores} cores beside": gpus * given.gpu_cores / found.cpu_seconds,
        "the driver": found.driver_shards * given.shard,
        f"GETs of pictures from {given.prefixes} prefixes": given.prefix_gets * given.prefixes,
    }
    least = min(parts, key=parts.__getitem__)
    rate = parts[least]
    whole = found.driver_bytes + images * found.plan_bytes
    room = given.driver_memory - found.driver_bytes
    jobs = max(math.ceil(images * found.plan_bytes / room), math.ceil(images / MOST_ITEMS))
    # The account at the end plans once more.
    seconds = given.start + 2 * images * found.plan_seconds + images / rate
    shards = math.ceil(images / given.shard)
    made = math.ceil(shards / found.shards_a_commit)
    gets = images + shards * found.shard_gets + made * found.commit_gets
    puts = shards * found.shard_puts + made * found.commit_puts
    price = gpus * seconds / 3600 * given.gpu_hour
    price += puts / 1000 * given.put_thousand + gets / 1000 * given.get_thousand
    nbytes = images * found.image_bytes
    first = least
    if jobs > 1:
        first = f"the driver's memory: {jobs} jobs, a data set each; then {least}"
    return Sized(
        images, gpus, seconds, rate, nbytes, gets, puts, made, whole / jobs, jobs, price,
        nbytes / 1e9 * given.month_gb, first,
    )  # fmt: skip


def table(found: Measured, given: Given) -> str:
    """The table of all sizes, in Markdown."""
    lines = [
        "| images | GPUs | time | images/s | features | requests (GET + PUT) | commits | driver | cost (+ a month) "
        "| saturates first |",
        "|---" * 10 + "|",
    ]
    for images in IMAGES:
        for gpus in GPUS:
            job = sized(images, gpus, found, given)
            memory = f"{job.driver / GIB:.1f} GiB" + (f" x {job.jobs} jobs" if job.jobs > 1 else "")
            lines.append(
                f"| {images:,} | {gpus} | {_time(job.seconds)} | {job.rate:,.0f} | {_bytes(job.nbytes)} "
                f"| {job.gets:,.0f} + {job.puts:,.0f} | {job.commits:,} | {memory} "
                f"| ${job.cost:,.2f} (+ ${job.kept:,.2f}) | {job.first} |"
            )
    cores = given.gpu_images * found.cpu_seconds
    said = ", ".join(f"{name} {value:g}" for name, value in asdict(given).items())
    feeds = (
        f"At that rate of a GPU, one driver keeps {found.driver_shards * given.shard / given.gpu_images:.0f} of them "
        f"busy, and one prefix of a bucket feeds {given.prefix_gets / given.gpu_images:.1f}; {cores:.1f} CPU cores "
        f"decode 48 x 48 PNGs ({1e3 * found.decode_seconds:.1f} ms an image) and encode features "
        f"({1e3 * found.encode_seconds:.1f} ms) for one."
    )
    return "\n".join([*lines, "", feeds, f"Given, not measured: {said}."])


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.1f} TB"


def measure(folder: Path, store: str) -> Measured:
    """Everything, one after another."""
    small, large = 62_500, 500_000
    plans = []
    for images in (small, large):
        url = str(folder / f"plan-{images}")
        planning.make(url, images, 0.0)
        plans.append(min((planning.planned(url) for _ in range(3)), key=lambda one: one.seconds))
    clock = scale.drive(folder / "drive", 800, 0.02, actors=8, size=Given().shard)
    sizes = [one for one in list_tables(open_store(store)) if one.name in ("pool_3", "mixed_10") and one.rows]
    gets, puts, growth = _requests(folder)
    return Measured(
        plan_seconds=(plans[1].seconds - plans[0].seconds) / (large - small),
        plan_bytes=(plans[1].peak - plans[0].peak) / (large - small),
        driver_bytes=plans[0].base,
        driver_shards=clock.windows(1)[0][0],
        shards_a_commit=statistics.mean(count for _, count in clock.commits),
        decode_seconds=_decode_seconds(),
        encode_seconds=_encode_seconds(store),
        image_bytes=sum(one.nbytes / one.rows for one in sizes),
        layers=len(sizes),
        commit_gets=gets[0],
        commit_puts=puts[0],
        shard_gets=gets[1],
        shard_puts=puts[1] + len(sizes),  # the actor's files
        metadata_bytes=growth,
    )


def _decode_seconds() -> float:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48), np.uint8)).save(data, "png")
    began = time.perf_counter()
    for _ in range(300):
        pixels(data.getvalue())
    return (time.perf_counter() - began) / 300


def _encode_seconds(store: str) -> float:
    """Of features as they are in the store: real maps are compressed at another speed than drawn ones."""
    opened = ferstore.open(store)
    asked = "select pool_3, tensor(mixed_10) as mixed_10 from pool_3 join mixed_10 using (image_id) limit 128"
    rows = opened.sql(asked, limits=ferstore.Limits(seconds=None)).numpy()
    count = len(rows["pool_3"])
    items = [WorkItem(f"{number:064}", "identity", (), "d", "i") for number in range(count)]
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for name in ("pool_3", "mixed_10"):
            schema = opened.store.schemas[name]
            assert schema.feature is not None
            values = rows[name].reshape(count, *schema.feature.shape)
            buffer = ParquetBuffer(schema)
            buffer.append(feature_rows(schema, items, values, "e", datetime.now(UTC)))
            buffer.finish()
        seconds.append(time.perf_counter() - began)
    return min(seconds) / count


def _requests(folder: Path) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Reads and writes of a commit of no more than itself and of a shard in it, as seen by a filesystem in memory."""
    url = "memory://sizing"
    store = init_store(url, catalog=f"sqlite:///{folder}/sizing.db")
    request = ExtractRequest(weights="random", layers=commits.LAYERS)
    extractor_id = add_extractor(store, request)
    job = _prepare(store, request)
    committer = Committer(store, new_run("extract", {}, extractor_id=extractor_id), job.extractor, job.pin)
    results = list(commits.shards(store, 3 * 4 + 3 * 16, 2, extractor_id))
    cost: dict[int, tuple[int, int]] = {}
    sizes = []
    for group in (4, 4, 4, 16, 16, 16):  # the first of each warms up
        committer._pending.extend(results[:group])
        del results[:group]
        with _counted() as seen:
            committer.flush()
        reads, writes = seen["cat_file"] + 2 * seen["_open"] + seen["info"], seen["pipe_file"]
        cost[group] = reads, writes
        sizes.append(MemoryFileSystem().size(store.pin().tables[commits.LAYERS[0]].metadata_location))
    a_shard = [(cost[16][i] - cost[4][i]) / 12 for i in (0, 1)]
    a_commit = [cost[4][i] - 4 * a_shard[i] for i in (0, 1)]
    growth = (sizes[-1] - sizes[0]) / (len(sizes) - 1)
    return (a_commit[0], a_shard[0]), (a_commit[1], a_shard[1]), growth


@contextlib.contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Calls of the filesystem that are requests of an object store; to open a file and read its footer is two."""
    seen: Counter[str] = Counter()
    kept = {}
    for name in ("cat_file", "_open", "info", "pipe_file"):
        kept[name] = method = getattr(MemoryFileSystem, name)

        def counting(self: Any, *given: Any, _name: str = name, _method: Any = method, **named: Any) -> Any:
            seen[_name] += 1
            return _method(self, *given, **named)

        setattr(MemoryFileSystem, name, counting)
    try:
        yield seen
    finally:
        for name, method in kept.items():
            setattr(MemoryFileSystem, name, method)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sizing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    to_measure, to_print = commands.add_parser("measure"), commands.add_parser("table")
    for one in (to_measure, to_print):
        one.add_argument("file", type=Path)
    to_measure.add_argument("--store", required=True, help="with features of real faces: bytes an image")
    for option in fields(Given):
        kind = int if isinstance(option.default, int) else float
        to_print.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=option.default)
    asked = parser.parse_args()
    if asked.command == "measure":
        with tempfile.TemporaryDirectory(prefix="ferstore-sizing-") as folder:
            found = measure(Path(folder), asked.store)
        asked.file.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
        return
    given = Given(**{option.name: getattr(asked, option.name) for option in fields(Given)})
    print(table(Measured(**json.loads(asked.file.read_text("utf-8"))), given))


if __name__ == "__main__":
    main()
