"""What a driver gives to its workers, and what they hand in: plain values, without TensorFlow or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ferstore.store.files import StoredFile
from ferstore.store.schema import TableSchema
from ferstore.train.data import TrainingData
from ferstore.train.moments import Moments
from ferstore.train.recipe import PAPER, Recipe
from ferstore.train.request import WIDTH, Experiment


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What decides a head's structure and its first weights.

    Attributes:
        experiment: deepest, sub_deep or fusion.
        shapes: shape of one value by layer name.
        classes: how many.
        width: filters of conv1 to conv3; the paper's are 2,048.
        recipe: its batch_norm, dropout, hidden, fusion, loss, scale and standardise are structure.
        seed: of the first weights.
        precision: Keras dtype policy of all but the logits.
    """

    experiment: Experiment
    shapes: Mapping[str, tuple[int, ...]]
    classes: int
    width: int = WIDTH
    recipe: Recipe = PAPER
    seed: int = 0
    precision: str = "float32"


@dataclass(frozen=True, slots=True)
class Job:
    """All a worker needs, without a store.

    Attributes:
        run_id: of the training.
        data: items and where their features lie.
        spec: the head.
        moments: of the layers, where the recipe standardises.
        folder: URL of the training's own files.
        conv4_schema: where conv4 is saved; None does not save it.
        conv4_folder: URL of its data files.
        checkpoint_seconds: least time between two checkpoints.
        checkpoint_share: most of the time that may go into them: those of large heads come further apart.
        stuck_seconds: a worker that makes no progress for so long ends itself.
    """

    run_id: str
    data: TrainingData
    spec: HeadSpec
    moments: Mapping[str, Moments]
    folder: str
    conv4_schema: TableSchema | None = None
    conv4_folder: str = ""
    checkpoint_seconds: float = 30.0
    checkpoint_share: float = 0.05
    stuck_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One point of a curve."""

    step: int
    epoch: int
    part: str
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one worker hands in.

    Attributes:
        conv4: files it wrote; no snapshot knows them yet.
        curve: every update and validation (rank 0).
        probabilities: float32 (items, classes) of the evaluated parts, NaN elsewhere (rank 0; None where diverged).
        weights: URL of the head's weights (rank 0).
        weights_sha256: their digest.
        steps: updates made.
        best_step: updates made when the kept weights were.
        parameters: trained ones.
        seconds: spent in updates and validations by the last attempt.
        attempts: checkpoints it was started from one after another, 0 for none.
    """

    conv4: tuple[StoredFile, ...]
    curve: tuple[Measured, ...] = ()
    probabilities: npt.NDArray[np.float32] | None = None
    weights: str = ""
    weights_sha256: str = ""
    steps: int = 0
    best_step: int = 0
    parameters: int = 0
    seconds: float = 0.0
    attempts: int = 0


def scores(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Mean cross-entropy against the targets in nats, and accuracy against the labels."""
    log_shares = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    return float(-(targets * log_shares).sum(axis=1).mean()), float((probabilities.argmax(axis=1) == labels).mean())
