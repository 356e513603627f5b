"""Row groups of maps from Parquet files: which are needed when, and their values, decompressed a few ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ferstore.background import step_back
from ferstore.store.digests import damaged
from ferstore.store.files import filesystem, local_path
from ferstore.store.writer import feature_values
from ferstore.train.features import LayerRows
from ferstore.train.order import Indices

_OPEN_FILES = 32
_DECODERS = 2
"""Threads that decompress row groups of maps, and row groups they are ahead of their use."""
Group = tuple[int, int]
"""A row group: number of its file, and its own in that."""


def runs(places: npt.NDArray[np.int32]) -> Iterator[tuple[Group, npt.NDArray[np.int32]]]:
    """Consecutive rows of one row group: its file and number, and the rows."""
    if not len(places):
        return
    cuts = np.flatnonzero((places[1:, :2] != places[:-1, :2]).any(axis=1)) + 1
    for part in np.split(places, cuts):
        yield (int(part[0, 0]), int(part[0, 1])), part[:, 2]


def changes(layer: LayerRows, parts: Iterable[Mapping[int, Indices]]) -> Iterator[Group]:
    """Row groups in the order in which lanes come to need them."""
    held: dict[int, Group] = {}
    for lanes in parts:
        for lane, chosen in lanes.items():
            for key, _ in runs(layer.places[chosen]):
                if held.get(lane) != key:
                    held[lane] = key
                    yield key


class RowGroups:
    """Row groups of maps, decompressed a few ahead by threads, in a given order.

    Each thread has files of its own, open while they are in use: one ``ParquetFile`` is not for two threads.
    """

    def __init__(self, layer: LayerRows, order: Iterator[Group]) -> None:
        self._layer = layer
        self._order = order
        self._coming: deque[Future[npt.NDArray[Any]]] = deque()
        self._threads = ThreadPoolExecutor(_DECODERS, "ferstore-maps", step_back)
        self._mine = threading.local()
        self._open: list[dict[str, pq.ParquetFile]] = []

    def __enter__(self) -> RowGroups:
        for _ in range(_DECODERS):
            self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for files in self._open:
            for file in files.values():
                file.close()

    def take(self) -> npt.NDArray[Any]:
        """The next row group.

        Raises:
            CorruptionError: it cannot be read.
        """
        values = self._coming.popleft().result()
        self._ask()
        return values

    def _ask(self) -> None:
        if (key := next(self._order, None)) is not None:
            self._coming.append(self._threads.submit(self._read, *key))

    def _read(self, file: int, group: int) -> npt.NDArray[Any]:
        files: dict[str, pq.ParquetFile] | None = getattr(self._mine, "files", None)
        if files is None:
            files = self._mine.files = {}
            self._open.append(files)
        url = self._layer.files[file]
        if url not in files:
            if len(files) >= _OPEN_FILES:
                files.pop(next(iter(files))).close()
            files[url] = open_parquet(url)
        schema = self._layer.schema
        try:
            column = files[url].read_row_group(group, columns=[schema.name], use_threads=False).column(0)
            # Combining copies, also where there is but one chunk.
            chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            return feature_values(schema, chunk)
        except (OSError, ValueError, KeyError) as error:
            raise damaged(url, error) from error


def open_parquet(url: str) -> pq.ParquetFile:
    path = local_path(url)  # pyarrow reads it itself, without the interpreter lock
    try:
        source = str(path) if path is not None else filesystem(url).open(url, "rb")
        return pq.ParquetFile(source, page_checksum_verification=True)
    except (OSError, ValueError, KeyError) as error:
        raise damaged(url, error) from error
