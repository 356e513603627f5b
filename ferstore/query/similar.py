"""Nearest images by the cosine of a pooled feature: an exact scan of all vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.query.vectors import Vectors
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store
from ferstore.store.writer import feature_values

_TINY = 1e-30  # a feature of zeros is near nothing, instead of a division by zero


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An image near another.

    Attributes:
        image_id: its content.
        similarity: cosine, -1 to 1.
        dataset: of its first item.
        item_id: its first item.
        label: that item's class, or None.
    """

    image_id: str
    similarity: float
    dataset: str | None
    item_id: str | None
    label: str | None


def is_image_id(text: str) -> bool:
    """Whether it is the SHA-256 of an image, as a store names it."""
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def stored_vector(
    store: Store,
    pin: Pin,
    image_id: str,
    layer: str,
    extractor_id: str | None,
    *,
    vectors: Vectors | None = None,
) -> tuple[npt.NDArray[np.float32], str]:
    """An image's own feature and the extractor that made it (the newest, unless one is named).

    Args:
        store: the store.
        pin: the state to look at.
        image_id: of the image.
        layer: a table of vectors.
        extractor_id: what made it; None is the newest.
        vectors: what is in memory, where it is looked up.

    Raises:
        InputError: no vector layer, or no such image in it.
    """
    schema = store.schemas.get(layer)
    if schema is None or schema.feature is None or not schema.feature.pool:
        pooled = sorted(name for name, s in store.schemas.items() if s.feature and s.feature.pool)
        raise InputError(f"layer {layer!r} holds no vectors", allowed=", ".join(pooled))
    found = (
        _kept_vector(vectors, pin, image_id, layer, extractor_id)
        if vectors is not None and vectors.fit(pin, layer)
        else _read_vector(store, pin, image_id, layer, extractor_id)
    )
    if found is None:
        raise InputError(
            f"image {image_id!r} has no {layer} in this store",
            allowed="an image_id of that table, or an image file",
            hint=f'find one: ferstore sql "from {layer} select image_id limit 1"',
        )
    return found


def _kept_vector(
    vectors: Vectors, pin: Pin, image_id: str, layer: str, extractor_id: str | None
) -> tuple[npt.NDArray[np.float32], str] | None:
    found: list[tuple[int, str, npt.NDArray[np.float32]]] = []
    for block in vectors.blocks(pin, layer):
        for row in block.rows.of([image_id]):
            found.append((int(block.made[row]), block.extractors[int(row)].as_py(), block.values[row]))
    named = [one for one in found if extractor_id in (None, one[1])]
    newest = max(named, key=lambda one: one[0], default=None)
    return (newest[2].copy(), newest[1]) if newest else None


def _read_vector(
    store: Store, pin: Pin, image_id: str, layer: str, extractor_id: str | None
) -> tuple[npt.NDArray[np.float32], str] | None:
    where = (pc.field("image_id") == image_id) & (pc.field("view") == "identity")
    if extractor_id:
        where &= pc.field("extractor_id") == extractor_id
    rows = read_rows(store, pin, layer, ["extractor_id", layer, "extracted_at"], where).sort_by(
        [("extracted_at", "descending")]
    )
    if not len(rows):
        return None
    vector = feature_values(store.schemas[layer], rows[layer].combine_chunks().slice(0, 1))[0]
    return np.asarray(vector, np.float32), str(rows["extractor_id"][0].as_py())


def nearest(
    store: Store,
    pin: Pin,
    vector: npt.NDArray[np.float32],
    *,
    layer: str,
    extractor_id: str,
    k: int,
    without: str | None = None,
    vectors: Vectors | None = None,
) -> list[Neighbour]:
    """The ``k`` images whose feature has the largest cosine with ``vector``, nearest first.

    Args:
        store: the store.
        pin: the state to search.
        vector: float32 (channels,).
        layer: a table of vectors.
        extractor_id: only its features are compared; another's mean something else.
        k: how many, at least 1.
        without: an image to leave out: the one asked about.
        vectors: keeps them in memory for the next question; without it, they are read a file at a time.

    Raises:
        InputError: ``k`` is less than 1, or ``vector`` is not finite.
    """
    if k < 1:
        raise InputError(f"k = {k}", allowed="1 and more")
    if not np.isfinite(vector).all():
        raise InputError("the feature to compare with is not finite", hint="see: ferstore sql 'from feature_health'")
    vectors = vectors or Vectors(store, most=0)
    ids: list[str] = []
    scores: list[float] = []
    query = vector / max(float(np.linalg.norm(vector)), _TINY)
    for block in vectors.blocks(pin, layer):
        # What is not finite has no cosine, and would leave the others in no order.
        fine = np.isfinite(block.norms) & np.asarray(pc.equal(block.extractors, extractor_id))
        rows = np.flatnonzero(fine)
        if not len(rows):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            cosine = (block.values @ query)[rows] / np.maximum(block.norms[rows], _TINY)
        cosine = np.clip(cosine, -1, 1)  # rounding can lead beyond
        least = -np.partition(-cosine, min(k, len(cosine) - 1))[min(k, len(cosine) - 1)]
        best = np.flatnonzero(cosine >= least)  # all that tie with the last: the order of ids decides among them
        ids += block.ids.take(pa.array(rows[best])).to_pylist()
        scores += cosine[best].tolist()
    order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
    top = [(ids[i], scores[i]) for i in order if ids[i] != without][:k]
    named = _first_items(vectors, pin, [image_id for image_id, _ in top])
    return [Neighbour(image_id, score, *named.get(image_id, (None, None, None))) for image_id, score in top]


def _first_items(vectors: Vectors, pin: Pin, image_ids: list[str]) -> dict[str, tuple[str, str, str | None]]:
    rows = vectors.items(pin, image_ids).sort_by([("dataset", "descending"), ("item_id", "descending")])
    return {row["image_id"]: (row["dataset"], row["item_id"], row["label"]) for row in rows.to_pylist()}
