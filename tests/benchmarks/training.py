"""How fast and how lean training is, against the same step from memory and against plain Keras; prints ratios.

    python tests/benchmarks/training.py loop STORE TRAINING_SET [--experiment sub_deep] [--width 256] [--epochs 1]
    python tests/benchmarks/training.py table-1 [--batch 16]
    python tests/benchmarks/training.py memory STORE TRAINING_SET [--width 16] [--small 600]
    python tests/benchmarks/training.py digests STORE TRAINING_SET [--experiment sub_deep] [--epochs 1]

``loop``: updates fed from Parquet; the same updates fed from one array in memory; ``keras.Model.fit`` on that array
with Keras's own layers. All in one process, turn by turn; what is compared are the medians of the turns.
``table-1``: one update of Table 1 at full width against the same stack of ``keras.layers.Conv2D``, random features.
``memory``: peak of a training process over some of the images and over all of them, mirrored ones too; each is in a
process of its own.
``digests``: reading all train images for some epochs, with the check of a run's files before it and without, turn by
turn; and the same beside the updates of that many epochs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from ferstore import api
from ferstore.store.digests import check_digests
from ferstore.train.data import TrainingData, load_training_data
from ferstore.train.job import HeadSpec
from ferstore.train.order import Order, Take
from ferstore.train.reader import Batch, Reader
from ferstore.train.recipe import PAPER
from ferstore.train.request import TrainRequest
from ferstore.train.trainer import Trainer, configure

BOTH = ("identity", "hflip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loop", "table-1", "memory", "memory-of-one", "digests"])
    parser.add_argument("store", nargs="?")
    parser.add_argument("training_set", nargs="?")
    parser.add_argument("--experiment", choices=["deepest", "sub_deep"], default="sub_deep")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of a turn; vectors go by in milliseconds")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--small", type=int, default=600)
    parser.add_argument("--items", type=int)
    asked = parser.parse_args()
    {"loop": loop, "table-1": table_1, "memory": memory, "memory-of-one": memory_of_one, "digests": digests}[
        asked.what
    ](asked)


def load(asked: argparse.Namespace, views: Sequence[str] = ("identity",)) -> TrainingData:
    store = api.open(asked.store).store
    training_set = api.open(asked.store).training_set(asked.training_set)
    layers = TrainRequest(asked.experiment, asked.training_set).read_layers
    return load_training_data(store, store.pin(), training_set, fold=0, layers=layers, views=views)


def trainer_of(data: TrainingData, asked: argparse.Namespace) -> Trainer:
    return Trainer(
        HeadSpec(asked.experiment, data.shapes, len(data.classes), asked.width, PAPER),
        targets=data.targets("hard"),
        labels=data.labels,
        weights=np.ones(len(data.classes), np.float32),
        total_steps=10_000,
    )


def loop(asked: argparse.Namespace) -> None:
    import keras

    configure(gpus=0)
    data = load(asked)
    examples = data.examples("train")
    size = PAPER.batch_size
    reader = Reader(data.layers, examples)
    order = Order(data.groups(examples), size, 0, 1)
    name = next(iter(data.shapes))
    values = np.concatenate([batch.features[name] for batch in reader.once(examples, 256)])
    targets = data.targets("hard")[examples % data.items]
    trainer = trainer_of(data, asked)
    plain = plain_model(asked.experiment, data.shapes[name], len(data.classes), asked.width)
    plain.compile(keras.optimizers.Adam(PAPER.learning_rate), keras.losses.CategoricalCrossentropy(from_logits=True))

    def from_memory() -> Iterator[Batch]:
        for epoch in cycle(range(1000)):
            turn = np.random.default_rng(epoch).permutation(len(examples))
            for at in range(0, len(turn), size):
                rows = turn[at : at + size]
                yield Batch(Take(examples[rows], np.arange(len(rows)), len(rows)), {name: values[rows]})

    streams = {"parquet": reader.stream(order, examples, 0, 0), "memory": from_memory()}
    steps = asked.epochs * order.steps
    step = iter(range(10**9))

    def turn_of(stream: Iterator[Batch]) -> int:
        return sum(len((trainer.step(next(step), batch), batch)[1].take.examples) for batch in take(stream, steps))

    def fit() -> int:
        plain.fit(values, targets, batch_size=size, epochs=asked.epochs, verbose=0, shuffle=True)
        return asked.epochs * len(values)

    ways: dict[str, Callable[[], int]] = {
        **{way: (lambda stream=stream: turn_of(stream)) for way, stream in streams.items()},
        "fit": fit,
    }
    rates = turns(ways, asked.turns)
    width = f", width {asked.width}" if asked.experiment == "sub_deep" else ""
    length = f"{asked.turns} turns of {asked.epochs} epochs"
    print(f"{asked.experiment}{width}, {len(examples)} train images, batches of {size}, {length}")
    for way, found in rates.items():
        print(f"  {way:8} {statistics.median(found):9.1f} samples/s  ({', '.join(f'{rate:.1f}' for rate in found)})")
    for other in ("memory", "fit"):
        ratio = statistics.median(a / b for a, b in zip(rates["parquet"], rates[other], strict=True))
        print(f"  parquet / {other}: {ratio:.3f}")


def digests(asked: argparse.Namespace) -> None:
    configure(gpus=0)
    data = load(asked)
    examples = data.examples("train")
    files = set().union(*(layer.files_of(examples) for layer in data.layers))
    size = sum(Path(url.removeprefix("file://")).stat().st_size for url in files)
    order = Order(data.groups(examples), PAPER.batch_size, 0, 1)
    trainer = trainer_of(data, asked)
    step = iter(range(10**9))

    def run(*, check: bool, update: bool) -> int:
        if check:
            check_digests(files)
        reader = Reader(data.layers, examples)
        for batch in take(reader.stream(order, examples, 0, 0), asked.epochs * order.steps):
            if update:
                trainer.step(next(step), batch)
        reader.close()
        return asked.epochs * len(examples)

    rates = turns(
        {
            f"{what}{' after a check' if check else ''}": lambda check=check, update=update: run(
                check=check, update=update
            )
            for what, update in (("reading", False), ("training", True))
            for check in (False, True)
        },
        asked.turns,
    )
    width = f", width {asked.width}" if asked.experiment == "sub_deep" else ""
    print(
        f"{asked.experiment}{width}, {len(examples)} train images, {asked.epochs} epochs; {size / 1e6:.0f} MB of files"
    )
    for way, found in rates.items():
        print(f"  {way:23} {statistics.median(found):9.1f} samples/s  ({', '.join(f'{rate:.1f}' for rate in found)})")
    for what in ("reading", "training"):
        pairs = zip(rates[f"{what} after a check"], rates[what], strict=True)
        print(f"  {what} after a check / {what}: {statistics.median(a / b for a, b in pairs):.3f}")


def take(stream: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield next(stream)


def turns(ways: dict[str, Callable[[], int]], count: int) -> dict[str, list[float]]:
    """Samples a second of each way, turn by turn, after one turn that is not counted."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(count + 1):
        for way, run in ways.items():
            began = time.perf_counter()
            samples = run()
            if turn:
                rates[way].append(samples / (time.perf_counter() - began))
    return rates


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


