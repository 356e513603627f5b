"""What a training reads, without TensorFlow: layers in small Parquet files, folds as lists, rows of past trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ferstore.store.pin import Pin
from ferstore.store.schema import declared_schemas
from ferstore.store.writer import feature_column
from ferstore.train.data import TrainingData
from ferstore.train.features import LayerRows
from ferstore.train.request import TrainRequest

Floats = npt.NDArray[np.float32]


def layer_of(
    folder: Path,
    layer: str,
    values: Floats,
    *,
    group: int = 4,
    file: int = 10,
    order: Sequence[int] | None = None,
    dtype: str | None = None,
) -> LayerRows:
    """Values of any shape in Parquet files as the layer's table stores them.

    Args:
        folder: where to.
        layer: a feature table.
        values: of each example.
        group: rows of a row group.
        file: rows of a file.
        order: example in each row; in turn unless given.
        dtype: of maps, where the schema says another than the declared one.
    """
    schema = declared_schemas()[layer]
    assert schema.feature is not None
    schema = replace(
        schema, feature=replace(schema.feature, shape=values.shape[1:], dtype=dtype or schema.feature.dtype)
    )
    rows = np.arange(len(values)) if order is None else np.asarray(order)
    folder.mkdir(parents=True, exist_ok=True)
    urls, groups = [], []
    places = np.empty((len(values), 3), np.int32)
    for start in range(0, len(rows), file):
        mine = rows[start : start + file]
        path = folder / f"{layer}-{len(urls):03}.parquet"
        pq.write_table(pa.table({layer: feature_column(schema, values[mine])}), path, row_group_size=group)
        at = np.arange(len(mine))
        places[mine] = np.stack([np.full(len(mine), len(urls)), at // group, at % group], axis=1)
        urls.append(f"file://{path}")
        groups.append(-(-len(mine) // group))
    return LayerRows(schema, values.shape[1:], tuple(urls), places, tuple(groups))


def data_of(
    layers: Sequence[LayerRows],
    parts: Sequence[str],
    *,
    labels: Sequence[int] | None = None,
    classes: tuple[str, ...] = ("a", "b"),
    views: tuple[str, ...] = ("identity",),
) -> TrainingData:
    """A fold with features of every item under every view; labels take turns unless they are given."""
    count = len(parts)
    named = np.asarray([number % len(classes) for number in range(count)] if labels is None else labels, np.int64)
    soft = np.full((count, len(classes)), 0.1, np.float32)
    soft[np.arange(count), named] = 1 - 0.1 * (len(classes) - 1)
    return TrainingData(
        classes=classes,
        item_ids=tuple(f"{number:03}.png" for number in range(count)),
        image_ids=tuple(f"image-{number:03}" for number in range(count)),
        parts=np.asarray(parts, np.str_),
        labels=named,
        soft_labels=soft,
        views=views,
        layers=tuple(layers),
        extractor_id="extractor",
    )


@dataclass
class Fold:
    """In the place of a `TrainingSet`: one fold that is given, item by item."""

    images: Sequence[str]
    parts: Sequence[str]
    labels: Sequence[str]
    soft: Sequence[Sequence[float]] | None = None
    classes: tuple[str, ...] = ("a", "b")
    name: str = "parts"
    dataset: str = "set"
    pin: Pin | None = None

    def items(self, fold: int = 0) -> pa.Table:
        """As `TrainingSet.items`."""
        eye = np.eye(len(self.classes))
        soft = self.soft or [eye[self.classes.index(label)].tolist() for label in self.labels]
        return pa.table(
            {
                "item_id": [f"{number:03}.png" for number in range(len(self.images))],
                "image_id": list(self.images),
                "part": list(self.parts),
                "label": list(self.labels),
                "soft_label": pa.array(soft, pa.list_(pa.float32())),
            }
        )


def training_row(run_id: str, request: TrainRequest, *, minute: int = 0, **other: Any) -> Mapping[str, Any]:
    """A row of ``runs`` of a training that was asked for like this, and done unless told."""
    details = other.pop("details", {})
    return {
        "run_id": run_id,
        "command": "train",
        "state": "done",
        "dataset": "set",
        "extractor_id": "extractor",
        "arguments": json.dumps(request.arguments(), sort_keys=True),
        "details": json.dumps(details) if details is not None else None,
        "host": "elsewhere",
        "pid": 1,
        "started_at": datetime(2026, 11, 24, tzinfo=UTC) + timedelta(minutes=minute),
        **other,
    }
