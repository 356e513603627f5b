"""``ferstore split``: freeze a training set, and open it again.

A training set is rows (``training_sets``, ``training_set_items``, ``training_set_leaks``) and a tag on the snapshot of
every table at that moment, its own rows included, all made in one commit. The set ``parts`` has the tag
``training-set parts``, which no ingest, extract or vacuum moves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, write_rows
from ferstore.store.runs import Run, new_run, replace_run
from ferstore.store.store import Store
from ferstore.train.protocols import PARTS
from ferstore.train.split_plan import IMAGE_COLUMNS, SplitPlan, SplitRequest, plan_split

_NEEDED = ("images", "training_sets", "training_set_items")  # what a set must find at its tag


@dataclass(frozen=True, slots=True)
class SplitReport:
    """The account of a split.

    Attributes:
        name: of the training set.
        dataset: whose items.
        protocol: official, random or subject.
        labels: majority or soft.
        seed: as asked for.
        folds: how many were made.
        leaks: report, drop or refuse.
        classes: in the order of the soft labels.
        tag: opens the state the set reads.
        counts: ``listed`` items of the data set = ``kept`` + ``no_label`` + ``no_official_split`` +
            ``class_only_in_validation``; among the kept, distinct ``images`` and items ``with_votes``.
        parts: items of each part, fold by fold, after any were dropped.
        leak_counts: items by kind and part, summed over folds, before any was dropped.
        dropped: items left out of train by ``--leaks drop``, summed over folds.
        existed: the same request made this set before; nothing was changed.
        run_id: the run that made it; None in a dry run.
    """

    name: str
    dataset: str
    protocol: str
    labels: str
    seed: int
    folds: int
    leaks: str
    classes: tuple[str, ...]
    tag: str
    counts: Mapping[str, int]
    parts: tuple[Mapping[str, int], ...]
    leak_counts: Mapping[str, Mapping[str, int]]
    dropped: int
    existed: bool
    run_id: str | None


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A frozen training set.

    Attributes:
        name: its name.
        dataset: data set of its items.
        protocol: official, random or subject.
        labels: majority or soft.
        seed: of the split.
        folds: number of folds.
        leaks: report, drop or refuse.
        classes: in the order of the soft labels.
        pin: the state at its tag, its own rows included. Features computed after the split are not in it.
    """

    name: str
    dataset: str
    protocol: str
    labels: str
    seed: int
    folds: int
    leaks: str
    classes: tuple[str, ...]
    pin: Pin = field(repr=False)
    _store: Store = field(repr=False)

    def items(self, fold: int = 0) -> pa.Table:
        """Items of one fold, by item_id: item_id, image_id, part, label, soft_label (float32 over ``classes``).

        Raises:
            InputError: there is no such fold.
        """
        if not 0 <= fold < self.folds:
            raise InputError(f"fold {fold} of training set {self.name!r}", allowed=f"0 to {self.folds - 1}")
        mine = (pc.field("training_set") == self.name) & (pc.field("fold") == fold)
        columns = ["item_id", "image_id", "part", "label", "soft_label"]
        return read_rows(self._store, self.pin, "training_set_items", columns, mine).sort_by("item_id")


def tag_of(name: str) -> str:
    """The tag of a training set. Its space cannot be in a set's name, so no two sets share a tag."""
    return f"training-set {name}"


def split(store: Store, request: SplitRequest, *, dry_run: bool = False) -> SplitReport:
    """Freeze a training set.

    Doing it again changes nothing and says so, also where the data set grew meanwhile.

    Args:
        store: where to.
        request: what.
        dry_run: compute and check everything, but write nothing.

    Raises:
        InputError: the name is taken by another request, its tag is taken, there is no such data set, or the split
            cannot be made of it (see `ferstore.train.split_plan.plan_split`). Nothing was changed.
        ConflictError: other writers kept getting there first.
    """
    request.check()
    run = new_run("split", asdict(request), dataset=request.dataset)
    looked = store.pin()
    first = row, made = _planned(store, looked, request, run)
    if made is None:
        return _report(row, _parts(store, looked, row), existed=True)
    report = _report(row, made.items.select(["fold", "part"]))
    if dry_run:
        return report

    def plan(pin: Pin) -> list[Change]:
        nonlocal report
        row, made = first if pin.snapshots == looked.snapshots else _planned(store, pin, request, run)
        if made is None:
            report = _report(row, _parts(store, pin, row), existed=True)
            return []
        report = replace(_report(row, made.items.select(["fold", "part"])), run_id=run.run_id)
        rows = {
            "training_sets": pa.Table.from_pylist([row], store.schemas["training_sets"].arrow()),
            "training_set_items": _named(made.items, training_set=request.name, dataset=request.dataset),
            "training_set_leaks": _named(made.leaks, training_set=request.name),
        }
        changes = [Change(table, write_rows(store, table, found)) for table, found in rows.items() if len(found)]
        return [*changes, replace_run(store, pin, run, "done", made.counts, None, None)]

    transact(store, plan, run.summary(made.counts), tag=tag_of(request.name))
    return report


