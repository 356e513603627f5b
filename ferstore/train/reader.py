"""Features from Parquet to batches: maps streamed row group by row group, vectors gathered once into a scratch file.

A map of 8 x 8 x 2,048 in float16 is 256 KiB: a reader holds one row group of them a lane and a few batches, whatever
the data set. Vectors are small but their sum is not, so each worker copies those of its own examples from Parquet to a
file on its machine's disk when it starts, and reads batches out of that.
"""

from __future__ import annotations

import mmap
import queue
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ferstore.background import step_back
from ferstore.store.digests import damaged
from ferstore.train.features import LayerRows
from ferstore.train.order import Indices, Order, Take
from ferstore.train.row_groups import Group, RowGroups, open_parquet, uses

Arrays = dict[str, npt.NDArray[Any]]
_AHEAD = 2
_LEAVE = 5.0
"""Seconds that closing waits for the thread: one that is decompressing as Python ends would abort the process."""
_MAPPED = 64 << 20
"""Bytes of a larger scratch file that are read before its pages are let go: they never count for more in memory."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Features of some examples.

    Attributes:
        take: which, and where they are in the whole batch.
        features: (examples, *shape) by layer, maps in the dtype they are stored in.
    """

    take: Take
    features: Arrays


class Reader:
    """Batches of some examples for one worker.

    Args:
        layers: features of all examples, numbered alike. At most one of them is a map.
        examples: those this worker may ask for; vectors of others are not gathered.
    """

    def __init__(self, layers: Sequence[LayerRows], examples: Indices) -> None:
        self._maps = [layer for layer in layers if layer.is_map]
        self._vectors: dict[str, VectorFile] = {}
        try:
            for layer in layers:
                if not layer.is_map:
                    self._vectors[layer.schema.name] = VectorFile(layer)
                    self._vectors[layer.schema.name].gather(examples)
        except BaseException:
            self.close()
            raise

    def stream(self, order: Order, examples: Indices, rank: int, start: int) -> Iterator[Batch]:
        """Batches from number ``start`` on, without end; those with maps are prepared ahead in a thread.

        Args:
            order: over ``examples``.
            examples: number of each example of the order.
            rank: of this worker.
            start: batches to leave out, which are not read.
        """
        return self._ahead(self._stream(order, examples, rank, start))

    def once(self, examples: Indices, batch_size: int) -> Iterator[Batch]:
        """Batches of some examples in that order, once; as for `stream`."""
        cuts = range(0, len(examples), batch_size)
        chosen = [examples[cut : cut + batch_size] for cut in cuts]
        takes = [Take(some, np.arange(len(some)), len(some)) for some in chosen]
        return self._ahead(self._batches(((take, {0: take.examples}) for take in takes), 1))

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        # Vectors lie on this machine already: taking them costs less than waking another thread.
        return ahead(batches) if self._maps else batches

    def _stream(self, order: Order, examples: Indices, rank: int, start: int) -> Iterator[Batch]:
        bounds = np.arange(order.lanes + 1) * len(examples) // order.lanes
        first, skip = divmod(start, order.steps)

        def parts() -> Iterator[tuple[Take, dict[int, Indices]]]:
            for epoch in count(first):
                for take in order.epoch(epoch, rank)[skip if epoch == first else 0 :]:
                    chosen = examples[take.examples]
                    lanes = np.searchsorted(bounds, take.examples, side="right") if self._maps else None
                    by_lane = {lane: chosen[lanes == lane] for lane in np.unique(lanes)} if lanes is not None else {}
                    yield Take(chosen, take.positions, take.batch), by_lane

        return self._batches(parts(), len(range(rank, order.lanes, order.world)))

    def _batches(self, parts: Iterable[tuple[Take, Mapping[int, Indices]]], room: int) -> Iterator[Batch]:
        """As many row groups are held as lanes; a batch's examples are ordered by lane, and so within ``take``."""
        if not self._maps:
            for take, _ in parts:
                yield Batch(take, self._vectors_of(take))
            return
        [layer] = self._maps
        dtype = np.float16 if layer.schema.feature and layer.schema.feature.dtype == "float16" else np.float32
        held: dict[Group, npt.NDArray[Any]] = {}
        with RowGroups(layer, uses(layer.places, parts, room)) as groups:
            for take, batch in groups:
                out = np.empty((len(take.examples), *layer.shape), dtype)
                at = 0
                for use in batch:
                    if use.drop is not None:
                        del held[use.drop]
                    if use.read:
                        held[use.group] = groups.take()
                    if use.rows.max() >= len(held[use.group]):
                        raise damaged(layer.files[use.group[0]], f"row group {use.group[1]} has too few rows")
                    # Any other mode than clip gathers into memory of its own first.
                    np.take(held[use.group], use.rows, axis=0, out=out[at : at + len(use.rows)], mode="clip")
                    at += len(use.rows)
                yield Batch(take, self._vectors_of(take) | {layer.schema.name: out})

    def _vectors_of(self, take: Take) -> Arrays:
        return {name: vectors.read(take.examples) for name, vectors in self._vectors.items()}

    def close(self) -> None:
        """Remove the scratch files."""
        for vectors in self._vectors.values():
            vectors.close()


