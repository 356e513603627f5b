"""What is to be computed, and in which pieces: pure functions of (images, what is committed).

Nothing here reads or writes; the same arguments give the same plan on every machine.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import InputError

_GIB = 1 << 30
ACTOR_MEMORY = 3 * _GIB
"""Memory planned for one CPU actor: TensorFlow, the network, two shards in the making."""
MOST_ITEMS = 50_000_000
"""Rows of ``images`` that one plan takes: about 600 bytes each of the driver's memory."""
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent as columns: a thousand items as objects would take a driver milliseconds each way."""
        return _shard, (columns_of(self.items), self.layers, self.kills, self.alone, self.failures)


def columns_of(items: Sequence[WorkItem]) -> tuple[tuple[Any, ...], ...]:
    """Items as a tuple a field, to be sent."""
    return tuple(zip(*((i.image_id, i.view, i.urls, i.dataset, i.item_id) for i in items), strict=True))


def items_of(columns: tuple[tuple[Any, ...], ...]) -> tuple[WorkItem, ...]:
    """Items from what `columns_of` made of them."""
    return tuple(map(WorkItem, *columns)) if columns else ()


def _shard(columns: tuple[tuple[Any, ...], ...], *rest: Any) -> Shard:
    return Shard(items_of(columns), *rest)


Place = tuple[int, int]
"""A group of a plan, and a row of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is missing.

    Attributes:
        rows: what is wanted (image_id, view, urls, dataset, item_id), in pieces.
        groups: for each set of missing layers, the numbers of their rows, ascending.
        wanted: image views selected.
        present: of those, the ones with all layers committed.
        quarantined: of those, the ones left out because they failed before.
        beyond_limit: of those, the ones left out by ``--limit``.
    """

    rows: tuple[pa.RecordBatch, ...]
    groups: tuple[tuple[tuple[str, ...], npt.NDArray[np.int64]], ...]
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
        return Shard(tuple(self._items(rows[at : at + size])), layers)

    def _items(self, numbers: npt.NDArray[np.int64]) -> Iterator[WorkItem]:
        first = 0
        for piece in self.rows:
            low, high = np.searchsorted(numbers, (first, first + len(piece)))
            if low < high:
                found = piece.take(pa.array(numbers[low:high] - first))
                image_ids, views, urls, datasets, items = (column.to_pylist() for column in found.columns)
                yield from map(WorkItem, image_ids, views, map(tuple, urls), datasets, items)
            first += len(piece)


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
        views: which of `ferstore.extract.request.VIEWS`.

    Returns:
        Table of image_id, view, urls (list), dataset, item_id.

    Raises:
        InputError: there are more than one plan holds.
    """
    if len(images) > MOST_ITEMS:
        raise InputError(
            f"{len(images):,} items in one plan",
            allowed=f"up to {MOST_ITEMS:,}",
            hint="extract one data set at a time: --dataset",
        )
    # Large strings: ten million URLs can be more than the 2 GiB that the offsets of others reach.
    ordered = _in_source_order(images.select(["image_id", "source_url", "dataset", "item_id"]).cast(_ITEMS))
    seen = ordered["image_id"].dictionary_encode()  # numbers digests as they are met
    numbers = np.concatenate([np.asarray(chunk.indices) for chunk in seen.chunks] or [np.empty(0, np.int32)])
    fresh = np.ones(len(numbers), bool)
    fresh[1:] = numbers[1:] > np.maximum.accumulate(numbers)[:-1]
    distinct = int(fresh.sum())
    if distinct == len(ordered):
        urls = pa.chunked_array(
            [pa.LargeListArray.from_arrays(np.arange(len(c) + 1), c) for c in ordered["source_url"].chunks], _URLS
        )
    else:
        together = ordered["source_url"].take(pa.array(np.argsort(numbers, kind="stable"))).combine_chunks()
        bounds = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=distinct))])
        urls = pa.chunked_array([pa.LargeListArray.from_arrays(bounds, together)])
        ordered = ordered.filter(pa.array(fresh))
    named = ordered.select(["image_id", "dataset", "item_id"]).add_column(1, "urls", urls)
    parts = [named.add_column(1, "view", pa.repeat(pa.scalar(view, pa.string()), len(named))) for view in views]
    return pa.concat_tables(parts)


_ITEMS = pa.schema([(name, pa.large_string()) for name in ("image_id", "source_url", "dataset", "item_id")])
_URLS = pa.large_list(pa.large_string())


def _in_source_order(images: pa.Table) -> pa.Table:
    """Sorted by data set and item, as an ingest leaves them, so that mostly there is nothing to do."""
    before, after = images.slice(0, max(0, len(images) - 1)), images.slice(1)
    rises = pc.or_(
        pc.greater(after["dataset"], before["dataset"]),
        pc.and_(pc.equal(after["dataset"], before["dataset"]), pc.greater_equal(after["item_id"], before["item_id"])),
    )
    return (
        images
        if pc.all(rises, min_count=0).as_py()
        else images.sort_by([("dataset", "ascending"), ("item_id", "ascending")])
    )


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
        groups.append((asked, todo[missing[todo] == mask]))
    return Plan(
        tuple(wanted.to_batches()), tuple(groups), len(wanted), int((~incomplete).sum()), int(held.sum()), beyond
    )


def _among(wanted: pa.Table, keys: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which wanted rows have a key in ``keys``; a column at a time, so that ten million rows need no Python objects."""
    found = np.zeros(len(wanted), dtype=bool)
    for view in pc.unique(keys["view"]):
        rows = np.flatnonzero(pc.equal(wanted["view"], view))
        if not len(rows):
            continue
        asked = wanted["image_id"].slice(rows[0], len(rows))  # views follow each other
        known = keys.filter(pc.equal(keys["view"], view))["image_id"].cast(asked.type)
        found[rows] = np.asarray(pc.is_in(asked, value_set=known))
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
