"""What users do to a store, each with what it must come to: the steps of the state machine.

The code is ferstore's own but for the reading of pictures and the network, in whose place a number stands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import numpy as np
from store_model import Content, Model

from ferstore.errors import FetchError, InputError
from ferstore.extract.committer import Committer
from ferstore.extract.identity import Extractor
from ferstore.extract.plan import Plan, Shard, select_images, shards_left
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _images, _plan
from ferstore.extract.worker import Failure, ShardResult, feature_rows
from ferstore.sources import ingest as ingest_module
from ferstore.sources.item import Duplicate, Entry, Item, Listing
from ferstore.store.commit import erasures
from ferstore.store.compact import compact
from ferstore.store.erase import erase
from ferstore.store.files import write_data_file
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import vacuum
from ferstore.store.writer import encode
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

DATASET = "d"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Operation:
    """Something done to the store.

    Attributes:
        name: for a failure's message.
        run: does it.
        expect: the state that it must make of another.
        refuses: whether it may end in a conflict there, with nothing changed.
    """

    name: str
    run: Callable[[Store], object]
    expect: Callable[[Model], Model]
    refuses: Callable[[Model], bool] = lambda _: False


@dataclass(frozen=True)
class Listed:
    """An item of the data set: its picture (none: it cannot be read), class, person, and whether it is listed twice."""

    picture: int | None
    label: str | None
    subject: str | None
    twice: bool = False


def image_id(picture: int) -> str:
    """The digest that a picture would have."""
    return f"{picture:064x}"


class _Reader:
    """In the place of ingest's: finds what the listing says."""

    listing: Mapping[str, Listed]

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Any]]:
        for entry in entries:
            if isinstance(entry, Duplicate):
                continue
            picture = self.listing[entry.item_id].picture
            if picture is None:
                yield entry, FetchError("broken")
                continue
            found = {"image_id": image_id(picture), "error": None, "width": 8, "height": 8, "mode": "L"}
            yield entry, {**found, "perceptual_hash": f"{picture * 0x0123456789ABCDEF % 2**64:016x}"}


def ingest(listing: Mapping[str, Listed]) -> Operation:
    """Register the data set as it is listed."""
    listing = dict(listing)
    entries: list[Entry] = []
    for item, found in listing.items():
        part = PARTS[int(item) % 3]
        entries.append(Item(item, f"file:///{item}", found.label, None, found.subject, None, part))
        entries += [Duplicate(item, f"file:///{item}", "again")] * found.twice

    began: list[int] = []

    def run(store: Store) -> None:
        began[:] = [erasures(store.pin())]
        found = Listing("folder", "l", "u", (*entries,), (), ())
        reader = type("Reader", (_Reader,), {"listing": listing})
        with (
            mock.patch.object(ingest_module, "open_listing", return_value=found),
            mock.patch.object(ingest_module, "_Reader", reader),
        ):
            report = ingest_module.ingest(store, "folder", "file:///d", name=DATASET)
        stored = report.added + report.changed + report.unchanged
        assert report.listed == len(entries) == stored + report.quarantined + report.duplicates
        assert stored == sum(entry.picture is not None for entry in listing.values())

    def refuses(before: Model) -> bool:
        return began != [before.erasures]

    def expect(before: Model) -> Model:
        if refuses(before):
            return before  # what was read may hold somebody who was erased since
        images, held = dict(before.now.images), dict(before.now.held)
        for item, found in listing.items():
            if found.picture is None:
                held[item] = "broken"
            else:
                images[item] = image_id(found.picture), found.label, found.subject
                held.pop(item, None)
        rows = {(item, image, subject) for item, (image, _, subject) in images.items()}
        return replace(before.but(images=images, held=held), past=before.past | rows)

    return Operation("ingest", run, expect, refuses)


