"""What a training is asked for, and the account it gives."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from ferstore.errors import InputError
from ferstore.store.schema import declared_schemas
from ferstore.train.conv4 import CONV4, CONV4_VALUES
from ferstore.train.recipe import PAPER, RECIPES, Recipe

Experiment = Literal["deepest", "sub_deep", "fusion"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
VIEWS = ("identity", "hflip")
WIDTH = 2048
"""Filters of conv1 to conv3 in the paper."""

_DEFAULT_LAYERS = {"deepest": ("pool_3",), "sub_deep": ("mixed_10",), "fusion": ("pool_3",)}


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What ``ferstore train`` was asked for.

    Attributes:
        experiment: deepest (softmax on vectors), sub_deep (Table 1 on a map) or fusion (conv4 and vectors).
        training_set: name of a frozen split.
        fold: one fold; None trains every fold, one after another.
        recipe: how.
        width: filters of conv1 to conv3; None is the paper's, or for a fusion that of the conv4 it reads.
        layers: features read; empty for the experiment's own. Fusion reads conv4 beside them, or computes it (joint).
        views: of each image, in training; predictions are averaged over them.
        joint: fusion only: fit conv1 to conv4 and the fusion together, from the map.
        conv4: fusion only: run whose conv4 is read; None takes the newest fitting one.
        extractor: id; None takes the newest that has every feature.
        seed: of weights, order and dropout.
        workers: processes that train together.
        gpus_per_worker: GPUs each takes; 0 trains on CPUs.
        precision: Keras dtype policy.
        checkpoint_seconds: least time between two checkpoints; Ray drops those sooner than 2 s after the last.
    """

    experiment: Experiment
    training_set: str
    fold: int | None = None
    recipe: Recipe = PAPER
    width: int | None = None
    layers: tuple[str, ...] = ()
    views: tuple[str, ...] = ("identity",)
    joint: bool = False
    conv4: str | None = None
    extractor: str | None = None
    seed: int = 0
    workers: int = 1
    gpus_per_worker: float = 0.0
    precision: Precision = "float32"
    checkpoint_seconds: float = 30.0

    def check(self) -> None:
        """Refuse what cannot work, before anything is read.

        Raises:
            InputError: naming the first setting that is wrong.
        """
        _one_of("experiment", self.experiment, EXPERIMENTS)
        _one_of("precision", self.precision, get_args(Precision))
        self.recipe.check()
        for name, value, least, most in (
            ("--width", WIDTH if self.width is None else self.width, 1, 65536),
            ("--seed", self.seed, 0, 2**31 - 1),
            ("--workers", self.workers, 1, 10_000),
            ("--gpus-per-worker", self.gpus_per_worker, 0, 1),
            ("--checkpoint-seconds", self.checkpoint_seconds, 3, 86_400),
        ):
            if not least <= value <= most:
                raise InputError(f"{name} {value:g}", allowed=f"{least:g} to {most:g}")
        if self.workers > self.recipe.batch_size:
            raise InputError(
                f"{self.workers} workers for batches of {self.recipe.batch_size}", allowed="at most one an example"
            )
        if self.precision == "mixed_float16" and not self.gpus_per_worker:
            raise InputError(
                "--precision mixed_float16 without a GPU",
                allowed="float32 or mixed_bfloat16 on CPUs",
                hint="or give --gpus-per-worker 1",
            )
        for view in self.views:
            _one_of("view", view, VIEWS)
        if not self.views or len(set(self.views)) != len(self.views):
            raise InputError(f"--views {','.join(self.views)}", allowed=", ".join(VIEWS) + ", each once")
        if self.experiment != "fusion" and (self.joint or self.conv4):
            raise InputError(f"--joint or --conv4 with {self.experiment}", allowed="with fusion")
        if self.joint and self.conv4:
            raise InputError("--joint with --conv4", allowed="one of them: joint computes conv4 itself")
        self._check_layers()

    def _check_layers(self) -> None:
        features = {name: schema.feature for name, schema in declared_schemas().items() if schema.feature}
        for layer in self.layers:
            _one_of("layer", layer, tuple(features))
        if len(set(self.layers)) != len(self.layers):
            raise InputError(f"a layer given twice: {', '.join(self.layers)}", allowed="each once")
        maps = [name for name in self.read_layers if name in features and len(features[name].shape) > 1]
        wanted = 1 if self.experiment == "sub_deep" or self.joint else 0
        if len(maps) != wanted:
            every = ", ".join(name for name, feature in features.items() if len(feature.shape) > 1)
            raise InputError(
                f"{self.experiment} with --layers {','.join(self.read_layers)}: {len(maps)} maps",
                allowed=f"one map of {every}, and vectors" if wanted else "vectors only",
            )
        vectors = [n for n in self.read_layers if n in features and n not in maps]
        if self.experiment == "fusion" and not vectors:
            raise InputError("fusion of conv4 with nothing", allowed="--layers with vectors")
        if self.experiment == "fusion" and self.recipe.fusion != "concat":
            for name in vectors:
                if features[name].shape != (CONV4_VALUES,):
                    raise InputError(
                        f"fusion={self.recipe.fusion} of {name}, which has {features[name].shape[0]} values",
                        allowed=f"vectors of {CONV4_VALUES} values",
                        hint="or give --set fusion=concat",
                    )

    @property
    def read_layers(self) -> tuple[str, ...]:
        """Every feature that is read, conv4 included."""
        layers = self.layers or _DEFAULT_LAYERS[self.experiment]
        if self.joint and not self.layers:
            layers = ("mixed_10", *layers)
        return layers if self.experiment != "fusion" or self.joint else (CONV4, *layers)

    @property
    def settings(self) -> str:
        """What differs from the named recipe and the paper's structure, in a line; empty where nothing does."""
        base = RECIPES[self.recipe.name]
        own, plain = asdict(self.recipe), asdict(base)
        said = [f"{key}={value}" for key, value in own.items() if value != plain[key] and value is not None]
        if self.read_layers != replace(self, layers=()).read_layers:
            said.append(f"layers={'+'.join(self.layers)}")
        if self.views != ("identity",):
            said.append(f"views={'+'.join(self.views)}")
        if self.joint:
            said.append("joint")
        if self.precision != "float32":
            said.append(f"precision={self.precision}")
        return " ".join(said)

    def arguments(self) -> dict[str, Any]:
        """As it is recorded: JSON values, the recipe's name and every option of it."""
        return {
            **asdict(self),
            "recipe": self.recipe.name,
            "options": asdict(self.recipe),
            "settings": self.settings,
            "layers": list(self.read_layers),
        }


