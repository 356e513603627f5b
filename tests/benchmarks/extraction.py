"""``ferstore extract`` against the bare network, its steady rate and its start-up; and against `rivals`.

The bare network is ferstore's own, in a loop over decoded batches in memory, in one process with TensorFlow's default
threads. Rates of ``extract`` come from the times that it stores beside every feature.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

import ferstore
from ferstore.extract import inception
from ferstore.extract.layer import LAYERS
from ferstore.extract.weights import resolve
from ferstore.image.decode import pixels
from tests.benchmarks.commands import run
from tests.benchmarks.filled import EACH, batch_times, extract, keep, new_store, steady_rate, whole_command
from tests.benchmarks.inputs import Inputs, pictures
from tests.benchmarks.rivals import Rivals
from tests.benchmarks.row import Row

BATCH = 32
STARTUP = Path(__file__).parent / "peers" / "startup.py"


def rows(inputs: Inputs) -> Iterator[Row]:
    """One turn measures every way once."""
    images = inputs.of(quick=64, normal=192, full=3600)
    faces = inputs.some_faces(images)
    bare = Bare(inputs, faces, seconds=inputs.of(quick=1.0, normal=3.5, full=15.0))
    rivals = Rivals(inputs, faces, images)
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(inputs.turns):
        store = new_store(inputs, faces, f"one-{turn}")
        done = extract(inputs, store, "--actors", 1)
        times, _ = batch_times(store)
        [[ran]] = ferstore.open(str(store)).sql("select min(started_at) from runs where command = 'extract'").rows()
        found["one"].append(steady_rate(store, 1))
        found["startup"].append(times[0] - done.began)
        found["until ray"].append(ran.timestamp() - done.began)
        parts = dict(line.split() for line in run([sys.executable, str(STARTUP), inputs.weights]).output.splitlines())
        for part, seconds in parts.items():
            found[f"{part} alone"].append(float(seconds))
        found["bare"].append(bare.rate())
        began = time.perf_counter()
        store = new_store(inputs, faces, f"{EACH}-{turn}")
        done = extract(inputs, store, "--actors", "auto")
        found["whole"].append(time.perf_counter() - began)
        found["extract"].append(done.seconds)
        keep(store, done)
        found["each"].append(steady_rate(store, int(done.json["actors"])))
        rivals.turn()
    yield from rivals.rows(tuple(found["whole"]))
    yield from _rows(inputs, images, {name: tuple(values) for name, values in found.items()})


def _rows(inputs: Inputs, images: int, found: dict[str, tuple[float, ...]]) -> Iterator[Row]:
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
        found["bare"],
        "images/s",
        1.05,
        note=note,
    )
    yield whole_command(images, found["extract"], inputs.named)
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


class Bare:
    """The network in one loop over decoded batches in memory, in this process."""

    def __init__(
        self,
        inputs: Inputs,
        faces: Path,
        *,
        seconds: float,
        precision: str = "float32",
        gpus: int = 0,
        batch: int = BATCH,
    ) -> None:
        files = pictures(faces)[: 8 * batch]
        decoded = np.stack([pixels(file.read_bytes()) for file in files])
        self.batches = [decoded[at : at + batch] for at in range(0, len(decoded), batch)]
        self._seconds = seconds
        self._precision = precision
        inception.configure(precision, gpus=gpus, threads=None)
        layers = [LAYERS["pool_3"], LAYERS["mixed_10"]]
        weights = resolve(inputs.weights).load()
        self.network = inception.Network(layers, weights, batch_size=batch, precision=precision)
        self.network(self.batches[0])

    def timed(self) -> int:
        """Run for its seconds; images done."""
        inception.configure(self._precision, gpus=0, threads=None)  # of the process, where another one was made since
        done, began = 0, time.perf_counter()
        for batch in cycle(self.batches):
            self.network(batch)
            done += len(batch)
            if time.perf_counter() - began > self._seconds:
                break
        return done

    def rate(self) -> float:
        """Images a second."""
        began = time.perf_counter()
        return self.timed() / (time.perf_counter() - began)
