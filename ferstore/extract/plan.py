"""What is to be computed, and in which pieces: pure functions of (images, what is committed).

Nothing here reads or writes; the same arguments give the same plan on every machine.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VIEWS = ("identity", "hflip")
_GIB = 1 << 30
ACTOR_MEMORY = 3 * _GIB
"""Memory planned for one CPU actor: TensorFlow, the network, two shards in the making."""
_BATCHES_TO_START = 4


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One view of one image.

    Attributes:
        image_id: SHA-256 of the bytes, hex.
        view: ``identity`` or ``hflip``.
        urls: every place its bytes were ingested from, tried in turn.
        dataset: data set of the first place.
        item_id: item of the first place.
    """

    image_id: str
    view: str
    urls: tuple[str, ...]
    dataset: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Shard:
    """Items computed together and written as one file a layer; what a kill can cost.

    Attributes:
        items: in source order.
        layers: tables to fill.
        kills: how many processes died while this shard alone was in them.
        alone: it is under suspicion and must not share an actor with another.
        failures: how many times it ended in an error.
    """

    items: tuple[WorkItem, ...]
    layers: tuple[str, ...]
    kills: int = 0
    alone: bool = False
    failures: int = 0


Place = tuple[int, int]
"""A group of a plan, and a row of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is missing.

    Attributes:
        groups: for each set of missing layers, the wanted rows (image_id, view, urls, dataset, item_id).
        wanted: image views selected.
        present: of those, the ones with all layers committed.
        quarantined: of those, the ones left out because they failed before.
        beyond_limit: of those, the ones left out by ``--limit``.
    """

    groups: tuple[tuple[tuple[str, ...], pa.Table], ...]
    wanted: int
    present: int
    quarantined: int
    beyond_limit: int

    @property
    def todo(self) -> int:
        """Image views to compute."""
        return sum(len(rows) for _, rows in self.groups)

    @property
    def features(self) -> int:
        """Features to compute: image views times their missing layers."""
        return sum(len(rows) * len(layers) for layers, rows in self.groups)

    def places(self, size: int) -> list[Place]:
        """Where each shard of at most ``size`` items begins."""
        return [(group, at) for group, (_, rows) in enumerate(self.groups) for at in range(0, len(rows), size)]

    def shard(self, place: Place, size: int) -> Shard:
        """The shard at one of `places`."""
        group, at = place
        layers, rows = self.groups[group]
        items = tuple(
            WorkItem(row["image_id"], row["view"], tuple(row["urls"]), row["dataset"], row["item_id"])
            for row in rows.slice(at, size).to_pylist()
        )
        return Shard(items, layers)


def shards_left(
    plan: Plan, size: int, landed: Callable[[WorkItem, Sequence[str]], bool], chance: random.Random
) -> Iterator[tuple[Shard, int]]:
    """All shards less what another job has committed meanwhile.

    It begins anywhere, and where another job has been it goes on anywhere else: two jobs that follow each other through
    the same list would compute all of it twice.

    Args:
        plan: what is missing.
        size: most items of a shard.
        landed: whether an item is committed in all these layers by now.
        chance: makes the places.

    Yields:
        A shard, maybe empty, and how many of its items had landed.
    """
    places = deque(plan.places(size))
    elsewhere = True
    while places:
        if elsewhere:
            places.rotate(-chance.randrange(len(places)))
        shard = plan.shard(places.popleft(), size)
        left = tuple(item for item in shard.items if not landed(item, shard.layers))
        elsewhere = len(left) < len(shard.items)
        yield Shard(left, shard.layers), len(shard.items) - len(left)


def select_images(images: pa.Table, views: Sequence[str]) -> pa.Table:
    """Each distinct image once a view, in source order.

    Args:
        images: rows of ``images`` (image_id, source_url, dataset, item_id).
        views: which of `VIEWS`.

    Returns:
        Table of image_id, view, urls (list), dataset, item_id.
    """
    ordered = images.sort_by([("dataset", "ascending"), ("item_id", "ascending")])
    distinct = ordered.group_by("image_id", use_threads=False).aggregate(
        [("source_url", "list"), ("dataset", "first"), ("item_id", "first")]
    )
    named = distinct.select(["image_id", "source_url_list", "dataset_first", "item_id_first"]).rename_columns(
        ["image_id", "urls", "dataset", "item_id"]
    )
    parts = [named.add_column(1, "view", pa.array([view] * len(named), pa.string())) for view in views]
    return pa.concat_tables(parts)


def plan_missing(
    wanted: pa.Table,
    done: Mapping[str, pa.Table],
    quarantined: pa.Table,
    *,
    limit: int | None = None,
) -> Plan:
    """What is wanted and neither committed nor in quarantine.

    Args:
        wanted: from `select_images`.
        done: for each layer, committed keys (image_id, view) of this extractor.
        quarantined: keys (image_id, view) to leave alone.
        limit: at most so many image views.
    """
    layers = tuple(done)
    missing = np.zeros(len(wanted), dtype=np.int64)
    for bit, layer in enumerate(layers):
        missing |= (~_among(wanted, done[layer])).astype(np.int64) << bit
    incomplete = missing != 0
    held = _among(wanted, quarantined) & incomplete
    todo = np.flatnonzero(incomplete & ~held)
    beyond = max(0, len(todo) - limit) if limit is not None else 0
    todo = todo[: len(todo) - beyond]
    groups = []
    for mask in np.unique(missing[todo]):
        asked = tuple(layer for bit, layer in enumerate(layers) if mask >> bit & 1)
        groups.append((asked, wanted.take(pa.array(todo[missing[todo] == mask]))))
    return Plan(tuple(groups), len(wanted), int((~incomplete).sum()), int(held.sum()), beyond)


def _among(wanted: pa.Table, keys: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which wanted rows have a key in ``keys``; a column at a time, so that ten million rows need no Python objects."""
    found = np.zeros(len(wanted), dtype=bool)
    for view in pc.unique(wanted["view"]):
        mine = pc.is_in(wanted["image_id"], value_set=keys.filter(pc.equal(keys["view"], view))["image_id"])
        found |= np.asarray(pc.and_(pc.equal(wanted["view"], view), mine))
    return found


def shard_size(todo: int, actors: int, batch_size: int, largest: int) -> int:
    """Items of a shard: about sixteen shards an actor, whole batches, so that the end is even and a kill is cheap."""
    even = math.ceil(todo / max(1, 16 * actors))
    return min(
        max(batch_size, largest // batch_size * batch_size), math.ceil(even / batch_size) * batch_size or batch_size
    )


def actor_count(
    asked: int | None, *, todo: int, batch_size: int, cpus: float, gpus: float, gpus_per_actor: float, memory: int
) -> int:
    """Actors to start.

    Args:
        asked: from ``--actors``; None is ``auto``: fill the cluster, but start no actor for less than four batches,
            since each spends seconds to load TensorFlow.
        todo: image views to compute.
        batch_size: images a batch.
        cpus: logical CPUs of the cluster.
        gpus: GPUs of the cluster.
        gpus_per_actor: share of one GPU an actor takes; 0 is a CPU actor.
        memory: bytes of the cluster.

    Returns:
        At least 1.
    """
    if asked is not None:
        return asked
    room = int(gpus / gpus_per_actor) if gpus_per_actor else int(min(cpus, memory / ACTOR_MEMORY))
    return max(1, min(room, useful_actors(todo, batch_size)))


def useful_actors(todo: int, batch_size: int) -> int:
    """Actors that the work is worth, whatever machines there are; at least 1."""
    return max(1, math.ceil(todo / (_BATCHES_TO_START * batch_size)))
