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
from ferstore.report.entries import Entry
from ferstore.report.results import Point, Result

NUMBERS = {"deepest": 5, "sub_deep": 6, "fusion": 7}
"""The paper's figure of each experiment's curves."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One image of the page.

    Attributes:
        experiment: whose.
        alt: what it shows, for those who do not see it.
        svg: its bytes.
    """

    experiment: str
    alt: str
    svg: bytes

    @property
    def uri(self) -> str:
        """As a ``data:`` URI: an image, in which no script runs."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure: files for a paper, and panels that find room on any screen.

    Attributes:
        name: of its files, without an ending.
        kind: curve, confusion or calibration.
        experiment: whose; empty for all of a line-up.
        caption: what it is.
        panels: on the page; none where the page has a table instead.
        svg: bytes of the whole as SVG.
        png: bytes of the whole as PNG.
    """

    name: str
    kind: str
    experiment: str
    caption: str
    panels: tuple[Panel, ...]
    svg: bytes
    png: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """Its files by name."""
        return {f"{self.name}.svg": self.svg, f"{self.name}.png": self.png}


def pictures_of(contents: Contents) -> tuple[tuple[Picture, ...], ...]:
    """Figures of every line-up, in the order of the details."""
    return tuple(tuple(_of(contents, detail, number)) for number, detail in enumerate(contents.details, 1))


def _of(contents: Contents, detail: Detail, number: int) -> Iterator[Picture]:
    # A number makes the name unique; what users called things is only a help, without what file systems mind.
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{detail.lineup.training_set}-{detail.lineup.recipe}").strip("-")
    start = f"{number}-{plain[:60]}"
    for result in detail.results:
        experiment, marks = result.entry.experiment, ", ".join(contents.marks(result.entry))
        title = f"{experiment}: {detail.title}" + (f" ({marks})" if marks else "")
        panels = tuple(
            Panel(experiment, _told(result, what), charts.svg(charts.curves(result.curve, panels=[what])))
            for what in charts.PANELS
        )
        name = f"{start}-figure-{NUMBERS[experiment]}-{experiment}"
        caption = f"Figure {NUMBERS[experiment]}: {experiment}. {_over(result.entry)}"
        yield _picture(name, "curve", charts.curves(result.curve, title), panels, experiment, caption)
    titles = ["\n".join([r.entry.experiment, *contents.marks(r.entry)]) for r in detail.results]
    matrices = [(title, np.array(r.confusion)) for title, r in zip(titles, detail.results, strict=True)]
    yield _picture(f"{start}-confusion", "confusion", charts.confusions(matrices, detail.lineup.any_entry.classes))
    found = [(title, r.calibration) for title, r in zip(titles, detail.results, strict=True)]
    panels = tuple(
        Panel(
            result.entry.experiment,
            f"Reliability diagram of {result.entry.experiment}: expected calibration error {_error(result)}; the table "
            "below has its bins.",
            charts.svg(charts.reliability([one])),
        )
        for one, result in zip(found, detail.results, strict=True)
    )
    yield _picture(f"{start}-calibration", "calibration", charts.reliability(found), panels)


def _picture(
    name: str, kind: str, figure: charts.Chart, panels: tuple[Panel, ...] = (), experiment: str = "", caption: str = ""
) -> Picture:
    return Picture(name, kind, experiment, caption, panels, charts.svg(figure), charts.png(figure))


def _over(entry: Entry) -> str:
    if entry.runs == 1:
        return "One run."
    return f"Means over {entry.spread_over}; bands reach from the lowest to the highest run."


def _error(result: Result) -> str:
    error = result.calibration.error
    return "unknown without test items" if error is None else f"{100 * error:.1f} %"


def _told(result: Result, what: str) -> str:
    parts = []
    for part in ("train", "validation"):
        mine = [point for point in result.curve if point.part == part]
        if mine:
            parts.append(f"{part} {_ends(mine, what)}")
    said = "; ".join(parts) or "no points"
    return f"{what.capitalize()} of {result.entry.experiment} over its epochs: {said}."


def _ends(points: Sequence[Point], what: str) -> str:
    first, last = (_value(getattr(point, what), what) for point in (points[0], points[-1]))
    return f"from {first} in epoch {points[0].epoch} to {last} in epoch {points[-1].epoch}"


def _value(value: float, what: str) -> str:
    if not math.isfinite(value):
        return "no number"
    return f"{100 * value:.1f} %" if what == "accuracy" else f"{value:.2f} nats"
