"""The figures of a page: what each shows, as PNG, SVG and words."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ferstore.report import charts
from ferstore.report.contents import Contents, Detail
from ferstore.report.entries import PAPER_WIDTH, Entry
from ferstore.report.results import Point, Result

NUMBERS = {"deepest": 5, "sub_deep": 6, "fusion": 7}
"""The paper's figure of each experiment's curves."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure.

    Attributes:
        name: of its files, without an ending.
        kind: curve, confusion or calibration.
        experiment: whose; empty for all of a line-up.
        alt: what it shows, for those who do not see it.
        caption: what to know when reading it.
        svg: bytes of the SVG.
        png: bytes of the PNG.
    """

    name: str
    kind: str
    experiment: str
    alt: str
    caption: str
    svg: bytes
    png: bytes

    @property
    def uri(self) -> str:
        """The SVG as a ``data:`` URI: an image, in which no script runs."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")

    @property
    def files(self) -> dict[str, bytes]:
        """Its files by name."""
        return {f"{self.name}.svg": self.svg, f"{self.name}.png": self.png}


def pictures_of(contents: Contents) -> tuple[tuple[Picture, ...], ...]:
    """Figures of every line-up, in the order of the details."""
    return tuple(tuple(_of(detail, number)) for number, detail in enumerate(contents.details, 1))


def _of(detail: Detail, number: int) -> Iterator[Picture]:
    # A number makes the name unique; what users called things is only a help, without what file systems mind.
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{detail.lineup.training_set}-{detail.lineup.recipe}").strip("-")
    start = f"{number}-{plain[:60]}"
    for result in detail.results:
        experiment = result.entry.experiment
        figure = charts.curves(result.curve, f"{experiment}: {detail.title}{_marks(result.entry)}")
        yield Picture(
            f"{start}-figure-{NUMBERS[experiment]}-{experiment}",
            "curve",
            experiment,
            _told(result),
            f"Figure {NUMBERS[experiment]}: {experiment}. {_over(result.entry)}",
            charts.svg(figure),
            charts.png(figure),
        )
    found = [(_titled(r.entry), np.array(r.confusion)) for r in detail.results]
    figure = charts.confusions(found, detail.lineup.any_entry.classes)
    yield Picture(
        f"{start}-confusion",
        "confusion",
        "",
        "Confusion matrices; the tables on the page have the same numbers.",
        "",
        charts.svg(figure),
        charts.png(figure),
    )
    figure = charts.reliability([(_titled(r.entry), r.calibration) for r in detail.results])
    yield Picture(
        f"{start}-calibration",
        "calibration",
        "",
        "Reliability diagrams: "
        + "; ".join(f"{r.entry.experiment}, expected calibration error {_percent(r)}" for r in detail.results)
        + ". The table below has the bins.",
        "Bars: share of right answers in each bin. Dots: at the mean probability of the bin. Dashed: what a perfectly "
        "calibrated classifier shows.",
        charts.svg(figure),
        charts.png(figure),
    )


def _titled(entry: Entry) -> str:
    return f"{entry.experiment}{_marks(entry)}"


def _marks(entry: Entry) -> str:
    """What must stand wherever the result does."""
    marks = [f"width {entry.width} of {PAPER_WIDTH}"] if entry.reduced else []
    marks += ["RANDOM weights"] if entry.random else []
    return f" ({', '.join(marks)})" if marks else ""


def _over(entry: Entry) -> str:
    if entry.runs == 1:
        return "One run."
    return f"Means over {entry.spread_over}; bands reach from the lowest to the highest run."


def _percent(result: Result) -> str:
    error = result.calibration.error
    return "unknown without test items" if error is None else f"{100 * error:.1f} %"


def _told(result: Result) -> str:
    parts = []
    for part in ("train", "validation"):
        mine = [point for point in result.curve if point.part == part]
        if mine:
            parts.append(f"{part} {_ends(mine)}")
    said = "; ".join(parts) or "no points"
    return f"Accuracy and loss of {result.entry.experiment} over its epochs: {said}."


def _ends(points: Sequence[Point]) -> str:
    first, last = points[0], points[-1]
    loss = f"{last.loss:.2f}" if math.isfinite(last.loss) else "no number"
    return (
        f"accuracy from {100 * first.accuracy:.1f} % in epoch {first.epoch} to {100 * last.accuracy:.1f} % in epoch "
        f"{last.epoch}, loss at last {loss}"
    )
