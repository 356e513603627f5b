"""Small trainings without a store or a cluster: features in Parquet, a head, and a link that keeps checkpoints here."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ferstore.store.schema import declared_schemas
from ferstore.store.writer import feature_column
from ferstore.train.conv4 import CONV4
from ferstore.train.data import TrainingData
from ferstore.train.features import LayerRows
from ferstore.train.job import HeadSpec, Job, Measured
from ferstore.train.order import Take
from ferstore.train.reader import Batch
from ferstore.train.recipe import PAPER, Recipe
from ferstore.train.state import State
from ferstore.train.trainer import Trainer, configure

configure(gpus=0)  # once a process, before TensorFlow runs anything; the number of threads is left as it is

Floats = npt.NDArray[np.float32]
CLASSES = ("angry", "happy", "sad")
VECTOR = 16
MAP = (8, 8, 6)


def faces(labels: Sequence[int], shape: tuple[int, ...], *, seed: int = 0, noise: float = 0.5) -> Floats:
    """Features that tell the classes apart, with noise: float32 (labels, *shape)."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(len(CLASSES), shape[-1]))
    wide = means[np.asarray(labels)].reshape(len(labels), *[1] * (len(shape) - 1), shape[-1])
    return np.asarray(wide + noise * random.normal(size=(len(labels), *shape)), np.float32)


def stored(folder: Path, layer: str, values: Floats, *, row_group: int = 4) -> LayerRows:
    """A layer of any shape in one Parquet file, as its table stores it."""
    schema = declared_schemas()[layer]
    if schema.feature:
        schema = replace(schema, feature=replace(schema.feature, shape=values.shape[1:]))
        column = feature_column(schema, values)
    else:
        offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        column = pa.ListArray.from_arrays(offsets, values.ravel())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{layer}.parquet"
    pq.write_table(pa.table({layer: column}), path, row_group_size=row_group)
    rows = np.arange(len(values))
    places = np.stack([0 * rows, rows // row_group, rows % row_group], axis=1).astype(np.int32)
    return LayerRows(schema, values.shape[1:], (f"file://{path}",), places, (-(-len(values) // row_group),))


def training_data(
    folder: Path,
    layers: Mapping[str, Floats],
    labels: Sequence[int],
    parts: Sequence[str],
    *,
    views: tuple[str, ...] = ("identity",),
    images: Sequence[str] | None = None,
) -> TrainingData:
    """A fold of which everything is given; layers have all items under the first view, then under the next."""
    count = len(labels)
    eye = np.eye(len(CLASSES), dtype=np.float32)
    return TrainingData(
        classes=CLASSES,
        item_ids=tuple(f"{number:03}" for number in range(count)),
        image_ids=tuple(images if images is not None else [f"image-{number:03}" for number in range(count)]),
        parts=np.asarray(parts, np.str_),
        labels=np.asarray(labels, np.int64),
        soft_labels=0.8 * eye[np.asarray(labels)] + np.float32(0.2 / len(CLASSES)),
        views=views,
        layers=tuple(stored(folder, name, values) for name, values in layers.items()),
        extractor_id="extractor",
    )


def job_of(folder: Path, data: TrainingData, experiment: Any, recipe: Recipe, **other: Any) -> Job:
    """A job that keeps a checkpoint after every update."""
    spec = HeadSpec(experiment, data.shapes, len(data.classes), other.pop("width", 4), recipe, other.pop("seed", 0))
    options = {"moments": {}, "checkpoint_seconds": 0.0, "checkpoint_share": math.inf, **other}
    return Job(run_id="run", data=data, spec=spec, folder=f"file://{folder / 'run'}", **options)


def saving_conv4(job: Job, folder: Path) -> Job:
    """The same job, which hands in conv4 too."""
    return replace(job, conv4_schema=declared_schemas()[CONV4], conv4_folder=f"file://{folder / 'conv4'}")


class Killed(BaseException):
    """In the place of a process that is killed."""


class MemoryLink:
    """Keeps the newest checkpoint and what was told.

    Args:
        die_at: update after which it raises `Killed`, before that update's checkpoint.
        kept: a checkpoint to begin from.
    """

    def __init__(self, die_at: int | None = None, kept: tuple[State, dict[str, Any]] | None = None) -> None:
        self.told: list[Measured] = []
        self.saves = 0
        self.kept = kept
        self._die_at = die_at

    def tell(self, point: Measured, total: int) -> None:
        self.told.append(point)
        if point.part == "train" and point.step == self._die_at:
            raise Killed

    def updated(self, examples: int, waited: float, stepped: float) -> None:
        """Nobody watches."""

    def save(self, arrays: State, rest: dict[str, Any]) -> None:
        self.saves += 1
        self.kept = copy.deepcopy((arrays, rest))

    def restore(self) -> tuple[State, dict[str, Any]] | None:
        return copy.deepcopy(self.kept)


def batch_of(features: Mapping[str, Floats], *, first: int = 0, whole: int | None = None) -> Batch:
    """Examples of a batch from place ``first`` on; items and places are numbered alike."""
    count = len(next(iter(features.values())))
    places = np.arange(first, first + count)
    return Batch(Take(places, places, whole or count), dict(features))


def trainer_of(
    recipe: Recipe = PAPER,
    *,
    experiment: Any = "deepest",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    labels: Sequence[int] = (0, 1, 2, 0, 1, 2, 0, 1),
    total: int = 20,
    weights: Sequence[float] = (1, 1, 1),
    kind: type[Trainer] = Trainer,
    **spec: Any,
) -> Trainer:
    """A trainer of a narrow head on hard targets."""
    found = HeadSpec(experiment, shapes or {"pool_3": (VECTOR,)}, len(CLASSES), spec.pop("width", 4), recipe, **spec)
    return kind(
        found,
        targets=np.eye(len(CLASSES), dtype=np.float32)[np.asarray(labels)],
        labels=np.asarray(labels, np.int64),
        weights=np.asarray(weights, np.float32),
        total_steps=total,
    )


def assert_same(one: State, other: State) -> None:
    """The same names, and under each the same bits."""
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name, strict=True)