def request_of(arguments: Mapping[str, Any]) -> TrainRequest:
    """The request of a recorded run."""
    known = {name: arguments[name] for name in TrainRequest.__slots__ if name in arguments}
    layers = tuple(name for name in arguments["layers"] if name != CONV4)
    own = TrainRequest(arguments["experiment"], arguments["training_set"], joint=arguments["joint"]).read_layers
    recorded = () if layers == tuple(name for name in own if name != CONV4) else layers
    return TrainRequest(
        **{**known, "recipe": Recipe(**arguments["options"]), "layers": recorded, "views": tuple(arguments["views"])}
    )


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The account of one training.

    Attributes:
        run_id: its row in runs; None in a dry run.
        experiment: deepest, sub_deep or fusion.
        training_set: its items.
        fold: of it.
        recipe: name of the recipe.
        settings: what differs from it.
        width: filters of conv1 to conv3, of a fusion those behind its conv4; None where there are none.
        items: by part.
        examples: of train: items times views.
        total_steps: planned.
        steps: made; fewer where it stopped early.
        best_step: whose weights are kept.
        parameters: trained; None in a dry run.
        validation: accuracy and loss of the kept weights, by name; empty without validation items.
        test: the same for test.
        conv4_run: the run whose conv4 was read.
        extractor_id: what computed the features.
        weights: URL of the head's weights.
        weights_kind: of the extractor: random is said wherever results are.
        state: done, or diverged.
        seconds: from the first update to the last.
    """

    run_id: str | None
    experiment: str
    training_set: str
    fold: int
    recipe: str
    settings: str
    width: int | None
    items: Mapping[str, int]
    examples: int
    total_steps: int
    steps: int = 0
    best_step: int = 0
    parameters: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    conv4_run: str | None = None
    extractor_id: str | None = None
    weights: str | None = None
    weights_kind: str | None = None
    state: str = "done"
    seconds: float = 0.0


def for_fold(request: TrainRequest, fold: int) -> TrainRequest:
    """The same request for one fold."""
    return replace(request, fold=fold)


def canonical(request: TrainRequest) -> str:
    """A request as one comparable text."""
    return json.dumps(request.arguments(), sort_keys=True)


def _one_of(what: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        near = difflib.get_close_matches(given, allowed, 1)
        raise InputError(
            f"unknown {what} {given!r}", allowed=", ".join(allowed), hint=f"did you mean {near[0]}?" if near else ""
        )
