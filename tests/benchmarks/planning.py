"""Planning over as many images as asked for: from what the store has registered and committed to shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _prepare
from ferstore.store.store import init_store, open_store
from tests.benchmarks.apart import Apart, apart
from tests.benchmarks.big_store import add_extractor, add_features, add_images, image_ids
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

LAYERS = ("mixed_7_mean", "mixed_8_mean")  # the smallest: only their keys matter
REQUEST = ExtractRequest(weights="random", layers=LAYERS)
SHARD = 256  # images
MILLION = 1_000_000
GIB = 1 << 30


def make(url: str, images: int, done: float, rows_a_file: int = SHARD) -> None:
    """A store of so many images, this share of them with features in both layers, in files of whole shards."""
    store = init_store(url)
    add_images(store, images)
    extractor_id = add_extractor(store, REQUEST)
    if done:
        ids = image_ids(store).slice(0, round(images * done))
        for layer in LAYERS:
            add_features(store, layer, ids, rows_a_file, extractor_id)


def plan(url: str, layers: list[str]) -> dict[str, Any]:
    """What ``ferstore extract`` does before it hands out its first shard, and the first shards."""
    began = time.perf_counter()
    job = _prepare(open_store(url), ExtractRequest(weights="random", layers=tuple(layers)))
    places = job.plan.places(SHARD)
    first = [job.plan.shard(place, SHARD) for place in places[:64]]
    seconds = time.perf_counter() - began
    return {
        "wanted": job.plan.wanted,
        "present": job.plan.present,
        "todo": job.plan.todo,
        "shards": len(places),
        "handed_out": sum(len(shard.items) for shard in first),
        "seconds": seconds,
    }


def planned(url: str, layers: tuple[str, ...] = LAYERS) -> Apart:
    """The plan of a store, in a process of its own."""
    return apart("tests.benchmarks.planning", "plan", url, list(layers))


def rows(inputs: Inputs) -> Iterator[Row]:
    """Seconds and memory of a plan, fresh and resumed, at growing sizes."""
    folder, full = inputs.folder, inputs.size == "full"
    sizes = (MILLION // 16, MILLION // 4, MILLION)
    for done, what in ((0.0, "nothing done"), (0.9, f"90 % done, in files of {SHARD} rows")):
        for images in sizes[:1] if done and not full else sizes:
            url = str(folder / f"plan-{images}-{done}")
            make(url, images, done)
            yield from _figures(url, images, done, what)
            shutil.rmtree(url)
    if full:
        yield from ten_million(folder)


def _figures(url: str, images: int, done: float, what: str) -> Iterator[Row]:
    found = [planned(url) for _ in range(3)]
    check(images, done, found)
    whole = images == MILLION
    times, peaks = tuple(one.seconds for one in found), tuple(one.peak / GIB for one in found)
    each = (min(one.peak for one in found) - found[0].base) / images
    yield Row(
        f"plan over {images:,} images, {what}, two layers", times, (), "s", 10.0 if whole else None, False,
        f"{1e6 * min(times) / images:.1f} µs an image",
    )  # fmt: skip
    yield Row(
        f"driver's memory for it: {images:,} images, {what}", peaks, (), "GiB", 2.0 if whole else None, False,
        f"{each:.0f} bytes an image, beyond {found[0].base / GIB:.2f} GiB of imports",
    )  # fmt: skip


def check(images: int, done: float, found: list[Apart]) -> None:
    """The plans must be right, or their cost is nobody's."""
    for one in found:
        present = round(images * done)
        if (one.said["wanted"], one.said["present"], one.said["todo"]) != (images, present, images - present):
            raise AssertionError(f"a plan over {images} images, {present} of them done, found {one.said}")


def ten_million(folder: Path) -> Iterator[Row]:
    """The plan over ten million images, once; minutes, and 8 GiB of disk and memory."""
    images = 10 * MILLION
    url = str(folder / "plan-10M")
    make(url, images, 0.0)
    found = [planned(url)]
    check(images, 0.0, found)
    yield Row(f"plan over {images:,} images", (found[0].seconds,), (), "s", 90.0, higher=False)
    yield Row(f"driver's memory for it, {images:,} images", (found[0].peak / GIB,), (), "GiB", 8.0, higher=False)
    shutil.rmtree(url)
