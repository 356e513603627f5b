"""Commits of finished shards: in groups, each image view once whoever else is committing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import CorruptionError
from ferstore.extract.identity import Extractor
from ferstore.extract.plan import WorkItem
from ferstore.extract.worker import Failure, ShardResult
from ferstore.store.commit import Change, transact
from ferstore.store.files import StoredFile, write_data_file
from ferstore.store.pin import Pin
from ferstore.store.rows import keys_of_file, read_file, read_rows, replace_rows
from ferstore.store.runs import Run
from ferstore.store.store import Store
from ferstore.store.writer import encode

Key = tuple[str, str]
"""(image_id, view)"""

_GROUP = 8  # shards at least, unless they wait too long
_MOST = 64  # shards at most: while a commit lasts none is handed out, and an actor has one to go on with
_PATIENCE = 10.0  # seconds a finished shard waits at most
_REST = 3.0  # times as long as a commit took: the more shards come, the larger their groups


@dataclass(slots=True)
class Counts:
    """Image views of this run so far."""

    computed: int = 0
    landed_elsewhere: int = 0
    quarantined: int = 0

    def asdict(self) -> dict[str, int]:
        """For a snapshot's summary."""
        return {
            "computed": self.computed,
            "landed_elsewhere": self.landed_elsewhere,
            "quarantined": self.quarantined,
        }


