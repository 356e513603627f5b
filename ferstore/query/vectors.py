"""Vectors of a layer as arrays, kept in memory between two questions while they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.manifest import DataFile

from ferstore.query.limits import GIB, machine_memory
from ferstore.store.pin import Pin
from ferstore.store.rows import read_file, read_rows
from ferstore.store.store import Store
from ferstore.store.writer import feature_values

_BLOCKS = 8  # pieces that later commits add, before all are read into one again
_ITEM_COLUMNS = ["image_id", "dataset", "item_id", "label"]


class Rows:
    """Where the rows of an image are, without a look through all ids.

    Args:
        ids: images, string.
    """

    def __init__(self, ids: pa.ChunkedArray) -> None:
        self._ids = ids

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]]:
        """Ids in order, and the row of each; not made for who never asks."""
        keys = np.asarray(self._ids.to_numpy(), np.bytes_)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def of(self, image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of these images, ascending, int64."""
        keys, order = self._sorted
        wanted = np.unique(np.asarray(image_ids, np.bytes_))
        first, last = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
        found = [order[begin:end] for begin, end in zip(first, last, strict=True)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))


@dataclass(frozen=True, slots=True)
class Block:
    """Vectors of some data files, of the view identity.

    Attributes:
        files: their URLs.
        ids: images, string.
        rows: where each of them is.
        extractors: what made each vector, string.
        made: when, microseconds since 1970.
        norms: float32, as stored.
        values: float32 (rows, channels).
    """

    files: frozenset[str]
    ids: pa.ChunkedArray
    rows: Rows
    extractors: pa.ChunkedArray
    made: npt.NDArray[np.int64]
    norms: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]


class Vectors:
    """Reads vectors, and keeps those of the layer that was asked for last.

    Data files never change, so what was read of one holds for as long as a state names it; of one that is no longer
    named, such as by an erasure, nothing is kept at the next question.

    Args:
        store: the store.
        most: bytes to keep; layers that are larger are read again each time, a file at a time. An eighth of the memory
            and at most 2 GiB unless given.
    """

    def __init__(self, store: Store, most: int | None = None) -> None:
        self._store = store
        self._most = min(machine_memory() // 8, 2 * GIB) if most is None else most
        self._kept: dict[str, list[Block]] = {}
        self._files: dict[str, tuple[int | None, list[DataFile]]] = {}
        self._items: tuple[int | None, pa.Table, Rows] | None = None

    def fit(self, pin: Pin, layer: str) -> bool:
        """Whether all vectors of a layer are kept once they are read."""
        feature = self._store.schemas[layer].feature
        assert feature is not None  # noqa: S101  only feature tables are asked for
        return sum(data_file.record_count for data_file in self._data_files(pin, layer)) * feature.nbytes <= self._most

    def blocks(self, pin: Pin, layer: str) -> Iterator[Block]:
        """All vectors of a layer in a state.

        Raises:
            CorruptionError: a data file is missing or damaged.
        """
        files = self._data_files(pin, layer)
        if not self.fit(pin, layer):
            for data_file in files:
                yield self._read(layer, [data_file])
            return
        live = {data_file.file_path for data_file in files}
        kept = [block for block in self._kept.get(layer, ()) if block.files <= live]
        if len(kept) > _BLOCKS:
            kept = []
        there = {url for block in kept for url in block.files}
        if missing := [data_file for data_file in files if data_file.file_path not in there]:
            kept.append(self._read(layer, missing))
        self._kept = {layer: kept}
        yield from kept

    def items(self, pin: Pin, image_ids: Sequence[str]) -> pa.Table:
        """Rows of ``images`` (image_id, dataset, item_id, label) of these images."""
        snapshot = pin.snapshots["images"]
        if self._items is None or self._items[0] != snapshot:
            rows = sum(data_file.record_count for data_file in self._data_files(pin, "images"))
            if rows * 256 > self._most // 4:  # bytes of a row, roughly
                return read_rows(
                    self._store,
                    pin,
                    "images",
                    _ITEM_COLUMNS,
                    pc.field("image_id").isin(pa.array(image_ids, pa.string())),
                )
            items = read_rows(self._store, pin, "images", _ITEM_COLUMNS).combine_chunks()
            self._items = snapshot, items, Rows(items["image_id"])
        _, items, rows_of = self._items
        return items.take(pa.array(rows_of.of(image_ids)))

    def _data_files(self, pin: Pin, table: str) -> list[DataFile]:
        snapshot = pin.snapshots[table]
        known = self._files.get(table)
        if known is None or known[0] != snapshot:
            known = self._files[table] = snapshot, pin.data_files(table)
        return known[1]

    def _read(self, layer: str, files: Sequence[DataFile]) -> Block:
        schema = self._store.schemas[layer]
        assert schema.feature is not None  # noqa: S101  only feature tables are asked for
        values = np.empty((sum(data_file.record_count for data_file in files), *schema.feature.shape), np.float32)
        columns = ["image_id", "extractor_id", "extracted_at", "norm"]
        parts = []
        at = 0
        for data_file in files:
            rows = read_file(data_file.file_path, [*columns, layer], pc.field("view") == "identity")
            for chunk in rows[layer].chunks:
                values[at : at + len(chunk)] = feature_values(schema, chunk)
                at += len(chunk)
            parts.append(rows.select(columns))
        rows = pa.concat_tables(parts).combine_chunks()  # a piece a file makes every look at it slow
        return Block(
            frozenset(data_file.file_path for data_file in files),
            rows["image_id"],
            Rows(rows["image_id"]),
            rows["extractor_id"],
            np.asarray(rows["extracted_at"].cast(pa.int64())),
            np.asarray(rows["norm"]),
            values[:at],
        )
