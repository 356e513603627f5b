"""A training set with the features of its items: all that a training reads, checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store
from ferstore.train.conv4 import CONV4
from ferstore.train.features import LayerRows, choose_extractor, locate, missing_features
from ferstore.train.order import Indices
from ferstore.train.training_set import TrainingSet

EVALUATED = ("validation", "test")
ASIDE = "aside"
"""Part of an item of the data set that the training set leaves out: never trained on nor scored, but conv4 is saved."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Items of one fold and where their features lie.

    An *example* is an item under a view; examples are numbered ``view * items + item``.

    Attributes:
        classes: names.
        item_ids: of each item.
        image_ids: of each item.
        parts: part of each item, as text; or `ASIDE`.
        labels: class of each item; 0 of those aside.
        soft_labels: float32 (items, classes).
        views: views of each item.
        layers: features of all examples.
        extractor_id: what computed them; None where only conv4 is read.
    """

    classes: tuple[str, ...]
    item_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    parts: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    soft_labels: npt.NDArray[np.float32]
    views: tuple[str, ...]
    layers: tuple[LayerRows, ...]
    extractor_id: str | None

    @property
    def items(self) -> int:
        """How many there are."""
        return len(self.item_ids)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one value of each layer."""
        return {layer.schema.name: layer.shape for layer in self.layers}

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Train items of each class."""
        return np.bincount(self.labels[self.parts == "train"], minlength=len(self.classes))

    def examples(self, part: str | None = None) -> Indices:
        """Examples of a part, or all, in reading order: as maps lie in their files; without maps by item."""
        items = np.flatnonzero(self.parts == part) if part else np.arange(self.items)
        chosen = (items[:, None] + np.arange(len(self.views))[None, :] * self.items).ravel()
        for layer in self.layers:
            if layer.is_map:
                places = layer.places[chosen]
                return np.asarray(chosen[np.lexsort((places[:, 2], places[:, 1], places[:, 0]))], np.int64)
        return np.asarray(chosen, np.int64)

    def groups(self, examples: Indices) -> Indices:
        """Row group of each example's map, from 0 in reading order; one for all without maps."""
        for layer in self.layers:
            if layer.is_map:
                return np.asarray(np.unique(layer.groups[examples], return_inverse=True)[1], np.int64)
        return np.zeros(len(examples), np.int64)

    def targets(self, kind: str) -> npt.NDArray[np.float32]:
        """float32 (items, classes): one-hot labels (``hard``) or the training set's soft labels."""
        return self.soft_labels if kind == "soft" else np.eye(len(self.classes), dtype=np.float32)[self.labels]


def load_training_data(
    store: Store,
    pin: Pin,
    training_set: TrainingSet,
    *,
    fold: int,
    layers: Sequence[str],
    views: Sequence[str],
    extractor: str | None = None,
    conv4_run: str | None = None,
    aside: bool = False,
) -> TrainingData:
    """Find all that a training reads.

    Args:
        store: the store.
        pin: state whose features are read; the items are those of the training set's own.
        training_set: the items.
        fold: of it.
        layers: feature tables; ``conv4`` too.
        views: of each item.
        extractor: id; None takes the newest that has all.
        conv4_run: run whose conv4 is read.
        aside: with the data set's other items too, as far as they have all features.

    Raises:
        InputError: a class without an example in train, no train or no test items, or features that are missing.
    """
    items = training_set.items(fold).select(["item_id", "image_id", "part", "label", "soft_label"])
    _check_parts(training_set, fold, items)
    images = sorted(set(items["image_id"].to_pylist()))
    chosen = choose_extractor(store, pin, [name for name in layers if name != CONV4], images, views, extractor)
    if aside and chosen:
        items = pa.concat_tables([items, _others(store, pin, training_set, items, layers, chosen, views)])
    images = items["image_id"].to_pylist()
    made_by: Mapping[str, str | None] = {name: conv4_run if name == CONV4 else chosen for name in layers}
    found = []
    for name in layers:
        maker = made_by[name]
        if maker is None:
            rows = pa.table({"image_id": images * len(views), "view": [view for view in views for _ in images]})
            raise missing_features(name, None, rows)
        found.append(locate(store, pin, name, images, views, maker=maker))
    width = len(training_set.classes)
    soft = np.asarray(items["soft_label"].combine_chunks().flatten(), np.float32).reshape(-1, width)
    parts = np.asarray(items["part"].to_pylist(), np.str_)
    return TrainingData(
        classes=training_set.classes,
        item_ids=tuple(items["item_id"].to_pylist()),
        image_ids=tuple(images),
        parts=parts,
        labels=np.asarray([training_set.classes.index(label) for label in items["label"].to_pylist()], np.int64),
        soft_labels=soft,
        views=tuple(views),
        layers=tuple(found),
        extractor_id=chosen,
    )


def _others(
    store: Store,
    pin: Pin,
    training_set: TrainingSet,
    items: pa.Table,
    layers: Sequence[str],
    extractor: str,
    views: Sequence[str],
) -> pa.Table:
    """Items of the data set, as it was frozen, that the training set leaves out and that have all features."""
    mine = pc.field("dataset") == training_set.dataset
    others = read_rows(store, training_set.pin, "images", ["item_id", "image_id"], mine)
    others = others.join(items.select(["item_id"]), "item_id", join_type="left anti")
    for layer in layers:
        made = (pc.field("extractor_id") == extractor) & pc.is_in(pc.field("view"), pa.array(views, pa.string()))
        keys = read_rows(store, pin, layer, ["image_id", "view"], made)
        seen = keys.group_by("image_id").aggregate([([], "count_all")])
        whole = seen.filter(pc.field("count_all") == len(views))
        others = others.join(whole.select(["image_id"]), "image_id", join_type="left semi")
    others = others.sort_by("item_id")
    count, classes = len(others), training_set.classes
    columns = {
        "item_id": others["item_id"],
        "image_id": others["image_id"],
        "part": [ASIDE] * count,
        "label": [classes[0]] * count,
        "soft_label": [[0.0] * len(classes)] * count,
    }
    return pa.table(columns, schema=items.schema)


def _check_parts(training_set: TrainingSet, fold: int, items: pa.Table) -> None:
    where = f"fold {fold} of training set {training_set.name!r}"
    parts, labels = items["part"].to_pylist(), items["label"].to_pylist()
    for part in ("train", "test"):
        if part not in parts:
            raise InputError(f"{where} has no {part} items", hint="make another one: ferstore split")
    trained = {label for part, label in zip(parts, labels, strict=True) if part == "train"}
    if empty := [name for name in training_set.classes if name not in trained]:
        raise InputError(
            f"{where} has no train item of class {', '.join(empty)}",
            hint="make another one, with other folds or another protocol: ferstore split",
        )
