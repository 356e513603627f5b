"""Results of one row of Table 2 in detail: confusion, classes, calibration and curve over all its runs.

A test item counts once, however many seeds answered it: each seed's answer counts as its share. Folds test different
items, so over folds the counts add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ferstore.query.session import Session
from ferstore.report.asking import Row, among, ask
from ferstore.report.entries import Entry
from ferstore.report.scores import Calibration, ClassScore, Floats, accuracy, calibration, class_scores


@dataclass(frozen=True, slots=True)
class Point:
    """One pass over train, over the runs that got so far: means, and the lowest and highest run."""

    part: str
    epoch: int
    runs: int
    loss: float
    loss_low: float
    loss_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True, slots=True)
class Result:
    """One row of Table 2 in detail.

    Attributes:
        entry: the row.
        confusion: test items by class and predicted class, in the order of the classes.
        scores: of each class, from the confusion.
        accuracy: share of the confusion's diagonal, over items and not over runs as in Table 2.
        calibration: of the likeliest class.
        curve: by part and epoch.
    """

    entry: Entry
    confusion: tuple[tuple[float, ...], ...]
    scores: tuple[ClassScore, ...]
    accuracy: float | None
    calibration: Calibration
    curve: tuple[Point, ...]

    @property
    def whole(self) -> bool:
        """All counts are whole numbers: no two seeds share an item and differ."""
        return all(items == round(items) for row in self.confusion for items in row)


def find_result(session: Session, entry: Entry) -> Result:
    """Read what the runs of a row left."""
    confusion = confusion_of(session, entry.run_ids, entry.classes)
    answers = ask(session, _of_answers("confidence, correct, share", entry.run_ids, then="order by run_id, item_id"))
    sure, share = (np.array([row[name] for row in answers], np.float64) for name in ("confidence", "share"))
    right = np.array([row["correct"] for row in answers], np.bool_)
    return Result(
        entry,
        tuple(tuple(float(cell) for cell in row) for row in confusion),
        class_scores(confusion, entry.classes),
        accuracy(confusion),
        calibration(sure, right, share),
        curve_of(session, entry.run_ids),
    )


def confusion_of(session: Session, run_ids: Sequence[str], classes: Sequence[str], part: str = "test") -> Floats:
    """Items of a part by class (rows) and predicted class (columns), over some runs: float64 (classes, classes)."""
    place = {label: number for number, label in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    shown = "label, predicted, sum(share) as items"
    for row in ask(session, _of_answers(shown, run_ids, part, "group by all")):
        counts[place[row["label"]], place[row["predicted"]]] = round(row["items"], 9)
    return counts


def curve_of(session: Session, run_ids: Sequence[str]) -> tuple[Point, ...]:
    """The curve of some runs, from the view ``curves``."""
    rows = ask(
        session,
        f"""select part, epoch, count(*) as runs,
                avg(loss) as loss, min(loss) as loss_low, max(loss) as loss_high,
                avg(accuracy) as accuracy, min(accuracy) as accuracy_low, max(accuracy) as accuracy_high
            from curves where {among("run_id", run_ids)} group by part, epoch order by part, epoch""",  # noqa: S608
    )
    # The last bits of a mean depend on the order in which threads added up.
    rounded: list[Row] = [{name: round(v, 9) if isinstance(v, float) else v for name, v in row.items()} for row in rows]
    return tuple(Point(**row) for row in rounded)


def _of_answers(shown: str, run_ids: Sequence[str], part: str = "test", then: str = "") -> str:
    """A query over the answers to each item, and the share of the item that each is."""
    return f"""select {shown} from (
        select p.run_id, p.item_id, p.label, p.predicted, list_max(p.probabilities) as confidence,
            p.label = p.predicted as correct,
            1 / count(*) over (partition by cast(r.arguments ->> 'fold' as integer), p.item_id) as share
        from predictions p join runs r on r.run_id = p.run_id
        where p.part = '{part}' and {among("p.run_id", run_ids)}
    ) {then}"""  # noqa: S608  the part is one of ours, ids are quoted
