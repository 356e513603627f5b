"""Charts as matplotlib figures that need no screen and are the same bytes every time."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from ferstore.report.results import Point
from ferstore.report.scores import Calibration, Floats

TRAIN, VALIDATION = "#E69F00", "#0072B2"
"""Orange and blue of Okabe and Ito's palette, as in the paper; lines differ in their dashes too."""
_INK, _MUTED, _FAINT = "#1b1b1b", "#5b6470", "#d9dde3"
_STEEP = 8  # a largest loss of so many medians asks for a logarithmic axis
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.parse_math": False,  # a $ in a class name is a dollar
    "svg.hashsalt": "ferstore",  # else ids in an SVG are chance
    "svg.fonttype": "path",  # text looks the same without the font
    "savefig.facecolor": "white",
}


class Chart(Figure):
    """A figure that a notebook shows when it is the value of a cell, whatever backend is set."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """As a PNG of 150 dots an inch."""
    return _saved(figure, "png", {"Software": None}, dpi=150)


def svg(figure: Figure) -> bytes:
    """As an SVG."""
    return _saved(figure, "svg", {"Date": None, "Creator": None})


def _saved(figure: Figure, kind: str, metadata: dict[str, None], **options: Any) -> bytes:
    stream = io.BytesIO()
    with _styled():
        figure.savefig(stream, format=kind, metadata=metadata, **options)
    return stream.getvalue()


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


PANELS = ("accuracy", "loss")
"""What a curve shows, one beside the other."""


def curves(points: Sequence[Point], title: str = "", panels: Sequence[str] = PANELS) -> Chart:
    """Accuracy and loss over the passes of a training, train and validation: one of the paper's Figures 5 to 7.

    Of several runs, lines are means and bands reach from the lowest to the highest.
    """
    with _styled():
        figure = Chart(figsize=(4.2 * len(panels), 3.1 if title else 2.8), layout="constrained")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
        for axes, what in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _curve(axes, points, what)
    return figure


def _curve(axes: Any, points: Sequence[Point], what: str) -> None:
    scale = 100 if what == "accuracy" else 1
    for part, colour, dashes in (("train", TRAIN, "-"), ("validation", VALIDATION, (0, (4, 2)))):
        mine = [point for point in points if point.part == part]
        epochs = [point.epoch for point in mine]
        low, middle, high = (
            [scale * getattr(point, f"{what}{end}") for point in mine] for end in ("_low", "", "_high")
        )
        mark = "o" if len(mine) == 1 else None  # one point makes no line
        axes.plot(epochs, middle, color=colour, linestyle=dashes, marker=mark, linewidth=1.8, label=part)
        if any(point.runs > 1 for point in mine):
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    # One wild first epoch would flatten all that follows.
    values = [value for point in points if math.isfinite(value := getattr(point, f"{what}_high")) and value > 0]
    steep = what == "loss" and bool(values) and max(values) > _STEEP * float(np.median(values))
    if steep:
        axes.set_yscale("log")
        axes.set_ylim(bottom=10 ** math.floor(math.log10(min(values))))  # a tick that has a number
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch (pass over train)")
    axes.set_ylabel("accuracy, %" if what == "accuracy" else f"loss, nats{' (logarithmic)' if steep else ''}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if what == "accuracy":
        axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="best")


def confusions(found: Sequence[tuple[str, Floats]], classes: Sequence[str]) -> Chart:
    """Confusion matrices side by side: counts, shaded by their share of the row.

    Args:
        found: title and counts (classes, classes) of each.
        classes: of rows and columns.
    """
    count = len(classes)
    side = max(2.4, 0.42 * count + 1.2)
    with _styled():
        figure = Chart(figsize=(side * len(found), side + 0.3), layout="constrained")
        for axes, (title, counts) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            rows, whole = counts.sum(axis=1, keepdims=True), bool((counts == counts.round()).all())
            shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for (row, column), items in np.ndenumerate(counts):
                if items:  # zeros would only hide the rest
                    ink = "white" if shares[row, column] > 0.55 else _INK
                    axes.text(column, row, number(items, whole), ha="center", va="center", color=ink, fontsize=8)
            axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(count), classes)
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.set_title(title)
            axes.set_xlabel("predicted")
            axes.set_ylabel("class")
    return figure


def reliability(found: Sequence[tuple[str, Calibration]]) -> Chart:
    """Reliability diagrams side by side: how often answers are right against how sure they are."""
    with _styled():
        figure = Chart(figsize=(2.8 * len(found), 3.0), layout="constrained")
        for axes, (title, calibration) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            filled = [b for b in calibration.bins if b.accuracy is not None and b.confidence is not None]
            axes.plot([0, 1], [0, 1], color=_MUTED, linestyle=(0, (2, 2)), linewidth=1)
            width = 0.9 / max(1, len(calibration.bins))
            middles = [(b.low + b.high) / 2 for b in filled]
            heights = [b.accuracy or 0 for b in filled]
            axes.bar(middles, heights, width=width, color="#9ecae1", edgecolor=VALIDATION, linewidth=0.8)
            axes.plot([b.confidence for b in filled], heights, "o", color=_INK, markersize=3.5, clip_on=False)
            said = f"ECE {100 * calibration.error:.1f} %" if calibration.error is not None else "no items"
            axes.set_title(f"{title}\n{said}")
            axes.set(xlim=(0, 1), ylim=(0, 1.04), xlabel="probability of the answer", ylabel="share that is right")
            axes.set_aspect("equal")
    return figure


def pictures(found: Sequence[tuple[Image.Image | None, str]], title: str, columns: int = 6) -> Chart:
    """A grid of images with a line or two under each; an image that is not there leaves an empty frame."""
    columns = max(1, min(columns, len(found)))
    rows = -(-len(found) // columns)
    with _styled():
        figure = Chart(figsize=(1.5 * columns, 1.9 * rows + 0.3), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
            axes.set(xticks=[], yticks=[])
            if place >= len(found):
                axes.set_visible(False)
                continue
            image, text = found[place]
            if image is not None:
                axes.imshow(np.asarray(image.convert("RGB")))
            axes.set_xlabel(text, fontsize=7)
    return figure


def number(items: float, whole: bool | None = None) -> str:
    """A count; one digit more where it, or its table, has shares of several seeds."""
    return f"{items:,.0f}" if (whole if whole is not None else abs(items - round(items)) < 1e-6) else f"{items:,.1f}"
