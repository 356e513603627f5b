"""Extraction on a GPU: ``python -m tests.benchmarks --gpu``. Without one every row says so."""

from __future__ import annotations

import csv
import shutil
import statistics
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from ferstore.extract.calls import NetworkCalls
from ferstore.extract.staffing import calls_at_once
from tests.benchmarks.extraction import Bare
from tests.benchmarks.filled import batch_times, extract, new_store, slope
from tests.benchmarks.inputs import PARTS, Inputs, pictures
from tests.benchmarks.row import Row

NO_GPU = "no GPU"
BATCH = 128
RATE = "steady extract on one GPU, float16"
BARE = "the same against the bare network, as many calls at a time"
BUSY = "share of the time that the GPU is busy in a steady extract, float16"
AIMS: dict[str, tuple[float | None, str]] = {
    RATE: (2500.0, "images/s"),
    BARE: (None, "images/s"),
    BUSY: (0.9, ""),
}


def rows(inputs: Inputs) -> Iterator[Row]:
    """Each as measured, or not measured and why."""
    name = gpu_name()
    if name is None:
        for what, (aim, unit) in AIMS.items():
            yield Row(what, (), (), unit, aim, missing=NO_GPU)
        return
    faces = inputs.some_faces(inputs.of(quick=128, normal=3600, full=3600))
    many = _shifted(faces, inputs.folder / "shifted", inputs.of(quick=1, normal=11, full=11))
    store = new_store(inputs, many, "gpu")
    count = 2 * len(pictures(many))  # mirrored too
    bare = BareOnGpu(inputs, faces, seconds=inputs.of(quick=1.0, normal=5.0, full=10.0))
    rates, limits, shares = [], [], []
    for _ in range(inputs.turns):
        rate, share = _turn(inputs, store, count // inputs.turns)
        rates.append(rate)
        shares.append(share)
        limits.append(bare.rate())
    shutil.rmtree(store)
    note = f"{name}; {count // inputs.turns} views of {inputs.named}, shifted by some pixels and mirrored"
    yield Row(RATE, tuple(rates), (), "images/s", 2500, note=note)
    yield Row(BARE, tuple(rates), tuple(limits), "images/s", None, note=note)
    yield Row(BUSY, tuple(shares), (), "", 0.9, note=note)


def _turn(inputs: Inputs, store: Path, views: int) -> tuple[float, float]:
    """Images a second, and the share of that time in which the GPU computed."""
    options = ("--gpus-per-actor", 1, "--precision", "float16", "--batch-size", BATCH, "--views", "identity,hflip")
    with Busy() as busy:
        done = extract(inputs, store, *options, "--limit", views)
    times, counts = batch_times(store)
    mine = times >= done.began
    times, counts = times[mine], counts[mine]
    return slope(times, counts, 1), busy.share(times[len(times) // 5], times[-1])


class BareOnGpu(Bare):
    """As many calls at a time as an actor on a GPU makes."""

    def __init__(self, inputs: Inputs, faces: Path, *, seconds: float) -> None:
        super().__init__(inputs, faces, seconds=seconds, precision="float16", gpus=1, batch=BATCH)
        self._calls = NetworkCalls(self.network, calls_at_once(1, 1.0))

    def timed(self) -> int:
        """Run for its seconds; images done."""
        done, began = 0, time.perf_counter()
        waiting: deque[tuple[int, Any]] = deque()
        for batch in cycle(self.batches):
            waiting.append((len(batch), self._calls.submit(batch)))
            if len(waiting) == self._calls.depth:
                count, call = waiting.popleft()
                call.result()
                done += count
                if time.perf_counter() - began > self._seconds:
                    break
        for count, call in waiting:
            call.result()
            done += count
        return done


def _shifted(faces: Path, target: Path, copies: int) -> Path:
    """The faces, and each shifted to the right by up to ``copies`` pixels: as many images that differ."""
    if target.is_dir():
        return target
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for file in pictures(faces):
        place = partial / file.relative_to(faces)
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as picture:
            for shift in range(copies + 1):
                ImageChops.offset(picture, shift, 0).save(place.with_stem(f"{file.stem}-{shift}"))
    for part in PARTS:
        if (faces / part / "label.csv").is_file():
            lines = list(csv.reader((faces / part / "label.csv").open(encoding="utf-8", newline="")))
            named = [
                [f"{Path(name).stem}-{shift}{Path(name).suffix}", *rest]
                for name, *rest in lines
                for shift in range(copies + 1)
            ]
            with (partial / part / "label.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows(named)
    partial.rename(target)
    return target


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
