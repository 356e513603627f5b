"""Rows of mixed_10 a second from Parquet into a training step, against ``np.fromfile`` of raw arrays of the same.

One process. ferstore reads in the shuffled order of a training, checks pages, and hands whole batches of 100 to
TensorFlow; the other reads the same number of the same float16 values from one file, front to back, with nothing else.
More images than were extracted are the same files under several names: a reader knows no better, and reads each. Cold
means that the pages of the files were dropped from memory before each turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

import ferstore
from ferstore.store.files import local_path
from ferstore.train.data import load_training_data
from ferstore.train.features import LayerRows
from ferstore.train.order import Order
from ferstore.train.reader import Reader
from ferstore.train.recipe import PAPER
from tests.benchmarks.filled import full_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.turns import rates


def rows(inputs: Inputs) -> Iterator[Row]:
    """Warm at several sizes, then cold."""
    import tensorflow as tf

    store = ferstore.open(str(full_store(inputs)))
    data = load_training_data(
        store.store, store.store.pin(), store.training_set("parts"), fold=0, layers=("mixed_10",), views=("identity",)
    )
    examples = data.examples("train")
    layer = data.layers[0].take(examples)
    files = [Path(path) for url in layer.files_of(np.arange(len(examples))) if (path := local_path(url))]
    raw = inputs.folder / "raw.bin"
    with raw.open("wb") as stream:
        for batch in Reader([layer], np.arange(0)).once(np.arange(len(examples)), PAPER.batch_size):
            stream.write(np.ascontiguousarray(batch.features["mixed_10"]).data)
        stream.flush()
        os.fsync(stream.fileno())
    values = 8 * 8 * 2048

    def parquet(times: int, epochs: int) -> int:
        """So many epochs over so many times the examples."""
        many = repeated(layer, times)
        numbers = np.arange(len(many.places))
        order = Order(np.unique(many.groups, return_inverse=True)[1], PAPER.batch_size, 0, 1)
        stream = Reader([many], numbers).stream(order, numbers, 0, 0)
        for _ in range(epochs * order.steps):
            tf.convert_to_tensor(next(stream).features["mixed_10"])
        stream.close()  # type: ignore[attr-defined]
        return epochs * len(numbers)

    def from_file(times: int) -> int:
        for _ in range(times):
            with raw.open("rb") as stream:
                while len(np.fromfile(stream, np.float16, PAPER.batch_size * values)):
                    pass
        return times * len(examples)

    def cold(run: Callable[[], int], paths: list[Path]) -> Callable[[], int]:
        return lambda: [_drop(path) for path in paths] and run()

    least, most = 1, inputs.of(quick=4, normal=16, full=64)
    middle = most // 4
    sizes = sorted({least, middle, most})
    what = "rows of mixed_10 from Parquet into a training step"
    ways = {str(times): partial(parquet, times, max(1, most // (2 * times))) for times in sizes}
    found = rates(ways | {"raw": partial(from_file, most)}, inputs.turns)
    for times in sizes:
        note = f"{inputs.named}; the files of {len(examples)} train images, under {times} names each"
        aim = 5000 if times == most else None
        yield Row(f"{what}, warm, {times * len(examples):,} images", found[str(times)], (), "rows/s", aim, note=note)
    yield Row(f"{what}, warm, against np.fromfile", found[str(most)], found["raw"], "rows/s", 0.5, note=note)
    note = f"{len(examples)} train images, {inputs.named}"
    found = rates(
        {"parquet": cold(partial(parquet, 1, 1), files), "raw": cold(partial(from_file, 1), [raw])}, inputs.turns
    )
    yield Row(f"{what}, cold, against np.fromfile", found["parquet"], found["raw"], "rows/s", None, note=note)


def repeated(layer: LayerRows, times: int) -> LayerRows:
    """A layer of so many times the examples: its files, each under so many names."""
    further = np.array([len(layer.files), 0, 0], np.int32)
    places = np.concatenate([layer.places + number * further for number in range(times)])
    return LayerRows(layer.schema, layer.shape, layer.files * times, places, layer.row_groups * times)


def _drop(path: Path) -> bool:
    """Its pages leave memory; all were written long ago, or synced."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
