"""What fusion fixes and what it breaks against deepest, on the same test items under the same seed and fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ferstore.query.session import Session
from ferstore.report.asking import Row, among, ask
from ferstore.report.entries import Entry
from ferstore.report.scores import mcnemar, paired_interval

Change = Literal["fixed", "broken"]


@dataclass(frozen=True, slots=True)
class Item:
    """A test item that only one of the two has right, under at least one seed.

    Attributes:
        change: fixed (fusion alone is right) or broken (deepest alone is).
        item_id: in its data set.
        image_id: its content.
        fold: that tests it.
        label: its class.
        seeds: under how many.
        of: seeds that both were trained with.
        wrong: what the other one answered, one class a seed, without repeats.
    """

    change: Change
    item_id: str
    image_id: str
    fold: int
    label: str
    seeds: int
    of: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeedCounts:
    """Test items of one seed, over its folds, and what they say.

    Attributes:
        seed: of both.
        folds: that both were trained on.
        both: right in both.
        fixed: right in fusion alone.
        broken: right in deepest alone.
        neither: right in neither.
        p: exact two-sided McNemar test.
        low: of the 95 % interval of the difference in accuracy, in points.
        high: of the same.
    """

    seed: int
    folds: int
    both: int
    fixed: int
    broken: int
    neither: int
    p: float
    low: float
    high: float

    @property
    def items(self) -> int:
        """All of them."""
        return self.both + self.fixed + self.broken + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of fusion less that of deepest, in points."""
        return 100 * (self.fixed - self.broken) / self.items


@dataclass(frozen=True, slots=True)
class ClassChange:
    """Fixed and broken items of one class: means over the seeds."""

    label: str
    fixed: float
    broken: float


@dataclass(frozen=True, slots=True)
class Versus:
    """Fusion against deepest.

    Attributes:
        deepest: the row compared with.
        fusion: the row compared.
        seeds: that both have, with the folds that both have.
        classes: in the order of the training set.
        items: fixed ones first, those of most seeds first.
        unpaired: runs of either that the other has no partner for.
    """

    deepest: Entry
    fusion: Entry
    seeds: tuple[SeedCounts, ...]
    classes: tuple[ClassChange, ...]
    items: tuple[Item, ...]
    unpaired: int


def compare(session: Session, deepest: Entry, fusion: Entry) -> Versus:
    """Pair the runs of two rows of Table 2 by seed and fold, and their test predictions by item."""
    runs = {(t.seed, t.fold): t.run_id for t in fusion.trainings}
    pairs = [(t.run_id, runs[t.seed, t.fold], t.seed, t.fold) for t in deepest.trainings if (t.seed, t.fold) in runs]
    rows = [row for pair in pairs for row in _paired(session, *pair)]
    seeds = tuple(sorted({row["seed"] for row in rows}))
    return Versus(
        deepest,
        fusion,
        tuple(_seed_counts(seed, [row for row in rows if row["seed"] == seed]) for seed in seeds),
        tuple(_class_change(label, rows, len(seeds)) for label in fusion.classes),
        _items(rows),
        len(deepest.trainings) + len(fusion.trainings) - 2 * len(pairs),
    )


def _paired(session: Session, deepest: str, fusion: str, seed: int, fold: int) -> list[Row]:
    rows = ask(
        session,
        f"""select item_id, any_value(image_id) as image_id, any_value(label) as label,
                any_value(predicted) filter ({among("run_id", [deepest])}) as deepest,
                any_value(predicted) filter ({among("run_id", [fusion])}) as fusion
            from predictions where part = 'test' and {among("run_id", [deepest, fusion])}
            group by item_id having count(*) = 2 order by item_id""",  # noqa: S608  ids are quoted
    )
    return [{**row, "seed": seed, "fold": fold, "change": _change(row)} for row in rows]


def _change(row: Row) -> str:
    before, after = row["deepest"] == row["label"], row["fusion"] == row["label"]
    return ("both" if after else "broken") if before else ("fixed" if after else "neither")


def _seed_counts(seed: int, rows: Sequence[Row]) -> SeedCounts:
    counts = {kind: sum(row["change"] == kind for row in rows) for kind in ("both", "fixed", "broken", "neither")}
    low, high = paired_interval(counts["fixed"], counts["broken"], len(rows))
    folds = len({row["fold"] for row in rows})
    return SeedCounts(seed, folds, **counts, p=mcnemar(counts["fixed"], counts["broken"]), low=low, high=high)


def _class_change(label: str, rows: Sequence[Row], seeds: int) -> ClassChange:
    fixed, broken = (
        sum(row["label"] == label and row["change"] == kind for row in rows) for kind in ("fixed", "broken")
    )
    return ClassChange(label, fixed / seeds if seeds else 0.0, broken / seeds if seeds else 0.0)


def _items(rows: Sequence[Row]) -> tuple[Item, ...]:
    found: list[Item] = []
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["item_id"], row["fold"]), []).append(row)
    for (item_id, fold), mine in groups.items():
        kinds: tuple[tuple[Change, str], ...] = (("fixed", "deepest"), ("broken", "fusion"))
        for kind, other in kinds:
            same = [row for row in mine if row["change"] == kind]
            if same:
                first, wrong = same[0], tuple(sorted({row[other] for row in same}))
                found.append(Item(kind, item_id, first["image_id"], fold, first["label"], len(same), len(mine), wrong))
    return tuple(sorted(found, key=lambda i: (i.change != "fixed", -i.seeds, i.label, i.item_id, i.fold)))