@dataclass
class Job:
    """An extract at work: what it has yet to compute, and what is computed and not committed.

    Attributes:
        erasures: how many there were when it began; after another it may commit nothing.
        known: the store has its row, and whoever looks finds its process.
        endangered: a vacuum may have taken its files for those of a dead job.
    """

    number: int
    extractor: Extractor
    committer: Committer
    plan: Plan
    shards: Iterator[tuple[Shard, int]]
    erasures: int
    known: bool
    endangered: bool = False
    results: list[ShardResult] = field(default_factory=list)

    @staticmethod
    def begin(
        store: Store, number: int, extractor: Extractor, layers: tuple[str, ...], *, retry: bool, known: bool
    ) -> Job:
        """Plan what is missing now."""
        request = ExtractRequest(weights="random", layers=layers, retry_quarantined=retry)
        store = open_store(store.url)
        pin = store.pin()
        wanted = select_images(_images(store, pin, None), request.views)
        plan = _plan(store, request, pin, extractor, wanted)
        run = new_run("extract", {}, extractor_id=extractor.extractor_id)
        committer = Committer(store, run, extractor, pin)
        if known:
            record_run(store, run, "running")
        shards = shards_left(plan, 2, committer.landed, random.Random(number))
        return Job(number, extractor, committer, plan, shards, erasures(pin), known)

    def compute(self, shards: int, failing: set[str]) -> None:
        """Write the files of the next shards, which no table knows."""
        for _, (shard, landed) in zip(range(shards), self.shards, strict=False):
            self.committer.counts.landed_elsewhere += landed
            if not shard.items:
                continue
            done = tuple(item for item in shard.items if item.image_id not in failing)
            failed = tuple(Failure(item, "cannot be computed") for item in shard.items if item.image_id in failing)
            files = []
            for layer in shard.layers if done else ():
                schema = self.committer.store.schemas[layer]
                assert schema.feature is not None
                values = np.zeros((len(done), *schema.feature.shape), np.float32)
                values.reshape(len(done), -1)[:, 0] = self.number
                rows = feature_rows(schema, done, values, self.extractor.extractor_id, datetime.now(UTC))
                folder = self.committer.store.data_folder(layer)
                files.append(write_data_file(folder, self.committer.run.run_id, encode(schema, rows), len(done)))
            self.results.append(ShardResult(shard.layers, tuple(files), done, failed, 0.0))

    def commit(self) -> Operation:
        """Commit what is computed."""
        results: list[ShardResult] = []

        def run(_: Store) -> None:  # it may never come to it
            results[:], self.results = self.results, []
            for result in results:
                self.committer.add(result)
            self.committer.flush()

        return Operation(
            f"commit of job {self.number}",
            run,
            lambda before: self._expect(before, results),
            lambda before: self.endangered or before.erasures != self.erasures,
        )

    def _expect(self, before: Model, results: Sequence[ShardResult]) -> Model:
        if before.erasures != self.erasures and results:
            return before
        extractor = self.extractor.extractor_id
        features, failed = dict(before.now.features), dict(before.now.failed)
        for result in results:
            for item in result.done:
                places = [(layer, extractor, item.image_id) for layer in result.layers]
                if any(place not in features for place in places):
                    failed.pop((extractor, item.image_id), None)
                for place in places:
                    features.setdefault(place, float(self.number))
        for result in results:
            for failure in result.failures:
                key = extractor, failure.item.image_id
                if all((layer, *key) in before.now.features for layer in result.layers):
                    continue  # another job could
                for other in [k for k, item in failed.items() if k[0] == extractor and item == failure.item.item_id]:
                    del failed[other]
                failed[key] = failure.item.item_id
        return before.but(features=features, failed=failed)


def tag(name: str) -> Operation:
    """Name the state as it is."""

    def expect(before: Model) -> Model:
        return replace(before, tags={**before.tags, name: before.now})

    return Operation("tag", lambda store: create_tag(store, name), expect)


def freeze(name: str) -> Operation:
    """Make a training set."""

    def run(store: Store) -> None:
        split(store, SplitRequest(name, DATASET, "official"))

    def expect(before: Model) -> Model:
        found = [
            (item, image, PARTS[int(item) % 3], label) for item, (image, label, _) in before.now.images.items() if label
        ]
        shown = {label for _, _, part, label in found if part != "validation"}
        items = frozenset(item for item in found if item[-1] in shown)
        after = before.but(sets={**before.now.sets, name: items})
        return replace(after, tags={**before.tags, f"training-set {name}": after.now})

    return Operation("split", run, expect)


def may_refuse(operation: Operation) -> Operation:
    """Where bad input is refused, nothing has changed."""
    refused: list[bool] = []

    def run(store: Store) -> None:
        try:
            operation.run(store)
        except InputError:
            refused.append(True)

    expect = lambda before: before if refused else operation.expect(before)  # noqa: E731
    return Operation(operation.name, run, expect, operation.refuses)


def merge() -> Operation:
    """Compact."""
    return Operation("compact", compact, lambda before: before)


def clear(keep: timedelta, grace: timedelta, jobs: Sequence[Job]) -> Operation:
    """Vacuum; without grace, files of jobs that nobody knows to be at work are taken for left over."""

    def run(store: Store) -> None:
        vacuum(store, keep=keep, grace=grace)
        if not grace and not any(job.known for job in jobs):
            for job in jobs:
                job.endangered = True

    def expect(before: Model) -> Model:
        if keep:
            return before
        return replace(before, past=_pictures(before.now, *before.tags.values()))

    return Operation("vacuum", run, expect)


def _pictures(*states: Content) -> frozenset[tuple[str, str, str | None]]:
    """`Model.past` where no other state is kept."""
    return frozenset((item, image, who) for state in states for item, (image, _, who) in state.images.items())


def forget(person: str, jobs: Sequence[Job]) -> Operation:
    """Erase a person."""

    def expect(before: Model) -> Model:
        pictures = frozenset(image for _, image, subject in before.past if subject == person)
        items = frozenset(item for item, image, _ in before.past if image in pictures)
        now = before.now.without(pictures, items)
        tags = {name: content.without(pictures, items) for name, content in before.tags.items()}
        return Model(now, tags, _pictures(now, *tags.values()), before.erasures + 1)

    at_work = any(job.known for job in jobs)
    return Operation("erase", lambda store: erase(store, subject=person), expect, lambda _: at_work)
