"""What was learned from: data sets, the splits of them, and what lies on both sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ferstore.query.session import Session
from ferstore.report.asking import among, ask

PARTS = ("train", "validation", "test")
KINDS = ("same_bytes", "same_hash", "near_duplicate", "same_subject")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set as it is in ``images``.

    Attributes:
        kind: loader of its last ingest; None where no run says so.
        items: rows.
        images: distinct contents.
        labelled: rows with a class.
        classes: distinct ones.
        subjects: distinct people named.
        quarantined: items that could not be read, decoded or computed.
    """

    dataset: str
    kind: str | None
    items: int
    images: int
    labelled: int
    classes: int
    subjects: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Span:
    """Fewest and most over the folds."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,} to {self.high:,}"


@dataclass(frozen=True, slots=True)
class Leak:
    """Items of one part with a counterpart on the other side, summed over folds."""

    kind: str
    part: str
    found: int
    left: int


@dataclass(frozen=True, slots=True)
class Split:
    """A training set.

    Attributes:
        sizes: items by part.
        by_class: items by class, then by part.
        kept: of its data set's items.
        listed: items of the data set when it was made.
        leaks: every kind and part that has any; ``left`` is 0 where they were dropped from train.
        commonest: class of most test items; empty without any.
        commonest_share: accuracy of always answering it, over the test items of all folds; None without any.
    """

    name: str
    dataset: str
    protocol: str
    labels: str
    seed: int
    folds: int
    leaks_policy: str
    tag: str
    images_snapshot: int
    classes: tuple[str, ...]
    kept: int
    listed: int
    sizes: dict[str, Span]
    by_class: dict[str, dict[str, Span]]
    leaks: tuple[Leak, ...]
    commonest: str
    commonest_share: float | None


def find_data_sets(session: Session, only: Sequence[str] | None) -> tuple[DataSet, ...]:
    """Data sets in alphabetical order; some of them, or all."""
    which = among("i.dataset", only) if only is not None else "true"
    rows = ask(
        session,
        f"""with kinds as (
                select dataset, arg_max(arguments ->> 'kind', started_at) as kind
                from runs where command = 'ingest' group by dataset
            ), refused as (select dataset, count(distinct item) as items from quarantine group by dataset)
            select i.dataset, any_value(k.kind) as kind, count(*) as items, count(distinct i.image_id) as images,
                count(i.label) as labelled, count(distinct i.label) as classes, count(distinct i.subject) as subjects,
                coalesce(any_value(r.items), 0) as quarantined
            from images i left join kinds k on k.dataset = i.dataset left join refused r on r.dataset = i.dataset
            where {which} group by i.dataset order by i.dataset""",  # noqa: S608  names are quoted
    )
    return tuple(DataSet(**row) for row in rows)


def find_splits(session: Session, only: str | None) -> tuple[Split, ...]:
    """Training sets by data set and name; one of them, or all."""
    which = among("name", [only]) if only is not None else "true"
    found = []
    for row in ask(session, f"from training_sets where {which} order by dataset, name"):
        counts = json.loads(row["counts"])
        by_class = _by_class(session, row["name"], row["classes"], row["folds"])
        own = ("name", "dataset", "protocol", "labels", "seed", "folds", "tag", "images_snapshot")
        found.append(
            Split(
                **{name: row[name] for name in own},
                leaks_policy=row["leaks"],
                classes=tuple(row["classes"]),
                kept=counts.get("kept", 0),
                listed=counts.get("listed", 0),
                sizes=_sizes(session, row["name"]),
                by_class=by_class,
                leaks=_leaks(session, row["name"]),
                **_commonest(session, row["name"]),
            )
        )
    return tuple(found)


def _commonest(session: Session, name: str) -> dict[str, Any]:
    rows = ask(
        session,
        f"""select label as commonest, count(*) / sum(count(*)) over () as commonest_share from training_set_items
            where part = 'test' and {among("training_set", [name])}
            group by label order by 2 desc, 1 limit 1""",  # noqa: S608
    )
    return rows[0] if rows else {"commonest": "", "commonest_share": None}


def _sizes(session: Session, name: str) -> dict[str, Span]:
    rows = ask(
        session,
        f"""select part, min(items) as low, max(items) as high
            from (select fold, part, count(*) as items from training_set_items
                  where {among("training_set", [name])} group by all)
            group by part""",  # noqa: S608
    )
    found = {row["part"]: Span(row["low"], row["high"]) for row in rows}
    return {part: found.get(part, Span(0, 0)) for part in PARTS}


def _by_class(session: Session, name: str, classes: Sequence[str], folds: int) -> dict[str, dict[str, Span]]:
    rows = ask(
        session,
        f"""select part, label, list(items) as items
            from (select fold, part, label, count(*) as items from training_set_items
                  where {among("training_set", [name])} group by all)
            group by all""",  # noqa: S608
    )
    counts = {(row["label"], row["part"]): row["items"] for row in rows}

    def span(label: str, part: str) -> Span:
        mine = counts.get((label, part), [])
        low = min(mine, default=0) if len(mine) >= folds else 0  # a fold without any has no row
        return Span(low, max(mine, default=0))

    return {label: {part: span(label, part) for part in PARTS} for label in classes}


def _leaks(session: Session, name: str) -> tuple[Leak, ...]:
    mine = among("training_set", [name])
    rows = ask(
        session,
        f"""with found as (
                select kind, part, count(*) as items from training_set_leaks where {mine} group by all
            ), remaining as (select kind, part, count(*) as items from leakage where {mine} group by all)
            select f.kind, f.part, f.items as found, coalesce(r.items, 0) as "left"
            from found f left join remaining r on r.kind = f.kind and r.part = f.part""",  # noqa: S608
    )
    return tuple(
        sorted((Leak(**row) for row in rows), key=lambda leak: (_place(KINDS, leak.kind), _place(PARTS, leak.part)))
    )


def _place(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)
