"""The training loop fed from Parquet, against the same updates fed from memory and against ``keras.Model.fit``.

All in one process, turn by turn. From memory means from one array that holds every example, gathered at random;
``fit`` gets the same arrays and Keras's own layers. Features are read through the reader of a training, in its order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np

import ferstore
from ferstore.store.digests import check_digests
from ferstore.train.data import TrainingData, load_training_data
from ferstore.train.job import HeadSpec
from ferstore.train.order import Order, Take
from ferstore.train.reader import Batch, Reader
from ferstore.train.recipe import PAPER
from ferstore.train.trainer import Trainer, configure
from tests.benchmarks.filled import full_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.turns import rates

HEADS = (("deepest", 0), ("sub_deep", 64), ("sub_deep", 256))
LAYER = {"deepest": "pool_3", "sub_deep": "mixed_10"}
SIZE = PAPER.batch_size
_PIECE = 18


def rows(inputs: Inputs) -> Iterator[Row]:
    """Two rows a head, and what holding the files against their digests costs."""
    configure(gpus=0)
    seconds = inputs.of(quick=0.3, normal=0.8, full=10.0)
    for experiment, width in HEADS[: 1 if inputs.quick else None]:
        data = load(inputs, LAYER[experiment])
        loop = Loop(data, experiment, width, seconds)
        pieces = {"parquet": loop.pieces, "memory": loop.pieces}
        found = rates({"parquet": loop.parquet, "memory": loop.memory, "fit": loop.fit}, inputs.turns, pieces=pieces)
        name = f"{experiment} at width {width}" if width else experiment
        note = f"{len(loop.examples)} train images, batches of {SIZE}, {inputs.named}"
        for other, named, aim in (("memory", "the same from memory", 0.97), ("fit", "keras.Model.fit", 1.0)):
            what = f"updates of {name} fed from Parquet, against {named}"
            yield Row(what, found["parquet"], found[other], "samples/s", aim, note=note)
        loop.close()
    yield _digests(inputs)


def _digests(inputs: Inputs) -> Row:
    """How fast files of maps are read whole for their digests, as a worker does when it starts."""
    data = load(inputs, "mixed_10")
    examples = data.examples("train")
    files = data.layers[0].files_of(examples)

    def check() -> int:
        check_digests(files)
        return len(examples)

    found = rates({"check": check}, inputs.turns)
    note = f"{len(files)} files; a training does this once, before its first update"
    return Row("images a second held against their digests", found["check"], (), "images/s", None, note=note)


def load(inputs: Inputs, layer: str, views: tuple[str, ...] = ("identity",)) -> TrainingData:
    """The training set ``parts`` of the full store."""
    store = ferstore.open(str(full_store(inputs)))
    training_set = store.training_set("parts")
    return load_training_data(store.store, store.store.pin(), training_set, fold=0, layers=(layer,), views=views)


def trainer_of(data: TrainingData, experiment: Any, width: int) -> Trainer:
    """As a worker makes it, under the recipe ``paper``."""
    return Trainer(
        HeadSpec(experiment, data.shapes, len(data.classes), width, PAPER),
        targets=data.targets("hard"),
        labels=data.labels,
        weights=np.ones(len(data.classes), np.float32),
        total_steps=10_000,
    )


class Loop:
    """One head and three ways to feed it; each turn takes about so many seconds from Parquet.

    Attributes:
        pieces: of a turn, where it is not Keras's: each takes `_PIECE` updates or more.
    """

    def __init__(self, data: TrainingData, experiment: str, width: int, seconds: float) -> None:
        import keras

        examples = data.examples("train")
        # Whole batches: which of the ways would meet the short one in a turn is chance.
        self.examples = examples[: len(examples) // SIZE * SIZE or None]
        self._reader = Reader(data.layers, self.examples)
        order = Order(data.groups(self.examples), SIZE, 0, 1)
        [self._name] = data.shapes
        self._trainer = trainer_of(data, experiment, width)
        self._numbers = count()
        self._values = np.concatenate([b.features[self._name] for b in self._reader.once(self.examples, 256)])
        self._targets = data.targets("hard")[self.examples % data.items]
        self._plain = plain_model(experiment, data.shapes[self._name], len(data.classes), width)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        self._plain.compile(keras.optimizers.Adam(PAPER.learning_rate), loss)
        self._streams = {"parquet": self._reader.stream(order, self.examples, 0, 0), "memory": self._from_memory()}
        self._updates = 1  # for which it is traced
        self.parquet()
        self._updates = 3
        updates = self._count(seconds)
        self.pieces = max(1, updates // _PIECE)
        self._updates = updates // self.pieces

    def _count(self, seconds: float) -> int:
        """Updates of so many seconds, from enough of them to tell: too few would let ``fit`` pay for its start only."""
        while True:
            began = time.perf_counter()
            self.parquet()
            took = time.perf_counter() - began
            if took > seconds / 4:
                return max(3, round(seconds * self._updates / took))
            self._updates *= 4

    def parquet(self) -> int:
        """Samples of a turn."""
        return self._turn("parquet")

    def memory(self) -> int:
        """The same."""
        return self._turn("memory")

    def fit(self) -> int:
        """Fewer samples where there are many, since it takes longer, in whole epochs where there are some."""
        updates = self.pieces * self._updates
        epochs, left = divmod(max(updates // 3, min(updates, _PIECE)) * SIZE, len(self._values))
        samples = 0
        for rows, times in ((len(self._values), epochs), (left, 1)):
            if rows and times:
                self._plain.fit(self._values[:rows], self._targets[:rows], batch_size=SIZE, epochs=times, verbose=0)
                samples += rows * times
        return samples

    def close(self) -> None:
        """Give up what it holds."""
        for stream in self._streams.values():
            stream.close()  # type: ignore[attr-defined]
        self._reader.close()

    def _turn(self, way: str) -> int:
        samples = 0
        for batch in islice(self._streams[way], self._updates):
            self._trainer.step(next(self._numbers), batch)
            samples += len(batch.take.examples)
        return samples

    def _from_memory(self) -> Iterator[Batch]:
        for epoch in count():
            turn = np.random.default_rng(epoch).permutation(len(self.examples))
            for at in range(0, len(turn), SIZE):
                rows = turn[at : at + SIZE]
                take = Take(self.examples[rows], np.arange(len(rows)), len(rows))
                yield Batch(take, {self._name: self._values[rows]})


def plain_model(experiment: str, shape: tuple[int, ...], classes: int, width: int) -> Any:
    """The head as a user of Keras would write it."""
    import keras

    layers: list[Any] = [keras.Input(shape)]
    if experiment == "sub_deep":
        for filters, kernel in ((width, 3), (width, 3), (width, 3), (2048, 2), (1024, 1), (512, 1)):
            layers.append(keras.layers.Conv2D(filters, kernel, activation="relu"))
        layers += [keras.layers.Conv2D(classes, 1), keras.layers.Flatten()]
    else:
        layers.append(keras.layers.Dense(classes))
    return keras.Sequential(layers)
