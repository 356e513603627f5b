"""Rows of mixed_10 a second from Parquet into a training step, against ``np.fromfile`` of raw arrays of the same.

One process. ferstore reads in the shuffled order of a training, checks pages, and hands whole batches of 100 to
TensorFlow; the other reads the same number of the same float16 values from one file, front to back, with nothing else.
Cold means that the pages of the files were dropped from memory before each turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import ferstore
from ferstore.store.files import local_path
from ferstore.train.data import load_training_data
from ferstore.train.order import Order
from ferstore.train.reader import Reader
from ferstore.train.recipe import PAPER
from tests.benchmarks.filled import full_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.turns import rates


def rows(inputs: Inputs) -> Iterator[Row]:
    """Warm, then cold."""
    import tensorflow as tf

    store = ferstore.open(str(full_store(inputs)))
    data = load_training_data(
        store.store, store.store.pin(), store.training_set("parts"), fold=0, layers=("mixed_10",), views=("identity",)
    )
    examples = data.examples("train")
    files = [Path(path) for url in data.layers[0].files_of(examples) if (path := local_path(url))]
    reader = Reader(data.layers, examples)
    order = Order(data.groups(examples), PAPER.batch_size, 0, 1)
    raw = inputs.folder / "raw.bin"
    with raw.open("wb") as stream:
        for batch in reader.once(examples, PAPER.batch_size):
            stream.write(np.ascontiguousarray(batch.features["mixed_10"]).data)
        stream.flush()
        os.fsync(stream.fileno())
    values = 8 * 8 * 2048
    epochs = inputs.of(quick=1, normal=5, full=5)

    def parquet(epochs: int) -> int:
        stream = reader.stream(order, examples, 0, 0)
        for _ in range(epochs * order.steps):
            tf.convert_to_tensor(next(stream).features["mixed_10"])
        stream.close()  # type: ignore[attr-defined]
        return epochs * len(examples)

    def from_file(epochs: int) -> int:
        for _ in range(epochs):
            with raw.open("rb") as stream:
                while len(np.fromfile(stream, np.float16, PAPER.batch_size * values)):
                    pass
        return epochs * len(examples)

    def cold(run: Callable[[int], int], paths: list[Path]) -> Callable[[], int]:
        return lambda: [_drop(path) for path in paths] and run(1)

    note = f"{len(examples)} train images, {inputs.named}"
    what = "rows of mixed_10 from Parquet into a training step"
    found = rates({"parquet": lambda: parquet(epochs), "raw": lambda: from_file(epochs)}, inputs.turns)
    yield Row(f"{what}, warm", found["parquet"], (), "rows/s", 5000, note=note)
    yield Row(f"{what}, warm, against np.fromfile", found["parquet"], found["raw"], "rows/s", 0.5, note=note)
    found = rates({"parquet": cold(parquet, files), "raw": cold(from_file, [raw])}, inputs.turns)
    yield Row(f"{what}, cold, against np.fromfile", found["parquet"], found["raw"], "rows/s", None, note=note)


def _drop(path: Path) -> bool:
    """Its pages leave memory; all were written long ago, or synced."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
