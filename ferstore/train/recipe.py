"""Recipes: how a head is fitted. Every choice is one field of `Recipe`, checked in one place.

*paper* is what the paper says and nothing else: Adam at 0.01, batches of 100, 6,000 steps, cross-entropy on one class
an image. *modern* is ferstore's: AdamW with warm-up and cosine decay, soft targets where the training set has them,
standardised inputs, a hidden layer, dropout, and an early stop on validation.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from ferstore.errors import InputError

Targets = Literal["hard", "soft"]
Loss = Literal["cross_entropy", "focal", "margin"]
Schedule = Literal["constant", "cosine"]
Fusion = Literal["sum", "mean", "max", "concat"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is fitted.

    Attributes:
        name: ``paper`` or ``modern``, for results; with options changed it is still the one it began as.
        steps: updates; None counts ``epochs`` instead.
        epochs: passes over train; None counts ``steps``.
        batch_size: examples an update sees, over all workers.
        learning_rate: largest, of Adam.
        schedule: what it does after the warm-up: stays, or falls to 0 along a cosine.
        warmup: share of the steps over which it rises from 0.
        weight_decay: of AdamW, per update and learning rate, on kernels only; 0 is plain Adam.
        targets: the item's class, or the training set's soft labels.
        label_smoothing: share of a target spread evenly over all classes.
        class_balance: exponent b of the weights (mean count / count of the class)^b of an example; 0 weighs all alike.
        loss: cross-entropy; focal loss (Lin et al. 2017); additive angular margin (ArcFace, Deng et al. 2019).
        focal_gamma: of the focal loss.
        margin: radians of the angular margin.
        scale: of its cosines.
        standardise: inputs to mean 0 and deviation 1 a channel, as found in train.
        batch_norm: after every convolution of the map head but the last, and every hidden layer.
        dropout: share of activations left out before the layers that follow a feature.
        hidden: units of a layer between features and softmax (deepest and fusion); 0 is none.
        fusion: how conv4 and pool_3 become one vector.
        patience: validations without a better loss until it stops, with the best weights; 0 never stops.
    """

    name: str = "paper"
    steps: int | None = 6000
    epochs: int | None = None
    batch_size: int = 100
    learning_rate: float = 0.01
    schedule: Schedule = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    targets: Targets = "hard"
    label_smoothing: float = 0.0
    class_balance: float = 0.0
    loss: Loss = "cross_entropy"
    focal_gamma: float = 2.0
    margin: float = 0.2
    scale: float = 16.0
    standardise: bool = False
    batch_norm: bool = False
    dropout: float = 0.0
    hidden: int = 0
    fusion: Fusion = "sum"
    patience: int = 0

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the first option that is wrong.
        """
        if self.name not in RECIPES:
            raise InputError(f"recipe {self.name!r}", allowed=", ".join(RECIPES))
        if (self.steps is None) == (self.epochs is None):
            both = "neither --steps nor --epochs" if self.steps is None else "--steps and --epochs together"
            raise InputError(both, allowed="one of them")
        for option, (least, most) in _RANGES.items():
            value = getattr(self, option)
            if value is not None and not least <= value <= most:
                raise InputError(f"{option} {value}", allowed=f"{least:g} to {most:g}")
        for option, kind in get_type_hints(type(self)).items():
            allowed = get_args(kind)
            if isinstance(getattr(self, option), str) and allowed and getattr(self, option) not in allowed:
                raise InputError(f"{option} {getattr(self, option)!r}", allowed=", ".join(allowed))

    def total_steps(self, examples: int) -> int:
        """Updates over that many examples; the last batch of an epoch may be short."""
        return self.steps if self.steps is not None else (self.epochs or 0) * epoch_steps(examples, self.batch_size)

    def learning_rate_at(self, step: int, total: int) -> float:
        """Of the update number ``step``, from 0, of so many."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10**9),
    "epochs": (1, 10**6),
    "batch_size": (1, 65536),
    "learning_rate": (1e-9, 10),
    "warmup": (0, 1),
    "weight_decay": (0, 10),
    "label_smoothing": (0, 0.99),
    "class_balance": (0, 1),
    "focal_gamma": (0, 10),
    "margin": (0, 1.5),
    "scale": (1, 1000),
    "dropout": (0, 0.95),
    "hidden": (0, 65536),
    "patience": (0, 10**6),
}
PAPER = Recipe()
MODERN = Recipe(
    name="modern",
    steps=None,
    epochs=40,
    batch_size=128,
    learning_rate=3e-4,
    schedule="cosine",
    warmup=0.05,
    weight_decay=0.05,
    targets="soft",
    label_smoothing=0.05,
    standardise=True,
    batch_norm=False,
    dropout=0.5,
    hidden=1024,
    patience=10,
)
RECIPES = {recipe.name: recipe for recipe in (PAPER, MODERN)}


def recipe_of(name: str, changes: Sequence[str] = (), *, steps: int | None = None, epochs: int | None = None) -> Recipe:
    """A named recipe with options changed.

    Args:
        name: of `RECIPES`.
        changes: texts ``option=value``.
        steps: instead of its length.
        epochs: instead of its length.

    Raises:
        InputError: no such recipe or option, or a value that it does not take.
    """
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}", allowed=", ".join(RECIPES))
    options = {field.name for field in dataclasses.fields(Recipe)} - {"name", "steps", "epochs"}
    values: dict[str, Any] = {}
    for change in changes:
        option, given, text = change.partition("=")
        option = option.strip().replace("-", "_")
        if not given or option not in options:
            near = difflib.get_close_matches(option, options, 1)
            raise InputError(
                f"--set {change}",
                allowed=f"OPTION=VALUE with OPTION of {', '.join(sorted(options))}",
                hint=f"did you mean {near[0]}?" if near else "",
            )
        values[option] = _parse(option, text.strip())
    if steps is not None or epochs is not None:
        values |= {"steps": steps, "epochs": epochs}
    recipe = replace(RECIPES[name], **values)
    recipe.check()
    return recipe


def _parse(option: str, text: str) -> Any:
    kind = type(getattr(PAPER, option))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise InputError(f"--set {option}={text}", allowed=wanted) from None
    return value


def epoch_steps(examples: int, batch_size: int) -> int:
    """Batches of one pass over so many examples."""
    return -(-examples // batch_size)


def class_weights(counts: npt.NDArray[np.int64], balance: float) -> npt.NDArray[np.float32]:
    """Weight of an example of each class: (mean count / its count)^balance, scaled so that the mean over examples is 1.

    Args:
        counts: examples of each class in train, none of them 0.
        balance: 0 to 1.
    """
    raw = (counts.mean() / counts) ** balance
    return np.asarray(raw * counts.sum() / (raw * counts).sum(), np.float32)


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of 31 bits for one purpose; the same for every version and machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:4], "big") & 0x7FFFFFFF