def table_1(asked: argparse.Namespace) -> None:
    import keras

    configure(gpus=0)
    classes, rows = 8, asked.batch
    random = np.random.default_rng(0)
    maps = np.maximum(random.normal(-1, 1, (rows, 8, 8, 2048)), 0).astype(np.float16)
    labels = random.integers(0, classes, rows)
    targets = np.eye(classes, dtype=np.float32)[labels]
    spec = HeadSpec("sub_deep", {"mixed_10": (8, 8, 2048)}, classes, 2048, replace(PAPER, batch_size=rows))
    ours = Trainer(spec, targets=targets, labels=labels, weights=np.ones(classes, np.float32), total_steps=100)
    plain = plain_model("sub_deep", (8, 8, 2048), classes, 2048)
    plain.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
    plain.set_weights([ours.weights()[f"conv{n}/{part}"] for n in range(1, 8) for part in ("kernel", "bias")])
    import tensorflow as tf

    wanted = tf.nn.softmax(plain.predict(maps, verbose=0)).numpy()
    difference = np.abs(ours.predict({"mixed_10": maps})[0] - wanted).max()
    batch = Batch(Take(np.arange(rows), np.arange(rows), rows), {"mixed_10": maps})
    step = iter(range(10**9))
    rates = turns(
        {
            "ours": lambda: (ours.step(next(step), batch), rows)[1],
            "keras": lambda: (plain.train_on_batch(maps, targets), rows)[1],
        },
        asked.turns,
    )
    print(f"Table 1 at full width ({ours.model.count_params():,} parameters), float32, batch {rows}, random features")
    for way, found in rates.items():
        print(f"  {way:6} {statistics.median(found):6.2f} samples/s")
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["keras"], strict=True))
    print(f"  ours / keras: {ratio:.2f}; probabilities differ by at most {difference:.1e}")


def memory(asked: argparse.Namespace) -> None:
    every = len(load(asked, BOTH).examples("train"))
    peaks = {}
    for items in (min(asked.small, every), every):
        command = [sys.executable, __file__, "memory-of-one", asked.store, asked.training_set]
        command += ["--width", str(asked.width), "--items", str(items), "--experiment", asked.experiment]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[items] = json.loads(done.stdout.splitlines()[-1])["peak"]
    for items, peak in peaks.items():
        print(f"  {items:6} train image views: peak of the training process {peak / 1e6:.0f} MB")
    first, last = peaks.values()
    print(f"  difference: {(last - first) / 1e6:.0f} MB")


def memory_of_one(asked: argparse.Namespace) -> None:
    configure(gpus=0)
    data = load(asked, BOTH)
    examples = data.examples("train")[: asked.items]
    reader = Reader(data.layers, examples)
    order = Order(data.groups(examples), PAPER.batch_size, 0, 1)
    trainer = trainer_of(data, asked)
    stream = reader.stream(order, examples, 0, 0)
    for number in range(max(2 * order.steps, 40)):
        trainer.step(number, next(stream))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main()
