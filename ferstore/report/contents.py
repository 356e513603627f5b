"""All that one page says, as plain values: what is read from the store ends here, and what is drawn begins here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ferstore.errors import InputError
from ferstore.query.session import Session
from ferstore.report.asking import among, ask
from ferstore.report.entries import PAPER_WIDTH, Entry, Lineup, find_entries, line_up
from ferstore.report.lineage import Health, Lineage, find_health, find_lineage
from ferstore.report.results import Result, find_result
from ferstore.report.splits import DataSet, Split, find_data_sets, find_splits
from ferstore.report.thumbnails import Thumbnail, thumbnails
from ferstore.report.versus import Versus, compare

SHOWN = 150
"""Fixed items, and broken ones, that a page lists of one comparison; a CSV has all."""
_SHORT = 24  # characters of a badge
PAPER_CLASSES = (7, 8, 10)
"""Classes of CK+ and JAFFE, of FERPLUS, and of the paper's Table 1."""


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """One convolution of Table 1, as the head is built."""

    name: str
    shape_in: tuple[int, ...]
    kernels: int
    size: int
    shape_out: tuple[int, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class Head:
    """Table 1 for one number of classes, at full width."""

    classes: int
    layers: tuple[HeadLayer, ...]

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(layer.parameters for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Detail:
    """A line-up with its results, and the comparison where both sides of it are there."""

    lineup: Lineup
    results: tuple[Result, ...]
    versus: Versus | None

    @property
    def title(self) -> str:
        """Training set, recipe, and what sets it apart from the main line-up."""
        entry = self.lineup.any_entry
        more = "" if self.lineup.main else f", {entry.settings or f'width {entry.width}'}"
        return f"{self.lineup.training_set}, recipe {self.lineup.recipe}{more}"


@dataclass(frozen=True, slots=True)
class Contents:
    """One page.

    Attributes:
        store: URL of the store.
        map_dtype: how it keeps maps.
        training_set: the only one that is shown; None for all.
        notice: what must be read before any number; empty for nothing. What stands before its first colon or full
            stop marks every result.
        heads: Table 1 by number of classes, that of the first training set first.
        entries: rows of Table 2.
        details: their results, line-up by line-up.
        data_sets: what was ingested.
        splits: training sets.
        health: of the features.
        lineage: where all of it comes from.
        faces: thumbnails by image_id; None without faces.
    """

    store: str
    map_dtype: str
    training_set: str | None
    notice: str
    heads: tuple[Head, ...]
    entries: tuple[Entry, ...]
    details: tuple[Detail, ...]
    data_sets: tuple[DataSet, ...]
    splits: tuple[Split, ...]
    health: tuple[Health, ...]
    lineage: Lineage
    faces: Mapping[str, Thumbnail] | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of a training set shown."""
        return tuple(sorted({label for split in self.splits for label in split.classes}))

    @property
    def groups(self) -> tuple[tuple[Entry, ...], ...]:
        """Rows of Table 2 by training set, in its order."""
        return tuple(tuple(rows) for _, rows in groupby(self.entries, lambda entry: entry.training_set))

    def split(self, name: str) -> Split:
        """One training set."""
        return next(split for split in self.splits if split.name == name)

    def marks(self, entry: Entry) -> tuple[str, ...]:
        """What must stand wherever a result does: a reduced width, random weights, and the notice in short."""
        said = [f"width {entry.width:,} of {PAPER_WIDTH:,}"] if entry.reduced else []
        said += ["random weights"] if entry.random else []
        return (*said, self.mark) if self.mark else tuple(said)

    @property
    def mark(self) -> str:
        """The notice in short: what stands before its first colon or full stop, where that is short."""
        first = re.split(r"[:.]", self.notice)[0].strip().lower()
        return first if len(first) <= _SHORT else "see the notice"

    @property
    def random(self) -> bool:
        """Some result or feature is of random weights."""
        return any(e.random for e in self.entries) or any(h.weights_kind == "random" for h in self.health)


def check_training_set(session: Session, name: str | None) -> None:
    """Refuse a training set that is not there.

    Raises:
        InputError: it lists those that are.
    """
    if name is None:
        return
    known = [row["name"] for row in ask(session, "select name from training_sets order by name")]
    if name not in known:
        raise InputError(
            f"no training set {name!r} in this store",
            allowed=", ".join(known) or "none yet",
            hint="freeze one: ferstore split NAME --dataset D --protocol random" if not known else "",
        )


def gather(
    session: Session,
    head_of: Callable[[int], Head],
    *,
    store: str,
    map_dtype: str,
    training_set: str | None = None,
    notice: str = "",
    faces: bool = False,
) -> Contents:
    """Read everything a page says from one pinned session.

    Args:
        session: the state.
        head_of: Table 1 for so many classes.
        store: URL of the store.
        map_dtype: how it keeps maps.
        training_set: one; None for all.
        notice: see `Contents`.
        faces: read thumbnails of the items that are listed.

    Raises:
        InputError: no such training set.
        CorruptionError: a file of the store is gone or damaged.
    """
    check_training_set(session, training_set)
    splits = find_splits(session, training_set)
    own = [len(split.classes) for split in splits] or [8]
    entries = find_entries(session, [split.name for split in splits])
    details = tuple(_detail(session, lineup) for lineup in line_up(entries))
    every = training_set is None
    counted = [run_id for entry in entries for run_id in entry.run_ids]
    folds = {split.name: split.folds for split in splits}
    lineage = find_lineage(session, list(folds), counted, folds, every=every)
    used = None if every else [extractor.extractor_id for extractor in lineage.extractors]
    return Contents(
        store=store,
        map_dtype=map_dtype,
        training_set=training_set,
        notice=notice,
        heads=tuple(head_of(count) for count in dict.fromkeys([*own[:1], *PAPER_CLASSES, *own[1:]])),
        entries=entries,
        details=details,
        data_sets=find_data_sets(session, None if every else [split.dataset for split in splits]),
        splits=splits,
        health=find_health(session, used),
        lineage=lineage,
        faces=_faces(session, details) if faces else None,
    )


def _detail(session: Session, lineup: Lineup) -> Detail:
    fusion = lineup.entry("fusion")
    versus = compare(session, lineup.deepest, fusion) if fusion and lineup.deepest else None
    return Detail(lineup, tuple(find_result(session, entry) for entry in lineup.entries), versus)


def shown_items(versus: Versus) -> tuple[tuple[str, list[int]], ...]:
    """Places in ``versus.items`` of the fixed and of the broken items that a page lists."""
    kinds = ("fixed", "broken")
    return tuple(
        (kind, [place for place, item in enumerate(versus.items) if item.change == kind][:SHOWN]) for kind in kinds
    )


def _faces(session: Session, details: Sequence[Detail]) -> dict[str, Thumbnail]:
    wanted: dict[str, set[str]] = {}
    for detail in details:
        if detail.versus:
            mine = wanted.setdefault(detail.lineup.any_entry.dataset, set())
            for _, places in shown_items(detail.versus):
                mine |= {detail.versus.items[place].image_id for place in places}
    where = " or ".join(
        f"({among('dataset', [dataset])} and {among('image_id', sorted(ids))})" for dataset, ids in wanted.items()
    )
    query = f"select image_id, min(source_url) as url from images where {where or 'false'} group by image_id order by 1"  # noqa: S608
    return thumbnails((row["image_id"], row["url"]) for row in ask(session, query))
