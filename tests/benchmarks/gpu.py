"""What needs a GPU: ``python -m tests.benchmarks --gpu``. Without one every row says so."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator

from tests.benchmarks.filled import batch_times, extract, new_store, steady_rate
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

NO_GPU = "no GPU"
STEADY = "steady extract on one GPU, float16"
BUSY = "share of the time that the GPU is busy in a steady extract"
TRAINING = "training of sub_deep on one GPU, fed from Parquet, against the same from memory"
AIMS = {STEADY: (2500.0, "images/s"), BUSY: (0.9, ""), TRAINING: (0.9, "samples/s")}


def rows(inputs: Inputs) -> Iterator[Row]:
    """Each as measured, or not measured and why."""
    name = gpu_name()
    if name is None:
        for what, (aim, unit) in AIMS.items():
            yield Row(what, (), (), unit, aim, missing=NO_GPU)
        return
    images = inputs.of(quick=128, normal=3600, full=3600)
    faces = inputs.some_faces(images)
    rates, shares = [], []
    for turn in range(inputs.turns):
        store = new_store(inputs, faces, f"gpu-{turn}")
        with Busy() as busy:
            # Mirrored too, so that a fast GPU has work for long enough.
            options = (
                "--gpus-per-actor",
                1,
                "--precision",
                "float16",
                "--batch-size",
                128,
                "--views",
                "identity,hflip",
            )
            extract(inputs, store, *options)
        times, _ = batch_times(store)
        first = len(times) // 5
        rates.append(steady_rate(store, 1))
        shares.append(busy.share(times[first], times[-1]))
        shutil.rmtree(store)
    note = f"{name}; {images} {inputs.named}, two views"
    yield Row(STEADY, tuple(rates), (), "images/s", 2500, note=note)
    yield Row(BUSY, tuple(shares), (), "", 0.9, note=note)
    yield _training(inputs, name)


def _training(inputs: Inputs, name: str) -> Row:
    from ferstore.train.trainer import configure
    from tests.benchmarks.training import Loop, load
    from tests.benchmarks.turns import rates

    configure(gpus=1)
    width = inputs.of(quick=64, normal=2048, full=2048)
    loop = Loop(load(inputs, "mixed_10"), "sub_deep", width, inputs.of(quick=0.3, normal=3.0, full=10.0))
    found = rates({"parquet": loop.parquet, "memory": loop.memory}, inputs.turns)
    loop.close()
    return Row(TRAINING, found["parquet"], found["memory"], "samples/s", 0.9, note=f"{name}; width {width}")


def gpu_name() -> str | None:
    """Of the first GPU, as its driver calls it."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


class Busy:
    """Asks the driver ten times a second what share of the time before its kernels ran."""

    def __enter__(self) -> Busy:
        self._samples: list[tuple[float, float]] = []
        command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-i",
            "0",
            "-lms",
            "100",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()

    def share(self, first: float, last: float) -> float:
        """Mean between two times, UTC seconds."""
        inside = [busy for when, busy in self._samples if first <= when <= last]
        return statistics.mean(inside) / 100 if inside else float("nan")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():
                self._samples.append((time.time(), float(line)))
