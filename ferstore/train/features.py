"""Where the features of a training set lie: which row of which Parquet file is which example's.

Nothing but keys is read here. The result is small, can be sent to workers, and is all that a reader needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ferstore.errors import InputError
from ferstore.store.digests import check_digests, damaged
from ferstore.store.files import filesystem
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.schema import TableSchema
from ferstore.store.store import Store
from ferstore.train.conv4 import CONV4, CONV4_VALUES

Places = npt.NDArray[np.int32]
_PLACE = ("file", "group", "row")


@dataclass(frozen=True, slots=True)
class LayerRows:
    """One feature of every example.

    Attributes:
        schema: of its table; ``schema.name`` is also the column of the feature.
        shape: of one value.
        files: URLs.
        places: int32 (examples, 3): number of the file, row group in it, row in that.
        row_groups: row groups of each file, for numbering them all.
    """

    schema: TableSchema
    shape: tuple[int, ...]
    files: tuple[str, ...]
    places: Places
    row_groups: tuple[int, ...]

    @property
    def is_map(self) -> bool:
        """Whether it has positions, and so is streamed; vectors are gathered once."""
        return len(self.shape) > 1

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """Number of each example's row group, counted over all files."""
        first = np.concatenate([[0], np.cumsum(self.row_groups)])
        return np.asarray(first[self.places[:, 0]] + self.places[:, 1], np.int64)

    def files_of(self, examples: npt.NDArray[np.int64]) -> set[str]:
        """Files that hold some examples."""
        return {self.files[number] for number in np.unique(self.places[examples, 0]).tolist()}

    def take(self, examples: npt.NDArray[np.int64]) -> LayerRows:
        """The same for some of the examples, in that order."""
        return LayerRows(self.schema, self.shape, self.files, self.places[examples], self.row_groups)


def check_layers(pin: Pin, layers: Sequence[str]) -> int:
    """Hold every file of some layers against its digest before a key is read of it.

    A damaged file could have its rows look like another image's, or like none, and be left out in silence.

    Returns:
        Files of other engines, which have none.

    Raises:
        CorruptionError: a file is missing or differs.
    """
    return check_digests({data_file.file_path for layer in layers for data_file in pin.data_files(layer)})


def choose_extractor(
    store: Store, pin: Pin, layers: Sequence[str], images: Sequence[str], views: Sequence[str], extractor: str | None
) -> str | None:
    """The extractor whose features of all layers are read: the one asked for, else the newest that has them all.

    Returns:
        Its id; where none has all, the newest that has any; None where there is none.
    """
    if extractor is not None or not layers:
        return extractor
    wanted = pa.table({"image_id": pa.array(images, pa.string())})
    complete: dict[str, int] = {}
    newest: dict[str, Any] = {}
    for layer in layers:
        rows = read_rows(store, pin, layer, ["image_id", "extractor_id", "view", "extracted_at"])
        rows = rows.filter(pc.is_in(rows["view"], value_set=pa.array(views)))
        for row in rows.group_by("extractor_id").aggregate([("extracted_at", "max")]).to_pylist():
            seen = newest.get(row["extractor_id"])
            newest[row["extractor_id"]] = max(filter(None, (seen, row["extracted_at_max"])))
        mine = rows.join(wanted, "image_id", join_type="left semi")
        for row in mine.group_by("extractor_id").aggregate([([], "count_all")]).to_pylist():
            if row["count_all"] == len(images) * len(views):
                complete[row["extractor_id"]] = complete.get(row["extractor_id"], 0) + 1
    whole = [name for name, count in complete.items() if count == len(layers)]
    return max(whole or newest, key=lambda name: (newest[name], name), default=None)


def locate(store: Store, pin: Pin, layer: str, images: Sequence[str], views: Sequence[str], *, maker: str) -> LayerRows:
    """Find the row of every image under every view.

    Args:
        store: the store.
        pin: the state that is read.
        layer: a feature table, or ``conv4``.
        images: image ids; may repeat.
        views: views of each.
        maker: extractor id, or for ``conv4`` the run that wrote it.

    Returns:
        Places of ``len(views) * len(images)`` examples: all images under the first view, then under the next.

    Raises:
        InputError: some have no row; how many, and the first of them.
    """
    schema = store.schemas[layer]
    by = "run_id" if layer == CONV4 else "extractor_id"
    keys, files, row_groups = [], [], []
    for number, (url, rows, sizes) in enumerate(_key_files(pin, layer, by)):
        group = np.repeat(np.arange(len(sizes)), sizes)
        row = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.empty(0, np.int64)
        for name, values in zip(_PLACE, (np.full(len(rows), number), group, row), strict=True):
            rows = rows.append_column(name, pa.array(values, pa.int32()))
        keys.append(rows.filter(pc.field(by) == maker).select(["image_id", "view", *_PLACE]))
        files.append(url)
        row_groups.append(len(sizes))
    shape = schema.feature.shape if schema.feature else (CONV4_VALUES,)
    wanted = pa.table(
        {
            "image_id": pa.array(list(images) * len(views), pa.string()),
            "view": pa.array([view for view in views for _ in images], pa.string()),
            "example": pa.array(range(len(images) * len(views)), pa.int64()),
        }
    )
    found = wanted.join(pa.concat_tables(keys), ["image_id", "view"], join_type="left outer") if keys else wanted
    missing = found.filter(pc.is_null(found["file"])) if keys else wanted
    if len(missing):
        raise missing_features(layer, maker, missing)
    found = found.sort_by("example")
    places = np.stack([found[name].to_numpy() for name in _PLACE], axis=1).astype(np.int32)
    return LayerRows(schema, shape, tuple(files), places, tuple(row_groups))


def _key_files(pin: Pin, layer: str, by: str) -> list[tuple[str, pa.Table, list[int]]]:
    """Data files with their keys and the rows of each row group.

    They are ordered by what is in them, not by their names: these differ from store to store, and the order of files
    decides the order of training.
    """
    found = []
    for data_file in pin.data_files(layer):
        url = data_file.file_path
        try:
            with pq.ParquetFile(filesystem(url).open(url, "rb"), page_checksum_verification=True) as file:
                rows = file.read(columns=["image_id", "view", by])
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        except (OSError, ValueError, KeyError) as error:
            raise damaged(url, error) from error
        found.append((pc.min(rows["image_id"]).as_py() or "", pc.min(rows["view"]).as_py() or "", url, rows, sizes))
    found.sort(key=lambda entry: entry[:3])
    return [(url, rows, sizes) for _, _, url, rows, sizes in found]


def missing_features(layer: str, maker: str | None, missing: pa.Table) -> InputError:
    """What to say where images have no feature: columns image_id and view."""
    first = missing.slice(0, 1).to_pylist()[0]
    views = ",".join(sorted(set(missing["view"].to_pylist())))
    count = len(set(missing["image_id"].to_pylist()))
    of = f" of {'run' if layer == CONV4 else 'extractor'} {maker}" if maker else ""
    command = "train sub_deep" if layer == CONV4 else f"extract --layers {layer} --views {views}"
    return InputError(
        f"{count} images of the training set have no {layer} ({views}){of}, the first is {first['image_id'][:16]}…",
        hint=f"compute them first: ferstore {command}",
    )
