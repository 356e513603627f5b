"""Row groups of maps from Parquet files: which are needed when, and their values, decompressed a few ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ferstore.background import step_back
from ferstore.store.digests import damaged
from ferstore.store.files import filesystem, local_path
from ferstore.store.writer import feature_values
from ferstore.train.features import LayerRows, Places
from ferstore.train.order import Indices, Take

_OPEN_FILES = 32
_DECODERS = 2
"""Threads that decompress row groups of maps, and row groups they are ahead of their use."""
_BATCHES_AHEAD = 16
"""Batches that are planned at most before their turn."""
Group = tuple[int, int]
"""A row group: number of its file, and its own in that."""
Planned = tuple[Take, "list[Use]"]
"""A batch, and what it takes."""


def runs(places: npt.NDArray[np.int32]) -> Iterator[tuple[Group, npt.NDArray[np.int32]]]:
    """Consecutive rows of one row group: its file and number, and the rows."""
    if not len(places):
        return
    cuts = np.flatnonzero((places[1:, :2] != places[:-1, :2]).any(axis=1)) + 1
    for part in np.split(places, cuts):
        yield (int(part[0, 0]), int(part[0, 1])), part[:, 2]


@dataclass(frozen=True, slots=True)
class Use:
    """Rows that a batch takes of one row group.

    Attributes:
        group: which.
        rows: of it, in the order they are taken.
        read: whether it is not held yet.
        drop: what goes to make room for it.
    """

    group: Group
    rows: npt.NDArray[np.int32]
    read: bool
    drop: Group | None


def uses(places: Places, parts: Iterable[tuple[Take, Mapping[int, Indices]]], room: int) -> Iterator[Planned]:
    """What each batch takes of which row group, lane by lane.

    A lane is in one row group at a time. Those it has left stay held while there is room, so that lanes which share
    one, or epochs over no more row groups than lanes, do not read it again; the one left longest ago goes first.

    Args:
        places: of all examples.
        parts: what each batch takes, and its examples by lane.
        room: row groups that are held at most; no fewer than lanes.
    """
    at: dict[int, Group] = {}
    held: dict[Group, None] = {}  # the one left longest ago first
    for take, lanes in parts:
        batch = []
        for lane, chosen in lanes.items():
            for group, rows in runs(places[chosen]):
                left = at.get(lane)
                at[lane] = group
                if left in held and left != group:
                    held[left] = held.pop(left)
                read, drop = group not in held, None
                if read and len(held) == room:
                    drop = next(one for one in held if one not in at.values())
                    del held[drop]
                held.setdefault(group)
                batch.append(Use(group, rows, read, drop))
        yield take, batch


class RowGroups:
    """Row groups of maps, decompressed a few ahead by threads, as a plan has them read.

    Each thread has files of its own, open while they are in use: one ``ParquetFile`` is not for two threads.
    """

    def __init__(self, layer: LayerRows, plan: Iterator[Planned]) -> None:
        self._layer = layer
        self._plan = plan
        self._planned: deque[Planned] = deque()
        self._wanted: deque[Group] = deque()  # that planned batches read
        self._coming: deque[Future[npt.NDArray[Any]]] = deque()
        self._threads = ThreadPoolExecutor(_DECODERS, "ferstore-maps", step_back)
        self._mine = threading.local()
        self._open: list[dict[str, pq.ParquetFile]] = []

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for files in self._open:
            for file in files.values():
                file.close()

    def __iter__(self) -> Iterator[Planned]:
        """Batches of the plan; `take` gives what they read, in that order."""
        while True:
            self._look_ahead()
            if not self._planned:
                return
            yield self._planned.popleft()

    def take(self) -> npt.NDArray[Any]:
        """The next row group that is read.

        Raises:
            CorruptionError: it cannot be read.
        """
        values = self._coming.popleft().result()
        self._look_ahead()
        return values

    def _look_ahead(self) -> None:
        # Where all that is needed is held, no batch ever reads anything.
        while len(self._wanted) < _DECODERS and len(self._planned) < _BATCHES_AHEAD:
            if (batch := next(self._plan, None)) is None:
                break
            self._planned.append(batch)
            self._wanted.extend(use.group for use in batch[1] if use.read)
        while self._wanted and len(self._coming) < _DECODERS:
            self._coming.append(self._threads.submit(self._read, *self._wanted.popleft()))

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
