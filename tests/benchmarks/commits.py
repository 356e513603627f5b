"""What a commit costs as a table's past grows: the public committer, files as shards leave them, no network."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ferstore.extract.committer import Committer
from ferstore.extract.plan import WorkItem
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _prepare
from ferstore.extract.worker import ShardResult
from ferstore.store.files import local_path
from ferstore.store.runs import new_run
from ferstore.store.store import Store, init_store
from tests.benchmarks.big_store import add_extractor, digests, feature_files
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

LAYERS = ("mixed_7_mean", "mixed_8_mean")  # the smallest: only their keys matter
SHARDS = 8  # of a commit
ROWS = 8  # of a shard: a commit looks at files, not at rows


def shards(store: Store, count: int, rows: int, extractor_id: str, seed: int = 0) -> Iterator[ShardResult]:
    """Finished shards, their files written ahead."""
    chance = np.random.default_rng(seed)
    ids = digests(count * rows, chance)
    import pyarrow as pa

    files = [feature_files(store, layer, pa.chunked_array([ids]), rows, extractor_id) for layer in LAYERS]
    for number in range(count):
        items = tuple(
            WorkItem(image_id, "identity", (f"s3://faces/{image_id}",), "big", image_id)
            for image_id in ids.slice(number * rows, rows).to_pylist()
        )
        yield ShardResult(LAYERS, tuple(next(of) for of in files), items, (), 0.0)


def commit_seconds(url: str, commits: int) -> list[float]:
    """Seconds of each of so many commits, one after another, by one job."""
    store = init_store(url)
    request = ExtractRequest(weights="random", layers=LAYERS)
    extractor_id = add_extractor(store, request)
    job = _prepare(store, request)
    committer = Committer(store, new_run("extract", {}, extractor_id=extractor_id), job.extractor, job.pin)
    found = []
    results = shards(store, commits * SHARDS, ROWS, extractor_id)
    while group := list(itertools.islice(results, SHARDS)):
        committer._pending.extend(group)
        began = time.perf_counter()
        committer.flush()
        found.append(time.perf_counter() - began)
    return found


def around(seconds: Sequence[float], commit: int) -> Sequence[float]:
    """The 15 commits in the middle of which this one is, counted from 1."""
    return seconds[commit - 8 : commit + 7]


def metadata_bytes(url: str) -> dict[str, int]:
    """Bytes of Iceberg metadata of a store by kind: all there is, and what the newest state needs."""
    store = init_store(url)
    folder = local_path(store.url)
    assert folder is not None
    files = [file for file in (folder / "tables" / LAYERS[0] / "metadata").iterdir() if file.is_file()]
    newest = store.pin().tables[LAYERS[0]].metadata_location
    return {
        "metadata.json, newest": Path(newest.removeprefix("file://")).stat().st_size,
        "all": sum(file.stat().st_size for file in files),
        "files": len(files),
    }


def rows(inputs: Inputs) -> Iterator[Row]:
    """The commits around the thousandth against those around the tenth."""
    folder, full = inputs.folder, inputs.size == "full"
    commits = 1000 if full else 300
    url = str(folder / "commits")
    seconds = commit_seconds(url, commits + 8)
    sizes = metadata_bytes(url)
    early, late = around(seconds, 10), around(seconds, commits)
    for commit in (commits // 16, commits // 4, commits):
        yield Row(f"commit {commit:,}", tuple(1000 * one for one in around(seconds, commit)), (), "ms", None)
    yield Row(
        f"commit {commits:,} against commit 10: {SHARDS} shards of two layers, SQLite catalog, local disk",
        tuple(1000 * one for one in late),
        tuple(1000 * one for one in early),
        "ms",
        1.5,
        higher=False,
        note=f"15 commits around each, in pairs; every hundredth merges manifests: the longest {max(seconds):.2f} s; "
        f"then the newest metadata.json of a table has {sizes['metadata.json, newest'] / 1e6:.2f} MB, all its metadata "
        f"{sizes['all'] / 1e6:.0f} MB in {sizes['files']:,} files",
    )
    shutil.rmtree(folder / "commits")
