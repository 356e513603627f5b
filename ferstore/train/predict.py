"""Classify features with the weights that a training left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ferstore.errors import CorruptionError, FerstoreError, InputError
from ferstore.store.files import filesystem
from ferstore.store.store import Store
from ferstore.train.conv4 import CONV4
from ferstore.train.job import HeadSpec
from ferstore.train.past import PastRun, find_run
from ferstore.train.request import WIDTH, TrainRequest, request_of

Features = Mapping[str, Mapping[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a head makes of one image.

    Attributes:
        url: the image.
        predicted: the likeliest class; None where the image could not be read.
        probabilities: by class, mean over the views of the training.
        error: why it could not be read.
    """

    url: str
    predicted: str | None
    probabilities: Mapping[str, float]
    error: str | None = None


class Classifier:
    """A trained head, with the head whose conv4 it reads before it.

    Args:
        store: where the training is.
        run_id: the training.

    Raises:
        InputError: no such training, or it left no weights.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        run = find_run(store, run_id)
        if run.state != "done":
            raise InputError(
                f"training {run_id} is {run.state} and left no weights",
                hint="list trainings that are done with: ferstore runs",
            )
        self._store = store
        self._run = run
        self._request: TrainRequest = request_of(run.arguments)
        conv4_run = run.details["conv4_run"]
        self._before = find_run(store, conv4_run) if conv4_run else None
        self._heads: list[tuple[PastRun, Any]] = []

    @property
    def extractor_id(self) -> str | None:
        """What computes the features it reads."""
        return self._run.extractor_id

    @property
    def views(self) -> tuple[str, ...]:
        """Views it averages over."""
        return self._request.views

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return tuple(self._run.details["classes"])

    @property
    def layers(self) -> tuple[str, ...]:
        """Features of an image that it needs; conv4 is computed from the others."""
        runs = [self._run] + ([self._before] if self._before else [])
        return tuple(dict.fromkeys(name for run in runs for name in run.details["shapes"] if name != CONV4))

    def classify(self, url: str, features: Features) -> Prediction:
        """Classify one image.

        Args:
            url: the image, for the record.
            features: float32 (*shape) by view and layer.

        Raises:
            CorruptionError: the weights, read at the first image, differ from their digest.
        """
        shares = np.mean([self._probabilities(features[view]) for view in self.views], axis=0)
        named = dict(zip(self.classes, map(float, shares), strict=True))
        return Prediction(url, self.classes[int(shares.argmax())], named)

    def failed(self, url: str, error: FerstoreError) -> Prediction:
        """What is said of an image that could not be read."""
        return Prediction(url, None, {}, error.problem)

    def _probabilities(self, features: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        if not self._heads:
            self._heads = [(run, load_head(run)) for run in (self._before, self._run) if run]
        given = {name: as_stored(self._store, name, values)[np.newaxis] for name, values in features.items()}
        for run, head in self._heads:
            outputs = head({name: given[name] for name in run.details["shapes"]}, training=False)
            if "conv4" in outputs:
                given[CONV4] = np.asarray(outputs["conv4"], np.float32)
        import tensorflow as tf

        shares: npt.NDArray[np.float32] = np.asarray(tf.nn.softmax(outputs["logits"]))[0]
        return shares


def as_stored(store: Store, name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """A feature rounded as its table rounds it, so that a stored image gets the same answer."""
    feature = store.schemas[name].feature
    with np.errstate(over="ignore"):
        return values.astype(np.float16) if feature and not feature.pool and feature.dtype == "float16" else values


def spec_of(run: PastRun) -> HeadSpec:
    """The head that a training fitted."""
    request = request_of(run.arguments)
    shapes: dict[str, Sequence[int]] = run.details["shapes"]
    return HeadSpec(
        request.experiment,
        {name: tuple(shape) for name, shape in shapes.items()},
        len(run.details["classes"]),
        request.width or WIDTH,
        request.recipe,
        request.seed,
        request.precision,
    )


def load_head(run: PastRun) -> Any:
    """The head with the weights that a training left, a ``keras.Model`` as `heads.build` gives it.

    Raises:
        CorruptionError: the weights cannot be read, or differ from their digest.
    """
    from ferstore.train.heads import build
    from ferstore.train.state import unpack
    from ferstore.train.trainer import assign

    url, digest = run.details["weights"], run.details["weights_sha256"]
    try:
        data: bytes = filesystem(url).cat_file(url)
    except OSError as error:
        raise CorruptionError(
            f"weights of training {run.run_id} cannot be read: {error}", hint="train again"
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptionError(f"{url} differs from its digest", hint="train again")
    head = build(spec_of(run))
    assign(head.variables, unpack(data))
    return head
