"""Bytes an image in the store, and peak memory of an extraction over few images and over many."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import ferstore
from tests.benchmarks.commands import ferstore as command
from tests.benchmarks.filled import extract, full_store, kept, small_stores, whole_command
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

RAW = 4 * (2048 + 8 * 8 * 2048)
"""Bytes of both features of an image as float32."""


def rows(inputs: Inputs) -> Iterator[Row]:
    """Sizes, then memory."""
    store = full_store(inputs)
    stored = bytes_an_image(store)
    what = "bytes an image, pool_3 and mixed_10, against raw float32"
    yield Row(f"{what}: float16 maps", (stored,), (float(RAW),), "bytes", 1 / 7, higher=False, note=inputs.named)
    exact = inputs.folder / "lossless"
    shutil.rmtree(exact, ignore_errors=True)
    command(exact, "init", "--maps", "float32")
    command(exact, "ingest", inputs.kind, inputs.some_faces(inputs.of(quick=32, normal=48, full=256)))
    done = extract(inputs, exact)
    stored = bytes_an_image(exact)
    yield Row(f"{what}: float32 maps", (stored,), (float(RAW),), "bytes", 1 / 4, higher=False, note=inputs.named)
    large = kept(store)
    images = large["images"]
    yield whole_command(done.json["computed"], (done.seconds,), f"{inputs.named}, float32 maps")
    yield whole_command(images, (large["seconds"],), inputs.named)
    # As many actors: one that has all cores to itself has other needs. And enough for each to have a batch in the
    # network, one before it and one behind it.
    runs = [kept(one) for one in small_stores(inputs, inputs.of(quick=32, normal=200, full=256), large["actors"])]
    for what, title in (("the driver", "driver"), ("an actor", "_Host")):
        peaks = tuple(run[title] / 2**20 for run in runs)
        named = f"peak memory of {what} of extract over {images} images, against over {runs[0]['images']}"
        of_each = (large[title] / 2**20,) * len(peaks)
        told = f"one run, against {len(runs)}"
        yield Row(named, of_each, peaks, "MiB", 1.1, higher=False, note=told)


def bytes_an_image(store: Path) -> float:
    """Both tables' files over their rows."""
    return sum(t.nbytes / t.rows for t in ferstore.open(str(store)).tables() if t.name in ("pool_3", "mixed_10"))
