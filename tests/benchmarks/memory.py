"""Peak memory of a training process over some images and over many: each in a process of its own.

Many are the same files under several names. ``python -m tests.benchmarks.memory STORE TIMES`` is one of them; it
prints its examples and its peak in bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

import ferstore
from ferstore.train.data import load_training_data
from ferstore.train.order import Order
from ferstore.train.reader import Reader
from ferstore.train.recipe import PAPER
from tests.benchmarks.commands import peak_of_this_process, run
from tests.benchmarks.filled import full_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.reading import repeated
from tests.benchmarks.row import Row

WIDTH = 16
UPDATES = 20


def rows(inputs: Inputs) -> Iterator[Row]:
    """The head is narrow, so that what is read counts."""
    store = full_store(inputs)
    many = inputs.of(quick=4, normal=4, full=16)
    peaks: dict[int, list[float]] = {1: [], many: []}
    examples = {}
    for _ in range(inputs.turns):
        for times, found in peaks.items():
            command = [sys.executable, "-m", "tests.benchmarks.memory", str(store), str(times)]
            number, peak = run(command).output.split()[-2:]
            examples[times] = int(number)
            found.append(int(peak) / 2**20)
    what = f"peak memory of a training process over {examples[many]:,} images, against over {examples[1]:,}"
    note = f"sub-deep at width {WIDTH}; the same files, under {many} names each"
    yield Row(what, tuple(peaks[many]), tuple(peaks[1]), "MiB", 1.1, higher=False, note=note)


def main(url: str, times: int) -> None:
    """Train for an epoch, and print what over and the peak."""
    from ferstore.train.trainer import configure
    from tests.benchmarks.training import trainer_of

    configure(gpus=0)
    store = ferstore.open(url)
    training_set = store.training_set("parts")
    layers = ("mixed_10", "pool_3")
    data = load_training_data(store.store, store.store.pin(), training_set, fold=0, layers=layers, views=("identity",))
    # As further views of the same items, whose labels they have.
    data = replace(data, layers=tuple(repeated(layer, times) for layer in data.layers))
    once = data.examples("train")
    examples = np.concatenate([once + number * data.items for number in range(times)])
    reader = Reader(data.layers, examples)
    order = Order(data.groups(examples), PAPER.batch_size, 0, 1)
    trainer = trainer_of(data, "sub_deep", WIDTH)
    for number, batch in enumerate(islice(reader.stream(order, examples, 0, 0), max(UPDATES, order.steps))):
        trainer.step(number, batch)
    print(len(examples), peak_of_this_process())


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), int(sys.argv[2]))
