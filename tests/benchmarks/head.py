"""One update of the paper's Table 1 at full width on a CPU, against the same stack of ``keras.layers.Conv2D``.

The same weights, the same random features as sparse as real maps, float32. Both in one process, turn by turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import numpy as np

from ferstore.train.job import HeadSpec
from ferstore.train.order import Take
from ferstore.train.reader import Batch
from ferstore.train.recipe import PAPER
from ferstore.train.trainer import Trainer, configure
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.training import plain_model
from tests.benchmarks.turns import rates

CLASSES = 8


def rows(inputs: Inputs) -> Iterator[Row]:
    """Outputs, then speed."""
    import keras

    configure(gpus=0)
    width, size = inputs.of(quick=64, normal=2048, full=2048), inputs.of(quick=4, normal=16, full=100)
    random = np.random.default_rng(0)
    maps = np.maximum(random.normal(-1, 1, (size, 8, 8, 2048)), 0).astype(np.float16)
    labels = random.integers(0, CLASSES, size)
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    spec = HeadSpec("sub_deep", {"mixed_10": (8, 8, 2048)}, CLASSES, width, replace(PAPER, batch_size=size))
    ours = Trainer(spec, targets=targets, labels=labels, weights=np.ones(CLASSES, np.float32), total_steps=100)
    plain = plain_model("sub_deep", (8, 8, 2048), CLASSES, width)
    plain.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
    plain.set_weights([ours.weights()[f"conv{n}/{part}"] for n in range(1, 8) for part in ("kernel", "bias")])
    fourth = keras.Model(plain.inputs, plain.layers[3].output)
    expected = fourth.predict(maps, verbose=0).reshape(size, -1)
    found = ours.predict({"mixed_10": maps})[1]
    assert found is not None
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    what = f"Table 1 at width {width}"
    yield Row(
        f"{what}: largest difference of conv4 to Keras's layers, of the largest value", (off,), (), "", 1e-4, False
    )
    batch = Batch(Take(np.arange(size), np.arange(size), size), {"mixed_10": maps})
    numbers = count()
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: (ours.step(next(numbers), batch), size)[1],
        "keras": lambda: (plain.train_on_batch(maps, targets), size)[1],
    }
    measured = rates(ways, inputs.turns, warm=2)
    note = f"{ours.model.count_params():,} parameters, batches of {size}, float32, random features"
    yield Row(
        f"{what}: one update against Keras's layers", measured["ours"], measured["keras"], "samples/s", 2.0, note=note
    )
