"""``ferstore ingest``: every listed item becomes a row of ``images`` or of ``quarantine``; the account is checked."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import DecodeError, FerstoreError, FetchError, InputError
from ferstore.image.archive import SUFFIXES
from ferstore.image.fetch import Fetcher
from ferstore.image.location import redact
from ferstore.image.probe import Prober
from ferstore.progress import Progress, Silent
from ferstore.sources import open_listing
from ferstore.sources.folder import TABLE_SUFFIXES
from ferstore.sources.item import Duplicate, Expectation, Item, Listing, Refused
from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, replace_rows
from ferstore.store.runs import new_run, replace_run
from ferstore.store.store import Store

_READERS = 4  # each with a decoding process, whose memory `ferstore.image.probe.MEMORY` bounds
_COMPARED = (
    "image_id",
    "source_url",
    "subject",
    "sequence",
    "label",
    "votes",
    "official_split",
    "width",
    "height",
    "mode",
    "perceptual_hash",
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class IngestReport:
    """The account of one ingest: ``listed`` = added + changed + unchanged + quarantined + duplicates.

    Attributes:
        dataset: its name in the store.
        kind: which loader.
        layout: which of the loader's layouts was found.
        listed: entries the data set lists.
        added: new rows of ``images``.
        changed: rows whose content or label differs from before; the old ones stay in earlier snapshots.
        unchanged: rows as before.
        quarantined: entries that could not be read or decoded, earlier ones still in that state included.
        duplicates: entries listed again with the same content, declared and not stored.
        images: distinct contents among the stored rows.
        same_bytes: stored rows that share their content with an earlier one.
        no_longer_listed: rows of ``images`` from earlier ingests that this listing lacks; they stay.
        ignored: names of files that are not items.
        labels: stored rows by class; "" counts those without one.
        expected: published counts beside those found.
        errors: the first few quarantined entries with their reasons.
        run_id: the run; None where nothing changed.
    """

    dataset: str
    kind: str
    layout: str
    listed: int
    added: int
    changed: int
    unchanged: int
    quarantined: int
    duplicates: int
    images: int
    same_bytes: int
    no_longer_listed: int
    ignored: tuple[str, ...]
    labels: Mapping[str, int]
    expected: tuple[Expectation, ...]
    errors: tuple[tuple[str, str], ...]
    run_id: str | None


def ingest(
    store: Store,
    kind: str,
    url: str,
    *,
    name: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    log: IO[bytes] | None = None,
) -> IngestReport:
    """Register a data set's images and labels.

    Doing it again changes nothing; a data set that grew adds what is new; a changed label or file is an update.

    Args:
        store: where to.
        kind: ``ferplus``, ``ckplus``, ``jaffe`` or ``folder``.
        url: folder, archive or table, on any fsspec URL.
        name: name of the data set; the kind (folder: the folder's name) unless given.
        dry_run: read and compare, but write nothing.
        progress: told of every item.
        log: where decoding libraries may write.

    Raises:
        SourceError: not a data set of that kind; nothing was changed.
        InputError: an impossible name, or nothing to register.
        ConflictError: other writers kept getting there first, or somebody was erased while the items were read.
    """
    progress = progress or Silent()
    listing = open_listing(kind, url)
    dataset = _dataset_name(name if name is not None else default_name(kind, listing.url))
    if not listing.entries:
        raise InputError(f"{redact(url)} lists no images", hint="check the path and the kind of data set")
    duplicates = sum(isinstance(entry, Duplicate) for entry in listing.entries)
    progress.start(f"ingest {dataset}", len(listing.entries) - duplicates)
    base = store.pin()
    rows, errors = _read_all(dataset, listing, progress, log)
    if len(rows) + len(errors) + duplicates != len(listing.entries):
        raise FerstoreError(
            f"{len(listing.entries)} entries listed, {len(rows)} read, {len(errors)} failed, {duplicates} duplicates",
            hint="this is a fault of ferstore; nothing was stored",
        )
    run = new_run("ingest", {"kind": kind, "url": redact(url), "name": dataset}, dataset=dataset)
    planned = _compare(store, store.pin(), dataset, rows, errors, run.run_id)
    if not dry_run and planned.writes:

        def plan(pin: Pin) -> list[Change]:
            nonlocal planned
            planned = _compare(store, pin, dataset, rows, errors, run.run_id)
            if not planned.writes:  # another ingest was quicker
                return []
            done = replace_run(store, pin, run, "done", planned.counts(duplicates), None, None)
            return [*planned.changes(store, pin), done]

        transact(store, plan, run.summary(planned.counts(duplicates)), since=base)
    distinct = len({row["image_id"] for row in rows})
    return IngestReport(
        dataset=dataset,
        kind=kind,
        layout=listing.layout,
        listed=len(listing.entries),
        added=len(planned.added),
        changed=len(planned.changed),
        unchanged=planned.unchanged,
        quarantined=len(errors),
        duplicates=duplicates,
        images=distinct,
        same_bytes=len(rows) - distinct,
        no_longer_listed=planned.no_longer_listed,
        ignored=listing.ignored,
        labels=dict(sorted(Counter(row["label"] or "" for row in rows).items())),
        expected=listing.expected,
        errors=tuple((row["item"], row["error"]) for row in errors[:5]),
        run_id=run.run_id if planned.writes and not dry_run else None,
    )


def default_name(kind: str, url: str) -> str:
    """The name of a data set that was given none: its kind, or the last part of the URL of a folder or file.

    An archive's or a table's suffix is left out; a folder's dots stay, since ``v1.2`` and ``v1.3`` are two sets.
    """
    if kind != "folder":
        return kind
    last = url.split("::")[-1].partition("://")[2].rstrip("/").rsplit("/", 1)[-1]
    suffixes = sorted((*SUFFIXES, *TABLE_SUFFIXES), key=len, reverse=True)
    suffix = next((suffix for suffix in suffixes if last.casefold().endswith(suffix)), "")
    return last[: len(last) - len(suffix)] or "folder"


def _dataset_name(name: str) -> str:
    if not name.strip() or len(name) > 200 or not name.isprintable():  # nor half a surrogate or a turned direction
        raise InputError(f"data set name {name!r}", allowed="1 to 200 printable characters", hint="give --name")
    return name


@dataclass(frozen=True, slots=True)
class _Comparison:
    added: Sequence[Row]
    changed: Sequence[Row]
    unchanged: int
    no_longer_listed: int
    quarantine: Sequence[Row]
    healed: Sequence[Row]
    quarantined: int

    @property
    def writes(self) -> bool:
        return bool(self.added or self.changed or self.quarantine or self.healed)

    def counts(self, duplicates: int) -> dict[str, int]:
        return {
            "added": len(self.added),
            "changed": len(self.changed),
            "unchanged": self.unchanged,
            "quarantined": self.quarantined,
            "duplicates": duplicates,
        }

    def changes(self, store: Store, pin: Pin) -> list[Change]:
        now = datetime.now(UTC)
        images, quarantine = store.schemas["images"], store.schemas["quarantine"]
        rows = pa.Table.from_pylist(
            [{**row, "ingested_at": now} for row in (*self.added, *self.changed)], images.arrow()
        )
        held = pa.Table.from_pylist(list(self.quarantine), quarantine.arrow())
        healed = pa.Table.from_pylist(list(self.healed), quarantine.arrow()).select(list(quarantine.key))
        changes = []
        if len(rows):
            changes.append(replace_rows(store, pin, "images", rows))
        if len(held) or len(healed):
            changes.append(replace_rows(store, pin, "quarantine", held, healed))
        return changes


def _compare(
    store: Store, pin: Pin, dataset: str, rows: Sequence[Row], errors: Sequence[Row], run_id: str
) -> _Comparison:
    """What the store lacks of these rows; pure but for reading the pinned state."""
    mine = pc.field("dataset") == dataset
    columns = ["item_id", *_COMPARED]
    before = {row["item_id"]: row for row in read_rows(store, pin, "images", columns, mine).to_pylist()}
    held = read_rows(store, pin, "quarantine", where=mine & (pc.field("stage") == "ingest")).to_pylist()
    held_by_item = {row["item"]: row for row in held}
    added = [row for row in rows if row["item_id"] not in before]
    changed = [
        row
        for row in rows
        if (old := before.get(row["item_id"])) and any(old[column] != row[column] for column in _COMPARED)
    ]
    quarantine = []
    now = datetime.now(UTC)
    for error in errors:
        old = held_by_item.get(error["item"])
        if old is None or old["error"] != error["error"] or old["image_id"] != error["image_id"]:
            quarantine.append(
                {
                    **error,
                    "attempts": old["attempts"] + 1 if old else 1,
                    "first_seen": old["first_seen"] if old else now,
                    "run_id": run_id,
                }
            )
    fine = {row["item_id"] for row in rows}
    listed = fine | {error["item"] for error in errors}
    return _Comparison(
        added=added,
        changed=changed,
        unchanged=len(rows) - len(added) - len(changed),
        no_longer_listed=len(before.keys() - listed),
        quarantine=quarantine,
        healed=[row for row in held if row["item"] in fine],
        quarantined=len(errors),
    )


def _read_all(dataset: str, listing: Listing, progress: Progress, log: IO[bytes] | None) -> tuple[list[Row], list[Row]]:
    """Rows for ``images`` and for ``quarantine``, in listing order."""
    rows: list[Row] = []
    errors: list[Row] = []
    with _Reader(log, listing.url) as reader:
        for entry, found in reader.read(listing.entries):
            if isinstance(found, FerstoreError):
                errors.append(_error_row(dataset, entry, None, found.problem))
            elif isinstance(found["error"], str):
                errors.append(_error_row(dataset, entry, found["image_id"], found["error"]))
            else:
                assert isinstance(entry, Item)  # noqa: S101  only items are read
                rows.append(_image_row(dataset, entry, found))
            progress.advance(1)
    return rows, errors


def _image_row(dataset: str, item: Item, found: Row) -> Row:
    return {
        "dataset": dataset,
        "item_id": item.item_id,
        "source_url": item.url,
        "subject": item.subject,
        "sequence": item.sequence,
        "label": item.label,
        "votes": list(item.votes) if item.votes is not None else None,
        "official_split": item.official_split,
        **{name: found[name] for name in ("image_id", "width", "height", "mode", "perceptual_hash")},
    }


def _error_row(dataset: str, entry: Item | Refused, image_id: str | None, error: str) -> Row:
    return {
        "stage": "ingest",
        "dataset": dataset,
        "item": entry.item_id,
        "image_id": image_id,
        "source_url": redact(entry.url),
        "extractor_id": None,
        "view": None,
        "error": error,
    }


class _Reader:
    """Reads and probes items in a few threads, each with a decoding process of its own."""

    def __init__(self, log: IO[bytes] | None, listed_in: str) -> None:
        self._log = log
        self._fetcher = Fetcher(listed_in=listed_in)
        self._mine = threading.local()
        self._probers: list[Prober] = []
        self._threads = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), thread_name_prefix="ingest")

    def read(
        self, entries: Sequence[Item | Refused | Duplicate]
    ) -> Iterator[tuple[Item | Refused, Row | FerstoreError]]:
        """Each entry but duplicates, with what was found, in order."""
        wanted = [entry for entry in entries if not isinstance(entry, Duplicate)]
        for start in range(0, len(wanted), 1024):  # so that a million futures never wait at once
            part = wanted[start : start + 1024]
            yield from zip(part, self._threads.map(self._read, part), strict=True)

    def _read(self, entry: Item | Refused) -> Row | FerstoreError:
        if isinstance(entry, Refused):
            return FetchError(entry.error)
        try:
            data = self._fetcher.read(entry.url)
        except FetchError as error:
            return error
        found: Row = {"image_id": hashlib.sha256(data).hexdigest(), "error": None}
        try:
            probe = self._prober().probe(data)
        except DecodeError as error:
            return {**found, "error": str(error)}
        return {
            **found,
            "width": probe.width,
            "height": probe.height,
            "mode": probe.mode,
            "perceptual_hash": probe.perceptual_hash,
        }

    def _prober(self) -> Prober:
        if not hasattr(self._mine, "prober"):
            self._mine.prober = Prober(self._log) if self._log else Prober()
            self._probers.append(self._mine.prober)
        prober: Prober = self._mine.prober
        return prober

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for prober in self._probers:
            prober.close()
        self._fetcher.close()