class VectorFile:
    """The vectors of a worker's examples on its own disk.

    Args:
        layer: where they come from.
    """

    def __init__(self, layer: LayerRows) -> None:
        self._layer = layer
        self._values = layer.shape[0]
        self._file = tempfile.TemporaryFile(prefix="ferstore-")  # noqa: SIM115  closed with the reader
        self._row = np.full(len(layer.places), np.iinfo(np.int64).max)  # out of bounds until it is gathered
        self._mapped: mmap.mmap | None = None
        self._touched = 0

    def gather(self, examples: Indices) -> None:
        """Copy the vectors of some examples from Parquet, once.

        Raises:
            CorruptionError: a file cannot be read.
        """
        layer = self._layer
        by_group: dict[tuple[int, int], list[int]] = defaultdict(list)
        for example in np.unique(examples).tolist():
            file, group, _ = layer.places[example].tolist()
            by_group[file, group].append(example)
        written = 0
        open_file, opened = -1, None
        for (file, group), mine in sorted(by_group.items()):
            if file != open_file:
                open_file, opened = file, open_parquet(layer.files[file])
            assert opened is not None  # noqa: S101
            try:
                column = opened.read_row_group(group, columns=[layer.schema.name]).column(0).combine_chunks()
                flat = np.asarray(column.flatten(), np.float32).reshape(-1, self._values)
            except (OSError, ValueError, KeyError) as error:
                raise damaged(layer.files[file], error) from error
            self._file.write(np.ascontiguousarray(flat[layer.places[mine, 2]]).data)
            self._row[mine] = np.arange(written, written + len(mine))
            written += len(mine)
        self._file.flush()
        if written:
            self._mapped = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)

    def read(self, examples: Indices) -> npt.NDArray[np.float32]:
        """float32 (examples, values)."""
        mapped = self._mapped
        if not len(examples):
            return np.empty((0, self._values), np.float32)
        assert mapped is not None  # noqa: S101  examples were gathered, and the reader is open
        # One gather: reading row by row gives the interpreter lock away, and waits for it, as often as there are rows.
        out: npt.NDArray[np.float32] = np.frombuffer(mapped, np.float32).reshape(-1, self._values)[self._row[examples]]
        self._touched += out.nbytes
        if len(mapped) > _MAPPED < self._touched:  # a small file may stay
            mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return out

    def close(self) -> None:
        """Remove the file; pages that another thread still reads go with its array."""
        self._mapped = None
        self._file.close()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, made in a thread a few ahead of their use; an error there is raised here."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        step_back()
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, daemon=True, name="ferstore-reader")
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()
        if thread is not threading.current_thread():  # which may be the one that collects what others dropped
            thread.join(_LEAVE)
