"""``ferstore extract`` against the bare network: steady rate, large JPEGs, start-up, bytes an image, memory.

The bare network is ferstore's own, in a loop over decoded batches in memory, in one process with TensorFlow's default
threads. Rates of ``extract`` come from the times that it stores beside every feature.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import ferstore
from ferstore.extract import inception
from ferstore.extract.layer import LAYERS
from ferstore.extract.weights import resolve
from ferstore.image.decode import pixels
from tests.benchmarks.commands import run
from tests.benchmarks.filled import batch_times, extract, full_store, new_store, steady_rate
from tests.benchmarks.inputs import Inputs, pictures
from tests.benchmarks.row import Row

BATCH = 32
RAW = 4 * (2048 + 8 * 8 * 2048)
"""Bytes of both features of an image as float32."""
JPEG = (1632, 1224)
"""2.0 megapixels."""
STARTUP = Path(__file__).parent / "peers" / "startup.py"


def rows(inputs: Inputs) -> Iterator[Row]:
    """All rows; one turn measures every way once."""
    images = inputs.of(quick=64, normal=640, full=1280)
    faces = inputs.some_faces(images)
    photos = write_photos(inputs, inputs.of(quick=32, normal=320, full=640))
    bare = Bare(inputs, faces, seconds=inputs.of(quick=1.0, normal=8.0, full=15.0))
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(inputs.turns):
        found["bare"].append(bare.rate())
        store = new_store(inputs, faces, f"one-{turn}")
        done = extract(inputs, store, "--actors", 1)
        times, _ = batch_times(store)
        started = ferstore.open(str(store)).sql("select min(started_at) from runs where command = 'extract'").rows()
        found["one"].append(steady_rate(store, 1))
        found["startup"].append(times[0] - done.began)
        found["until ray"].append(next(iter(started))[0].timestamp() - done.began)
        parts = dict(line.split() for line in run([sys.executable, str(STARTUP), inputs.weights]).output.splitlines())
        for part, seconds in parts.items():
            found[f"{part} alone"].append(float(seconds))
        found["bare again"].append(bare.rate())
        store = new_store(inputs, faces, f"each-{turn}")
        done = extract(inputs, store, "--actors", "auto")
        found["each"].append(steady_rate(store, int(done.json["actors"])))
        found["driver"].append(done.peak("driver") / 2**20)
        found["actor"].append(done.peak("_Host") / 2**20)
        found["bare for photos"].append(bare.rate())
        store = new_store(inputs, photos, f"photos-{turn}")
        done = extract(inputs, store, "--actors", "auto")
        found["photos"].append(steady_rate(store, int(done.json["actors"])))
    yield from _rate_rows(inputs, images, {name: tuple(values) for name, values in found.items()})
    yield from _size_rows(inputs)
    yield from _memory_rows(inputs, images, tuple(found["driver"]), tuple(found["actor"]))


def _rate_rows(inputs: Inputs, images: int, found: dict[str, tuple[float, ...]]) -> Iterator[Row]:
    note = f"{images} {inputs.named}, float32"
    yield Row(
        "steady extract, one actor with all cores, against the bare network",
        found["one"],
        found["bare"],
        "images/s",
        0.97,
        note=note,
    )
    yield Row(
        "steady extract, one single-threaded actor a core, against the bare network with all cores",
        found["each"],
        found["bare again"],
        "images/s",
        1.05,
        note=note,
    )
    yield Row(
        f"the same on JPEGs of {JPEG[0]} x {JPEG[1]}, one actor a core, against the bare network",
        found["photos"],
        found["bare for photos"],
        "images/s",
        0.90,
        note="the same faces, enlarged with grain",
    )
    parts = {name: values for name, values in found.items() if name.endswith(" alone")}
    alone = tuple(map(sum, zip(*parts.values(), strict=True)))
    told = ", ".join(f"{name.removesuffix(' alone')} {statistics.median(v):.1f}" for name, v in parts.items())
    until = statistics.median(found["until ray"])
    yield Row(
        "start-up of extract to the first batch computed, against its parts one after the other",
        found["startup"],
        alone,
        "s",
        1.3,
        higher=False,
        note=f"parts: {told}; of ferstore's, {until:.1f} until Ray runs",
    )


def _size_rows(inputs: Inputs) -> Iterator[Row]:
    stored = _bytes_an_image(full_store(inputs))
    note = f"{inputs.named}"
    what = "bytes an image, pool_3 and mixed_10, against raw float32"
    yield Row(f"{what}: float16 maps", (stored,), (float(RAW),), "bytes", 1 / 7, higher=False, note=note)
    faces = inputs.some_faces(inputs.of(quick=32, normal=128, full=256))
    store = inputs.folder / "lossless"
    from tests.benchmarks.commands import ferstore as command

    command(store, "init", "--maps", "float32")
    command(store, "ingest", inputs.kind, faces)
    extract(inputs, store)
    stored = _bytes_an_image(store)
    yield Row(f"{what}: float32 maps, lossless", (stored,), (float(RAW),), "bytes", 1 / 4, higher=False, note=note)


def _bytes_an_image(store: Path) -> float:
    return sum(t.nbytes / t.rows for t in ferstore.open(str(store)).tables() if t.name in ("pool_3", "mixed_10"))


def _memory_rows(inputs: Inputs, images: int, driver: tuple[float, ...], actor: tuple[float, ...]) -> Iterator[Row]:
    """Over twice the images."""
    more = inputs.of(quick=128, normal=1200, full=3600)
    faces = inputs.some_faces(more)
    large: dict[str, list[float]] = {"driver": [], "_Host": []}
    for turn in range(inputs.of(quick=1, normal=1, full=len(driver))):
        store = new_store(inputs, faces, f"large-{turn}")
        done = extract(inputs, store, "--actors", "auto")
        for name, values in large.items():
            values.append(done.peak(name) / 2**20)
    for what, title, small in (("the driver", "driver", driver), ("an actor", "_Host", actor)):
        turns = tuple(large[title])
        yield Row(
            f"peak memory of {what} over {more} images, against over {images}",
            turns,
            small[: len(turns)],
            "MiB",
            1.1,
            higher=False,
        )


class Bare:
    """The network in one loop over decoded batches in memory, in this process."""

    def __init__(self, inputs: Inputs, faces: Path, *, seconds: float, precision: str = "float32") -> None:
        files = pictures(faces)[: 8 * BATCH]
        decoded = np.stack([pixels(file.read_bytes()) for file in files])
        self.batches = [decoded[at : at + BATCH] for at in range(0, len(decoded), BATCH)]
        self._seconds = seconds
        inception.configure(precision, gpus=0, threads=None)
        layers = [LAYERS["pool_3"], LAYERS["mixed_10"]]
        weights = resolve(inputs.weights).load()
        self.network = inception.Network(layers, weights, batch_size=BATCH, precision=precision)
        self.network(self.batches[0])

    def timed(self) -> int:
        """Run for its seconds; images done."""
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < self._seconds:
            for batch in self.batches:
                self.network(batch)
                done += len(batch)
        return done

    def rate(self) -> float:
        """Images a second."""
        began = time.perf_counter()
        return self.timed() / (time.perf_counter() - began)


def write_photos(inputs: Inputs, count: int) -> Path:
    """Pictures of two megapixels in two classes: the faces enlarged, with a sensor's grain, as JPEGs."""
    folder = inputs.folder / "photos"
    random = np.random.default_rng(0)
    grain = random.normal(0, 4, (JPEG[1] + 64, JPEG[0] + 64, 1))
    for number, file in enumerate(pictures(inputs.some_faces(count))[:count]):
        large = np.asarray(Image.open(file).convert("RGB").resize(JPEG, Image.Resampling.BICUBIC), np.float32)
        row, column = random.integers(0, 64, 2)
        noisy = large + grain[row : row + JPEG[1], column : column + JPEG[0]]
        place = folder / f"class-{number % 2}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(stream, "jpeg", quality=90)
        place.write_bytes(stream.getvalue())
    return folder