@dataclass(slots=True)
class Committer:
    """Collects finished shards and commits them; the only writer of features in this process.

    Attributes:
        base: the state the plan was made on. Keys committed before it are in no shard; what came after is looked at
            in each commit.
        told: of every commit that landed: its seconds and what it counted.
    """

    store: Store
    run: Run
    extractor: Extractor
    base: Pin
    counts: Counts = field(default_factory=Counts)
    told: Callable[[float, Counts], None] | None = None
    _pending: list[ShardResult] = field(default_factory=list)
    _since: float = 0.0  # when the first shard that waits came
    _ended: float = field(default_factory=time.monotonic)  # when the last commit did
    _cost: float = 0.0  # seconds of it
    _seen: dict[str, int | None] = field(default_factory=dict)  # by layer: all up to this snapshot was looked at
    _looked: dict[str, tuple[int | None, set[str]]] = field(default_factory=dict)  # of the commit that is planned
    _known: dict[str, set[str]] = field(default_factory=dict)
    _foreign: dict[str, set[Key]] = field(default_factory=dict)
    _rewritten: dict[str, tuple[str, set[Key]]] = field(default_factory=dict)  # by the URL of the shard's own file

    def add(self, result: ShardResult) -> None:
        """Take a finished shard; commit when a group is full or has waited long enough."""
        now = time.monotonic()
        if not self._pending:
            self._since = now
        self._pending.append(result)
        rested = now - self._ended >= _REST * self._cost
        full = len(self._pending) >= (_GROUP if rested else _MOST)
        if full or now - self._since > _PATIENCE:
            self.flush()

    def landed(self, item: WorkItem, layers: Sequence[str]) -> bool:
        """Whether another job has committed this item in all layers, as of the last commit; never where none is named.

        A shard that killed its process names none.
        """
        if not layers or not any(self._foreign.values()):
            return False
        return all((item.image_id, item.view) in self._foreign.get(layer, ()) for layer in layers)

    def flush(self) -> None:
        """Commit what is there: features, quarantine and the extractor's row at once, or nothing.

        Raises:
            ConflictError: others kept getting there first.
        """
        results, self._pending = self._pending, []
        if not results:
            return
        planned = Counts()

        def plan(pin: Pin) -> list[Change]:
            nonlocal planned
            planned = Counts()
            self._looked.clear()
            changes, kept, lost = self._features(pin, results)
            failures, needless = self._failures(pin, results)
            planned.computed, planned.quarantined = len(kept), len(failures)
            planned.landed_elsewhere = len(lost) + needless
            if changes or failures:
                changes += self._extractor_row(pin)
            return [*changes, *self._quarantine(pin, failures, kept)]

        counts = sum(len(result.done) for result in results), sum(len(result.failures) for result in results)
        summary = self.run.summary({"computed": counts[0], "quarantined": counts[1]})
        began = time.monotonic()
        transact(self.store, plan, summary, since=self.base)
        self._ended = time.monotonic()
        self._cost = self._ended - began
        self.counts.computed += planned.computed
        self.counts.landed_elsewhere += planned.landed_elsewhere
        self.counts.quarantined += planned.quarantined
        if self.told:
            self.told(self._cost, planned)
        self._seen |= {layer: snapshot for layer, (snapshot, _) in self._looked.items()}
        for result in results:
            for layer, file in zip(result.layers, result.files, strict=False):
                self._known.setdefault(layer, set()).update({file.url, self._rewritten.pop(file.url, (file.url,))[0]})

    def _features(self, pin: Pin, results: Sequence[ShardResult]) -> tuple[list[Change], set[Key], set[Key]]:
        """Files to add, less what others have committed since the plan; the keys that stay, and those that go."""
        kept: set[Key] = set()
        every: set[Key] = set()
        added: dict[str, list[StoredFile]] = {}
        own = self._own(results)
        for result in results:
            keys = [(item.image_id, item.view) for item in result.done]
            every.update(keys)
            for layer, file in zip(result.layers, result.files, strict=False):
                foreign, live = self._others(pin, layer, own)
                earlier, its_keys = self._rewritten.get(file.url, (file.url, set(keys)))
                if earlier in live:  # an earlier attempt landed, and only its answer was lost
                    kept.update(its_keys)
                    continue
                mine = [key not in foreign for key in keys]
                stay = {key for key, stays in zip(keys, mine, strict=True) if stays}
                kept |= stay
                if all(mine):
                    added.setdefault(layer, []).append(file)
                elif stay:
                    rewritten = self._rewrite(layer, file, mine)
                    self._rewritten[file.url] = rewritten.url, stay
                    added.setdefault(layer, []).append(rewritten)
        return [Change(layer, tuple(files)) for layer, files in added.items()], kept, every - kept

    def _failures(self, pin: Pin, results: Sequence[ShardResult]) -> tuple[list[Failure], int]:
        """Items that failed here, and how many more did that another job could compute in all layers meanwhile."""
        own = self._own(results)
        found = []
        every = 0
        for result in results:
            every += len(result.failures)
            for layer in result.layers if result.failures else ():
                self._others(pin, layer, own)
            found += [failure for failure in result.failures if not self.landed(failure.item, result.layers)]
        return found, every - len(found)

    def _own(self, results: Sequence[ShardResult]) -> set[str]:
        return {file.url for result in results for file in result.files} | {url for url, _ in self._rewritten.values()}

    def _planned_on(self, layer: str) -> set[str]:
        """Files the plan has seen; none where that state was vacuumed since, so that all there are will be read."""
        try:
            return {data_file.file_path for data_file in self.base.data_files(layer)}
        except CorruptionError:
            return set()

    def _others(self, pin: Pin, layer: str, own: set[str]) -> tuple[set[Key], set[str]]:
        """Keys committed to a layer since the plan by anyone else, each new file read once; and its files since then.

        The files of snapshots that were looked at before are not listed again, or every commit would cost a little more
        than the one before it.
        """
        foreign = self._foreign.setdefault(layer, set())
        if layer in self._looked:
            return foreign, self._looked[layer][1]
        since = self._seen.get(layer, self.base.snapshots[layer])
        live: set[str] = set()
        if pin.snapshots[layer] != since:
            known = self._known.setdefault(layer, set())
            added = pin.added_since(layer, since)
            if added is None:  # a state that was not only added to, or whose past was vacuumed
                added = pin.data_files(layer)
                known |= self._planned_on(layer)
            live = {data_file.file_path for data_file in added}
            for url in live - known - own:
                ours = keys_of_file(url, self.extractor.extractor_id)
                foreign.update(zip(ours["image_id"].to_pylist(), ours["view"].to_pylist(), strict=True))
                known.add(url)
        self._looked[layer] = pin.snapshots[layer], live
        return foreign, live

    def _rewrite(self, layer: str, file: StoredFile, mine: Sequence[bool]) -> StoredFile:
        schema = self.store.schemas[layer]
        rows = read_file(file.url).cast(schema.arrow()).filter(pa.array(mine))
        return write_data_file(self.store.data_folder(layer), self.run.run_id, encode(schema, rows), len(rows))

    def _extractor_row(self, pin: Pin) -> list[Change]:
        wanted = self.extractor.extractor_id
        if wanted in read_rows(self.store, pin, "extractors", ["extractor_id"])["extractor_id"].to_pylist():
            return []
        row = {name: getattr(self.extractor, name) for name in _EXTRACTOR_COLUMNS}
        rows = pa.Table.from_pylist(
            [{**row, "created_at": datetime.now(UTC)}], schema=self.store.schemas["extractors"].arrow()
        )
        return [replace_rows(self.store, pin, "extractors", rows)]

    def _quarantine(self, pin: Pin, failures: Sequence[Failure], kept: set[Key]) -> list[Change]:
        """Rows for the items that failed; those that succeeded at last leave."""
        schema = self.store.schemas["quarantine"]
        before = self._held(pin)
        now = datetime.now(UTC)
        rows = []
        for failure in failures:
            item = failure.item
            earlier = before.get((item.image_id, item.view))
            rows.append(
                {
                    "stage": "extract",
                    "dataset": item.dataset,
                    "item": item.item_id,
                    "image_id": item.image_id,
                    "source_url": item.urls[0] if item.urls else None,
                    "extractor_id": self.extractor.extractor_id,
                    "view": item.view,
                    "error": failure.error,
                    "attempts": _attempts(earlier, self.run.run_id),
                    "first_seen": earlier["first_seen"] if earlier else now,
                    "run_id": self.run.run_id,
                }
            )
        healed = [row for key, row in before.items() if key in kept or any(_is(row, f) for f in failures)]
        if not rows and not healed:
            return []
        table = pa.Table.from_pylist(rows, schema=schema.arrow())
        removed = pa.Table.from_pylist(healed, schema=schema.arrow()).select(list(schema.key))
        return [replace_rows(self.store, pin, "quarantine", table, removed)]

    def _held(self, pin: Pin) -> Mapping[Key, dict[str, Any]]:
        where = (pc.field("stage") == "extract") & (pc.field("extractor_id") == self.extractor.extractor_id)
        rows = read_rows(self.store, pin, "quarantine", where=where).to_pylist()
        return {(row["image_id"], row["view"]): row for row in rows}


def _attempts(earlier: Mapping[str, Any] | None, run_id: str) -> int:
    """Tries so far. A run tries an item once; its own row is there when only the answer of a commit was lost."""
    if earlier is None:
        return 1
    tries: int = earlier["attempts"]
    return tries if earlier["run_id"] == run_id else tries + 1


def _is(row: Mapping[str, object], failure: Failure) -> bool:
    return (row["image_id"], row["view"]) == (failure.item.image_id, failure.item.view)


_EXTRACTOR_COLUMNS = (
    "extractor_id",
    "weights",
    "weights_kind",
    "weights_sha256",
    "seed",
    "variant",
    "preprocessing",
    "precision",
    "map_dtype",
)
