"""Mean and deviation of each channel over train, in one pass that holds one batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ferstore.train.data import TrainingData
from ferstore.train.reader import Reader

_BATCH = 128


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one layer.

    Attributes:
        mean: float32 (channels,).
        deviation: float32 (channels,); 1 where a channel never changes.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]


def train_moments(data: TrainingData) -> dict[str, Moments]:
    """Moments of every layer over the train examples, all positions of a map alike, summed in float64."""
    examples = data.examples("train")
    reader = Reader(data.layers, examples)
    sums = {name: np.zeros((2, shape[-1])) for name, shape in data.shapes.items()}
    counts = dict.fromkeys(sums, 0)
    try:
        for batch in reader.once(examples, _BATCH):
            for name, values in batch.features.items():
                flat = values.reshape(-1, values.shape[-1]).astype(np.float32)
                sums[name] += [flat.sum(axis=0, dtype=np.float64), np.einsum("ij,ij->j", flat, flat, dtype=np.float64)]
                counts[name] += len(flat)
    finally:
        reader.close()
    found = {}
    for name, (total, squares) in sums.items():
        mean = total / counts[name]
        deviation = np.sqrt(np.maximum(squares / counts[name] - mean**2, 0))
        deviation[deviation < 1e-6 * np.maximum(1, np.abs(mean))] = 1
        found[name] = Moments(mean.astype(np.float32), deviation.astype(np.float32))
    return found
