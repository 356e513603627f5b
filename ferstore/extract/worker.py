"""One extractor at work: reads and decodes ahead in threads, runs fixed batches, writes its own files.

A plain class, so that a test can use it without Ray; the pool wraps it as an actor.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ferstore.background import step_back
from ferstore.errors import FerstoreError, FetchError
from ferstore.extract.calls import Called, Features, NetworkCall, NetworkCalls, Pixels
from ferstore.extract.plan import Shard, WorkItem, columns_of, items_of
from ferstore.image.decode import pixels
from ferstore.image.fetch import Fetcher
from ferstore.store.files import StoredFile, write_data_file
from ferstore.store.schema import TableSchema
from ferstore.store.writer import ParquetBuffer, feature_column


@dataclass(frozen=True, slots=True)
class Target:
    """Where a layer's files go: its schema (in the store's map dtype) and its data folder."""

    schema: TableSchema
    folder: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that could not be read or decoded."""

    item: WorkItem
    error: str


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of a shard. Its files are in the store's folders, but in no table before the driver commits them.

    Attributes:
        layers: tables it filled.
        files: one file a layer, in the order of ``layers``; none where every item failed.
        done: items in the files, in row order.
        failures: the other items.
        seconds: time in the network, for the record of rates.
        waited: time the network waited for pictures.
    """

    layers: tuple[str, ...]
    files: tuple[StoredFile, ...]
    done: tuple[WorkItem, ...]
    failures: tuple[Failure, ...]
    seconds: float
    waited: float = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent as columns, as a shard is."""
        return _result, (self.layers, self.files, columns_of(self.done), self.failures, self.seconds, self.waited)


def _result(
    layers: tuple[str, ...], files: tuple[StoredFile, ...], done: tuple[tuple[Any, ...], ...], *rest: Any
) -> ShardResult:
    return ShardResult(layers, files, items_of(done), *rest)


