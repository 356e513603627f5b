"""``ferstore extract`` on JPEGs of two megapixels, which it decodes scaled down, against the bare network."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.extraction import Bare
from tests.benchmarks.filled import extract, new_store, steady_rate
from tests.benchmarks.inputs import Inputs, pictures
from tests.benchmarks.row import Row

JPEG = (1632, 1224)
"""2.0 megapixels."""


def rows(inputs: Inputs) -> Iterator[Row]:
    """One row."""
    images = inputs.of(quick=32, normal=192, full=1280)
    photos = write_photos(inputs, images)
    bare = Bare(inputs, photos, seconds=inputs.of(quick=1.0, normal=3.5, full=15.0))
    ours, other = [], []
    for turn in range(inputs.turns):
        other.append(bare.rate())
        store = new_store(inputs, photos, f"photos-{turn}")
        done = extract(inputs, store, "--actors", "auto")
        ours.append(steady_rate(store, int(done.json["actors"])))
    what = f"steady extract of JPEGs of {JPEG[0]} x {JPEG[1]}, against the bare network"
    note = f"{images} {inputs.named}, enlarged with grain; one actor a core"
    yield Row(what, tuple(ours), tuple(other), "images/s", 0.90, note=note)


def write_photos(inputs: Inputs, count: int) -> Path:
    """Pictures of two megapixels in two classes: the faces enlarged, with a sensor's grain, as JPEGs."""
    folder = inputs.folder / "photos"
    random = np.random.default_rng(0)
    grain = random.normal(0, 4, (JPEG[1] + 64, JPEG[0] + 64, 1)).astype(np.float32)
    files = pictures(inputs.some_faces(count))[:count]
    corners = random.integers(0, 64, (len(files), 2))

    def write(number: int) -> None:
        large = np.asarray(Image.open(files[number]).convert("RGB").resize(JPEG, Image.Resampling.BICUBIC), np.float32)
        row, column = corners[number]
        noisy = large + grain[row : row + JPEG[1], column : column + JPEG[0]]
        place = folder / f"class-{number % 2}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(place, "jpeg", quality=90)

    with ThreadPoolExecutor() as threads:
        list(threads.map(write, range(len(files))))
    return folder
