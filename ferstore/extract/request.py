"""What an extract is asked for, and the account it gives."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ferstore.errors import InputError
from ferstore.extract.identity import PRECISIONS, Extractor, Precision
from ferstore.store.schema import feature_layers

VIEWS = ("identity", "hflip")
DEFAULT_LAYERS = ("pool_3", "mixed_10")


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """What ``ferstore extract`` was asked for.

    Attributes:
        dataset: one data set, or None for all images.
        layers: feature tables to fill.
        weights: ``imagenet``, ``random``, or a path or URL.
        weights_sha256: digest the weights must have.
        seed: of random weights.
        precision: arithmetic of the network.
        batch_size: images a call of the network.
        actors: how many; None fills the cluster.
        gpus_per_actor: share of a GPU each takes; 0 runs on CPU.
        views: of `VIEWS`.
        limit: compute at most so many image views.
        retry_quarantined: try again what failed before.
    """

    dataset: str | None = None
    layers: tuple[str, ...] = DEFAULT_LAYERS
    weights: str = "imagenet"
    weights_sha256: str | None = None
    seed: int = 0
    precision: Precision = "float32"
    batch_size: int = 32
    actors: int | None = None
    gpus_per_actor: float = 0.0
    views: tuple[str, ...] = ("identity",)
    limit: int | None = None
    retry_quarantined: bool = False

    def check(self) -> None:
        """Refuse what cannot work, before anything is read.

        Raises:
            InputError: naming the first setting that is wrong.
        """
        _check_names("layer", self.layers, feature_layers())
        _check_names("view", self.views, VIEWS)
        _check_names("precision", (self.precision,), PRECISIONS)
        if not 1 <= self.batch_size <= 4096:
            raise InputError(f"batch size {self.batch_size}", allowed="1 to 4096")
        if self.actors is not None and not 1 <= self.actors <= 100_000:
            raise InputError(f"{self.actors} actors", allowed="auto, or 1 and more")
        if not (0 <= self.gpus_per_actor <= 1 or (float(self.gpus_per_actor).is_integer() and self.gpus_per_actor > 0)):
            raise InputError(f"{self.gpus_per_actor} GPUs an actor", allowed="0, a fraction up to 1, or a whole number")
        if self.precision == "float16" and not self.gpus_per_actor:
            raise InputError(
                "precision float16 without a GPU", allowed="float32 or bfloat16 on CPU", hint="or give --gpus-per-actor"
            )
        if self.limit is not None and self.limit < 0:
            raise InputError(f"limit {self.limit}", allowed="0 and more")


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """The account of one extract.

    ``wanted`` = present + computed + landed_elsewhere + quarantined + held + beyond_limit.

    Attributes:
        extractor: what computed.
        layers: tables filled.
        images: distinct images selected.
        wanted: image views selected.
        present: had all layers before.
        computed: committed by this run.
        landed_elsewhere: computed here too, but another job had committed them first.
        quarantined: failed in this run.
        held: left alone, since they failed before.
        beyond_limit: left out by the limit.
        shards: pieces of work planned.
        nbytes: size of the features planned, before compression.
        actors: it began with, or worked at one time, whichever is more.
        run_id: the run; None where there was nothing to do or it was a dry run.
        seconds: from the first shard handed out to the last commit.
    """

    extractor: Extractor
    layers: tuple[str, ...]
    images: int
    wanted: int
    present: int
    computed: int
    landed_elsewhere: int
    quarantined: int
    held: int
    beyond_limit: int
    shards: int
    nbytes: int
    actors: int
    run_id: str | None
    seconds: float

    @property
    def in_quarantine(self) -> int:
        """Image views selected that have no features because they failed, now or before."""
        return self.quarantined + self.held


def _check_names(kind: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    if not given:
        raise InputError(f"no {kind}", allowed=", ".join(allowed))
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            raise InputError(
                f"unknown {kind} {name!r}", allowed=", ".join(allowed), hint=f"did you mean {near[0]}?" if near else ""
            )
    if len(set(given)) != len(given):
        raise InputError(f"a {kind} given twice: {', '.join(given)}", allowed="each once")