class ShardWorker:
    """Computes shards, several at a time: some in the network, the next decoding, the last writing.

    Args:
        network: the network, called by ``calls_at_once`` threads at most.
        targets: where each layer goes.
        extractor_id: identity written beside every feature.
        run_id: names the files' run.
        batch_size: images a call of the network.
        decode_threads: threads that read and decode ahead.
        calls_at_once: batches in the network at a time. On a CPU the threads of one wait for one another at every
            layer, and those of a second one work meanwhile; on a GPU one computes while the other is copied.
        shards_at_once: shards in the network at a time, which give it their batches in turn. A file is written by one
            thread, so that this is how many threads encode.
    """

    def __init__(
        self,
        network: NetworkCall,
        targets: Mapping[str, Target],
        *,
        extractor_id: str,
        run_id: str,
        batch_size: int,
        decode_threads: int,
        calls_at_once: int = 1,
        shards_at_once: int = 1,
    ) -> None:
        self._calls = NetworkCalls(network, calls_at_once)
        self._targets = targets
        self._extractor_id = extractor_id
        self._run_id = run_id
        self._batch_size = batch_size
        self._fetcher = Fetcher()
        self._decoders = ThreadPoolExecutor(decode_threads, "decode", step_back)
        self._ahead = batch_size * (2 if shards_at_once == 1 else 1)
        self._turn = threading.Semaphore(shards_at_once)

    def run(self, shard: Shard) -> ShardResult:
        """Compute one shard and write its files.

        Raises:
            UnavailableError: the store cannot be written.
        """
        buffers = {layer: ParquetBuffer(self._targets[layer].schema) for layer in shard.layers}
        done: list[WorkItem] = []
        failures: list[Failure] = []
        seconds = waited = 0.0
        decoded = self._decode_ahead(shard.items)
        first = next(decoded, None)  # decoding begins before it is this shard's turn
        running: deque[tuple[list[WorkItem], Future[Called]]] = deque()
        encoding: Future[None] | None = None
        with ThreadPoolExecutor(1, "encode", step_back) as encoder:

            def take() -> None:
                nonlocal encoding, seconds
                items, call = running.popleft()
                called = call.result()
                seconds += called.seconds
                if encoding:
                    encoding.result()  # one batch waits to be encoded, never more
                encoding = encoder.submit(self._append, buffers, items, called.features, called.ended)
                done.extend(items)

            with self._turn:
                asked = time.perf_counter()
                for batch, bad in _batches(first, decoded, self._batch_size):
                    waited += self._calls.idle(asked)
                    failures += bad
                    if batch:
                        pictures = np.stack([picture for _, picture in batch])
                        while running and (running[0][1].done() or len(running) == self._calls.depth):
                            take()
                        running.append(([item for item, _ in batch], self._calls.submit(pictures)))
                    asked = time.perf_counter()
            while running:
                take()  # the next shard is in the network meanwhile
            if encoding:
                encoding.result()
        files = self._write(buffers) if done else ()
        return ShardResult(shard.layers, files, tuple(done), tuple(failures), seconds, waited)

    def _decode_ahead(self, items: Sequence[WorkItem]) -> Iterator[tuple[WorkItem, Pixels | str]]:
        """Items with their pixels or the reason there are none, in order, a batch or two ahead."""
        waiting: deque[tuple[WorkItem, Future[Pixels | str]]] = deque()
        for item in items:
            waiting.append((item, self._decoders.submit(self._decode, item)))
            if len(waiting) > self._ahead:
                ready, future = waiting.popleft()
                yield ready, future.result()
        for ready, future in waiting:
            yield ready, future.result()

    def _decode(self, item: WorkItem) -> Pixels | str:
        try:
            picture = pixels(self._read(item))
        except FerstoreError as error:
            return str(error)
        return np.ascontiguousarray(picture[:, ::-1]) if item.view == "hflip" else picture

    def _read(self, item: WorkItem) -> bytes:
        """The bytes whose digest is the image's id, from the first place that still has them."""
        problem: FetchError | None = None
        for url in item.urls:
            try:
                data = self._fetcher.read(url)
            except FetchError as error:
                problem = error
                continue
            if hashlib.sha256(data).hexdigest() == item.image_id:
                return data
            problem = FetchError("the file changed since it was ingested", hint="ingest the data set again")
        raise problem or FetchError("no place to read it from")

    def _append(
        self,
        buffers: Mapping[str, ParquetBuffer],
        items: Sequence[WorkItem],
        features: Features,
        now: datetime,
    ) -> None:
        for layer, buffer in buffers.items():
            buffer.append(feature_rows(self._targets[layer].schema, items, features[layer], self._extractor_id, now))

    def _write(self, buffers: Mapping[str, ParquetBuffer]) -> tuple[StoredFile, ...]:
        return tuple(
            write_data_file(self._targets[layer].folder, self._run_id, buffer.finish(), buffer.rows)
            for layer, buffer in buffers.items()
        )


def feature_rows(
    schema: TableSchema,
    items: Sequence[WorkItem],
    values: npt.NDArray[np.float32],
    extractor_id: str,
    now: datetime,
) -> pa.Table:
    """Rows of a feature table.

    Args:
        schema: a table with a ``[feature]``.
        items: the rows' images and views.
        values: float32 (rows, *shape).
        extractor_id: identity of what computed them.
        now: UTC time of computation.
    """
    flat = values.reshape(len(items), -1)
    columns = {
        "image_id": pa.array([item.image_id for item in items]),
        "extractor_id": pa.array([extractor_id] * len(items)),
        "view": pa.array([item.view for item in items]),
        schema.name: feature_column(schema, values),
        "mean": pa.array(flat.mean(axis=1, dtype=np.float32)),
        "maximum": pa.array(flat.max(axis=1)),
        "zeros": pa.array((flat == 0).mean(axis=1, dtype=np.float32)),
        "norm": pa.array(np.sqrt(np.vecdot(flat, flat))),
        "extracted_at": pa.array([now] * len(items), pa.timestamp("us", tz="UTC")),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema.arrow())


Batch = list[tuple[WorkItem, Pixels]]


def _batches(
    first: tuple[WorkItem, Pixels | str] | None, rest: Iterator[tuple[WorkItem, Pixels | str]], size: int
) -> Iterator[tuple[Batch, list[Failure]]]:
    """Full batches of pictures (the last may be short), with the failures met on the way."""
    batch: Batch = []
    bad: list[Failure] = []
    entry = first
    while entry is not None:
        item, picture = entry
        if isinstance(picture, str):
            bad.append(Failure(item, picture))
        else:
            batch.append((item, picture))
        if len(batch) == size:
            yield batch, bad
            batch, bad = [], []
        entry = next(rest, None)
    yield batch, bad