def _planned(store: Store, pin: Pin, request: SplitRequest, run: Run) -> tuple[dict[str, Any], SplitPlan | None]:
    """The row of the set, and how it is made; None where it exists.

    Raises:
        InputError: the name or the tag is taken, or the split cannot be made.
    """
    row = _stored(store, pin, request.name)
    if row is None:
        if tag_of(request.name) in pin.tags():
            raise InputError(f"tag {tag_of(request.name)!r} exists and never moves", hint="choose another name")
        plan = plan_split(_images(store, pin, request.dataset), request)
        return _row(request, plan, pin, run), plan
    if row["request"] != request.as_json():
        raise InputError(
            f"training set {request.name!r} exists and never changes; it was made by {row['request']}",
            hint="choose another name",
        )
    return row, None


def open_training_set(store: Store, name: str) -> TrainingSet:
    """Open a training set at the state it was frozen in.

    Raises:
        InputError: there is none of that name, or a snapshot that its tag named is gone.
    """
    pin = store.pin()
    if _stored(store, pin, name) is None:
        known = ", ".join(sorted(read_rows(store, pin, "training_sets", ["name"])["name"].to_pylist()))
        raise InputError(f"no training set {name!r}", allowed=known or "none yet", hint="make it with: ferstore split")
    tagged = pin.tags().get(tag_of(name), {})
    if gone := [t for t in _NEEDED if t not in tagged or pin.tables[t].metadata.snapshot_by_id(tagged[t]) is None]:
        raise InputError(
            f"training set {name!r} reads tag {tag_of(name)!r}, whose snapshot of {', '.join(gone)} is gone",
            hint="make it again under another name: ferstore split",
        )
    frozen = pin.resolve(tag_of(name))
    row = _stored(store, frozen, name)
    if row is None:
        raise InputError(
            f"tag {tag_of(name)!r} names a state without training set {name!r}",
            hint="make it again under another name: ferstore split",
        )
    return TrainingSet(
        **{key: row[key] for key in ("name", "dataset", "protocol", "labels", "seed", "folds", "leaks")},
        classes=tuple(row["classes"]),
        pin=frozen,
        _store=store,
    )


def _images(store: Store, pin: Pin, dataset: str) -> pa.Table:
    images = read_rows(store, pin, "images", list(IMAGE_COLUMNS), pc.field("dataset") == dataset)
    if not len(images):
        known = sorted(set(read_rows(store, pin, "images", ["dataset"])["dataset"].to_pylist()))
        raise InputError(
            f"no data set {dataset!r}", allowed=", ".join(known) or "none yet", hint="add it with: ferstore ingest"
        )
    return images


def _stored(store: Store, pin: Pin, name: str) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = read_rows(store, pin, "training_sets", where=pc.field("name") == name).to_pylist()
    return found[0] if found else None


def _parts(store: Store, pin: Pin, row: Mapping[str, Any]) -> pa.Table:
    return read_rows(store, pin, "training_set_items", ["fold", "part"], pc.field("training_set") == row["name"])


def _row(request: SplitRequest, plan: SplitPlan, pin: Pin, run: Run) -> dict[str, Any]:
    return {
        **asdict(request),
        "folds": plan.folds,
        "classes": list(plan.classes),
        "tag": tag_of(request.name),
        "request": request.as_json(),
        "counts": json.dumps(plan.counts),
        "leak_counts": json.dumps(plan.leak_counts),
        "images_snapshot": pin.snapshots["images"],
        "run_id": run.run_id,
        "created_at": datetime.now(UTC),
    }


def _named(rows: pa.Table, **constants: str) -> pa.Table:
    for name, value in constants.items():
        rows = rows.append_column(name, pa.array([value] * len(rows), pa.string()))
    return rows


def _report(row: Mapping[str, Any], parts: pa.Table, *, existed: bool = False) -> SplitReport:
    """The account of a stored or planned row; ``parts`` has fold and part of each item in it."""
    found = Counter(zip(parts["fold"].to_pylist(), parts["part"].to_pylist(), strict=True))
    counts = json.loads(row["counts"])
    return SplitReport(
        **{key: row[key] for key in ("name", "dataset", "protocol", "labels", "seed", "folds", "leaks", "tag")},
        classes=tuple(row["classes"]),
        counts=counts,
        parts=tuple({str(part): found[fold, part] for part in PARTS} for fold in range(row["folds"])),
        leak_counts=json.loads(row["leak_counts"]),
        dropped=row["folds"] * counts["kept"] - len(parts),
        existed=existed,
        run_id=row["run_id"] if existed else None,
    )
