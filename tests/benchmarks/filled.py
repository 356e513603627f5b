"""Stores that benchmarks read, made by ferstore's commands and shared within a run; and what is in them."""

from __future__ import annotations

import json
import shutil
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import ferstore
from tests.benchmarks.commands import Done
from tests.benchmarks.commands import ferstore as command
from tests.benchmarks.inputs import Inputs, kind_of
from tests.benchmarks.row import Row

DATASET = "faces"
EACH = "each"
"""Stores of the benchmark `extraction` with an actor on each core."""
_KEPT = "extract.json"


def new_store(inputs: Inputs, faces: Path, name: str) -> Path:
    """A store of that name with the faces ingested and no feature."""
    store = inputs.folder / name
    shutil.rmtree(store, ignore_errors=True)  # an earlier run's, in a folder that was kept
    command(store, "init")
    command(store, "ingest", kind_of(faces), faces, "--name", DATASET)
    return store


def extract(inputs: Inputs, store: Path, *options: str | int) -> Done:
    """``ferstore extract`` with the weights of these benchmarks."""
    return command(store, "extract", "--weights", inputs.weights, *options)


def full_store(inputs: Inputs) -> Path:
    """A store with pool_3 and mixed_10 of some faces (float32) and a training set ``parts`` of them."""
    store = inputs.folder / "features"
    if not (store / "ready").exists():
        faces = inputs.some_faces(inputs.of(quick=128, normal=800, full=3600))
        if not (store / "ferstore.json").exists():
            new_store(inputs, faces, "features")
        keep(store, extract(inputs, store))
        _split(store, inputs)
        (store / "ready").touch()
    return store


def keep(store: Path, done: Done) -> None:
    """Keep in a store what its extraction took, for a benchmark that looks at it later."""
    peaks = {title: done.peak(title) for title in ("driver", "_Host")}
    about = {"images": done.json["computed"], "actors": done.json["actors"], "seconds": done.seconds, **peaks}
    (store / _KEPT).write_text(json.dumps(about), "utf-8")


def kept(store: Path) -> dict[str, Any]:
    """Images, actors, seconds, and peak bytes of the ``driver`` and of an actor (``_Host``)."""
    found: dict[str, Any] = json.loads((store / _KEPT).read_text("utf-8"))
    return found


def small_stores(inputs: Inputs, images: int, actors: int) -> list[Path]:
    """Stores of at most so many images: those that the benchmark `extraction` left, else one that is made here."""
    found = [path.parent for path in sorted(inputs.folder.glob(f"{EACH}-*/{_KEPT}"))]
    found = [store for store in found if kept(store)["images"] <= images and kept(store)["actors"] == actors]
    if not found:
        found = [new_store(inputs, inputs.some_faces(images), "small")]
        keep(found[0], extract(inputs, found[0], "--actors", actors))
    return found


def whole_command(images: int, seconds: tuple[float, ...], note: str) -> Row:
    """What an extraction took from start to end: a row of how that grows."""
    told = f"{1000 * statistics.median(seconds) / images:.0f} ms an image, start-up included; {note}"
    return Row(f"extract, whole command, {images} images", seconds, (), "s", None, note=told)


def _split(store: Path, inputs: Inputs) -> None:
    """By the first way that leaves an example of every class to train on: a sample may have none of a rare one."""
    protocols = ("official", "random") if inputs.kind == "ferplus" else ("random",)
    problem: Exception | None = None
    for protocol in protocols:
        for labels in ("majority", "soft"):
            try:
                command(store, "split", "parts", "--dataset", DATASET, "--protocol", protocol, "--labels", labels)
            except RuntimeError as error:
                problem = error
            else:
                return
    assert problem is not None
    raise problem


def batch_times(store: Path) -> tuple[np.ndarray, np.ndarray]:
    """When each batch had been computed, in UTC seconds, and how many rows it had; in that order."""
    rows = ferstore.open(str(store)).sql("select extracted_at, count(*) from pool_3 group by 1 order by 1").rows()
    times = [moment.replace(tzinfo=moment.tzinfo or UTC) for moment, _ in rows]
    return np.array([datetime.timestamp(moment) for moment in times]), np.array([count for _, count in rows])


def steady_rate(store: Path, actors: int) -> float:
    """Rows a second while all actors are at work, by the times that are stored beside every feature.

    Without the first fifth of the batches, in which actors start, and the last of each actor: the slope of the line of
    least squares through rows done over time.
    """
    return slope(*batch_times(store), actors)


def slope(times: np.ndarray, counts: np.ndarray, actors: int) -> float:
    """As `steady_rate`, of what `batch_times` gives or a part of it."""
    first, last = max(actors, len(times) // 5), len(times) - (actors - 1)
    if last - first < 4:  # two batches that end together would make any rate
        first, last = 0, len(times)
    done = np.cumsum(counts)[first:last].astype(float)
    found, _ = np.polyfit(times[first:last] - times[first], done, 1)
    return float(found)
