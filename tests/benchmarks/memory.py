"""Peak memory of a training process over some images and over many: each in a process of its own.

python -m tests.benchmarks.memory STORE ITEMS     is one of them; it prints its peak in bytes
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import ferstore
from ferstore.train.data import load_training_data
from ferstore.train.order import Order
from ferstore.train.reader import Reader
from ferstore.train.recipe import PAPER
from tests.benchmarks.commands import peak_of_this_process, run
from tests.benchmarks.filled import full_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

WIDTH = 16
UPDATES = 20


def rows(inputs: Inputs) -> Iterator[Row]:
    """The head is narrow, so that what is read counts."""
    store = full_store(inputs)
    few, many = inputs.of(quick=(16, 64), normal=(128, 700), full=(300, 2400))
    peaks: dict[int, list[float]] = {few: [], many: []}
    for _ in range(inputs.turns):
        for items, found in peaks.items():
            command = [sys.executable, "-m", "tests.benchmarks.memory", str(store), str(items)]
            found.append(int(run(command).output.split()[-1]) / 2**20)
    what = f"peak memory of a training process over {many} train images at most, against over {few}"
    note = f"sub-deep at width {WIDTH}"
    yield Row(what, tuple(peaks[many]), tuple(peaks[few]), "MiB", 1.1, higher=False, note=note)


def main(url: str, items: int) -> None:
    """Train for some updates, at least an epoch, and print the peak."""
    from ferstore.train.trainer import configure
    from tests.benchmarks.training import trainer_of

    configure(gpus=0)
    store = ferstore.open(url)
    training_set = store.training_set("parts")
    layers = ("mixed_10", "pool_3")
    data = load_training_data(store.store, store.store.pin(), training_set, fold=0, layers=layers, views=("identity",))
    examples = data.examples("train")[:items]
    reader = Reader(data.layers, examples)
    order = Order(data.groups(examples), PAPER.batch_size, 0, 1)
    trainer = trainer_of(data, "sub_deep", WIDTH)
    for number, batch in enumerate(islice(reader.stream(order, examples, 0, 0), max(UPDATES, order.steps))):
        trainer.step(number, batch)
    print(peak_of_this_process())


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), int(sys.argv[2]))
