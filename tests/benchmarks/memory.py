"""Peak memory of a training process over some images, and when it has gone on over many.

Many are the same files under several names. ``python -m tests.benchmarks.memory STORE TIMES`` is such a process; it
prints examples and peak in bytes of both.
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
    peaks: list[list[float]] = [[], []]
    for _ in range(inputs.turns):
        words = run([sys.executable, "-m", "tests.benchmarks.memory", str(store), str(many)]).output.split()[-4:]
        examples = [int(words[0]), int(words[2])]
        for found, peak in zip(peaks, words[1::2], strict=True):
            found.append(int(peak) / 2**20)
    what = f"peak memory of a training process over {examples[1]:,} images, against over {examples[0]:,}"
    note = f"sub-deep at width {WIDTH}; the same files, under {many} names each, in the same process"
    yield Row(what, tuple(peaks[1]), tuple(peaks[0]), "MiB", 1.1, higher=False, note=note)


def main(url: str, times: int) -> None:
    """Train for an epoch of each, and print over what and the peak by then."""
    from ferstore.train.trainer import configure
    from tests.benchmarks.training import trainer_of

    configure(gpus=0)
    store = ferstore.open(url)
    training_set = store.training_set("parts")
    layers = ("mixed_10", "pool_3")
    data = load_training_data(store.store, store.store.pin(), training_set, fold=0, layers=layers, views=("identity",))
    trainer = trainer_of(data, "sub_deep", WIDTH)
    once = data.examples("train")
    for many in (1, times):
        # As further views of the same items, whose labels they have.
        more = replace(data, layers=tuple(repeated(layer, many) for layer in data.layers))
        examples = np.concatenate([once + number * data.items for number in range(many)])
        reader = Reader(more.layers, examples)
        order = Order(more.groups(examples), PAPER.batch_size, 0, 1)
        stream = reader.stream(order, examples, 0, 0)
        for number, batch in enumerate(islice(stream, max(UPDATES, order.steps))):
            trainer.step(number, batch)
        stream.close()  # type: ignore[attr-defined]
        reader.close()
        print(len(examples), peak_of_this_process())


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), int(sys.argv[2]))
