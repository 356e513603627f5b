"""Stores as large as asked for: conforming files written through the store's own writer, without a picture.

Digests are random, features are zeros unless drawn: what planning, committing and querying cost is the same.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _prepare
from ferstore.extract.worker import feature_column
from ferstore.store.commit import Change, transact
from ferstore.store.files import StoredFile, write_data_file
from ferstore.store.rows import read_rows, replace_rows, write_rows
from ferstore.store.store import Store
from ferstore.store.writer import encode

SUMMARY = {"command": "benchmark", "run-id": "benchmark", "counts": "{}", "version": "0"}
LABELS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")


def digests(count: int, chance: np.random.Generator) -> pa.Array:
    """So many random SHA-256 in hex."""
    text = binascii.hexlify(chance.bytes(32 * count))
    offsets = np.arange(0, 64 * count + 1, 64, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


def _numbered(before: str, numbers: npt.NDArray[np.int64], after: str) -> pa.Array:
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(before, text, after, "")


def image_rows(store: Store, first: int, count: int, dataset: str, chance: np.random.Generator) -> pa.Table:
    """Rows of ``images`` as an ingest of a folder would leave them, a thousand to a subfolder."""
    numbers = np.arange(first, first + count)
    items = pc.binary_join_element_wise(_numbered("part", numbers // 1000, "/"), _numbered("face", numbers, ".png"), "")
    schema = store.schemas["images"].arrow()
    given = {
        "dataset": pa.array([dataset]).take(pa.array(np.zeros(count, np.int8))),
        "item_id": items,
        "image_id": digests(count, chance),
        "source_url": pc.binary_join_element_wise(f"s3://faces/{dataset}/", items, ""),
        "label": pa.array(LABELS).take(pa.array(numbers % len(LABELS))),
        "width": pa.array(np.full(count, 48, np.int32)),
        "height": pa.array(np.full(count, 48, np.int32)),
        "mode": pa.array(["L"]).take(pa.array(np.zeros(count, np.int8))),
        "ingested_at": pa.array(np.full(count, datetime.now(UTC).replace(tzinfo=None), "datetime64[us]")).cast(
            pa.timestamp("us", tz="UTC")
        ),
    }
    return pa.table([given.get(name, pa.nulls(count, schema.field(name).type)) for name in schema.names], schema=schema)


def add_images(store: Store, count: int, dataset: str = "big", *, seed: int = 0, piece: int = 500_000) -> None:
    """Register so many images, a commit for each ``piece`` of them."""
    chance = np.random.default_rng(seed)
    for first in range(0, count, piece):
        rows = image_rows(store, first, min(piece, count - first), dataset, chance)
        change = Change("images", write_rows(store, "images", rows))
        transact(store, lambda _, change=change: [change], SUMMARY)  # type: ignore[misc]


def image_ids(store: Store) -> pa.ChunkedArray:
    """Every registered digest, in the order of the files."""
    return read_rows(store, store.pin(), "images", ["image_id"])["image_id"]


def feature_files(
    store: Store, layer: str, ids: pa.ChunkedArray, rows_a_file: int, extractor_id: str, *, seed: int | None = None
) -> Iterator[StoredFile]:
    """Files of features of these images, as shards leave them.

    Args:
        store: where to.
        layer: a table of vectors or maps.
        ids: of the images.
        rows_a_file: images of a shard.
        extractor_id: of all rows.
        seed: draws values; None is zeros.
    """
    schema = store.schemas[layer]
    assert schema.feature is not None
    chance = np.random.default_rng(seed) if seed is not None else None
    values = np.zeros((rows_a_file, *schema.feature.shape), np.float32)
    column = feature_column(schema, values)
    for first in range(0, len(ids), rows_a_file):
        mine = ids.slice(first, rows_a_file).combine_chunks()
        count = len(mine)
        norm = np.zeros(count, np.float32)
        if chance is not None:
            values = chance.standard_exponential((count, *schema.feature.shape), np.float32)
            column = feature_column(schema, values)
            norm = np.sqrt(np.square(values.reshape(count, -1)).sum(axis=1))
        zeros = pa.array(np.zeros(count, np.float32))
        given = {
            "image_id": mine,
            "extractor_id": pa.array([extractor_id] * count),
            "view": pa.array(["identity"] * count),
            layer: column.slice(0, count),
            "mean": zeros,
            "maximum": zeros,
            "zeros": zeros,
            "norm": pa.array(norm),
            "extracted_at": pa.array([datetime.now(UTC)] * count, pa.timestamp("us", tz="UTC")),
        }
        rows = pa.table([given[name] for name in schema.names], schema=schema.arrow())
        yield write_data_file(store.data_folder(layer), "benchmark", encode(schema, rows), count)


def add_features(
    store: Store, layer: str, ids: pa.ChunkedArray, rows_a_file: int, extractor_id: str, *, seed: int | None = None
) -> None:
    """Commit features of these images; arguments as for `feature_files`."""
    files = tuple(feature_files(store, layer, ids, rows_a_file, extractor_id, seed=seed))
    transact(store, lambda _: [Change(layer, files)], SUMMARY)


def add_extractor(store: Store, request: ExtractRequest) -> str:
    """The row of the extractor that a request names; returns its id."""
    extractor = _prepare(store, request).extractor
    schema = store.schemas["extractors"].arrow()
    row = {name: getattr(extractor, name) for name in schema.names if name != "created_at"}
    rows = pa.Table.from_pylist([{**row, "created_at": datetime.now(UTC)}], schema=schema)
    transact(store, lambda pin: [replace_rows(store, pin, "extractors", rows)], SUMMARY)
    return extractor.extractor_id
