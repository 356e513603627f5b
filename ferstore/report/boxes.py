"""Boxes and arrows on a page, in inches from its lower left corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Polygon

from ferstore.report.canvas import INK, SHADE

_LINE = 1.32  # heights of its letters between the lines of a box


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box lies: its middle and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y - self.height / 2

    @property
    def top(self) -> float:
        return self.y + self.height / 2


class Drawing:
    """Axes over a whole page.

    Args:
        figure: the page.
    """

    def __init__(self, figure: Figure) -> None:
        width, height = figure.get_size_inches()
        self._axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self._axes.axis("off")

    def box(
        self, place: Box, lines: Sequence[str], *, name: str, face: str = SHADE, unused: bool = False, size: float = 6.3
    ) -> None:
        """A box with its name in bold and more lines below it; dashed where it is not used."""
        self._frame(place, face, 0.7, "dashed" if unused else "solid", name)
        step = size * _LINE / 72
        first = place.y + step * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            weight = "normal" if number else "bold"
            self.text(place.x, first - step * number, line, size=size, weight=weight, middle=True)

    def region(self, place: Box, label: str) -> None:
        """A frame behind boxes that belong together, with its name in its upper left corner."""
        self._frame(place, "none", 0.6, "dotted", "")
        self.text(place.left + 0.07, place.top - 0.1, label, size=7.5, weight="bold")

    def text(self, x: float, y: float, text: str, *, size: float, weight: str = "normal", middle: bool = False) -> None:
        """Text from its left end, or from its middle."""
        across = "center" if middle else "left"
        self._axes.text(x, y, text, size=size, weight=weight, ha=across, va="center", color=INK, linespacing=1.25)

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line along points with a head at the last; its parts are level or upright."""
        (before_x, before_y), (x, y) = points[-2:]
        length = ((x - before_x) ** 2 + (y - before_y) ** 2) ** 0.5
        along = ((x - before_x) / length, (y - before_y) / length)
        base = (x - 0.07 * along[0], y - 0.07 * along[1])
        line = [*points[:-1], base]
        self._axes.add_line(Line2D([p[0] for p in line], [p[1] for p in line], color=INK, linewidth=0.8))
        side = (-0.03 * along[1], 0.03 * along[0])
        corners = [(x, y), (base[0] + side[0], base[1] + side[1]), (base[0] - side[0], base[1] - side[1])]
        self._axes.add_patch(Polygon(corners, facecolor=INK, linewidth=0))

    def _frame(self, place: Box, face: str, line: float, style: str, name: str) -> None:
        corner = (place.left, place.bottom)
        round_ = "round,pad=0,rounding_size=0.05"
        frame = FancyBboxPatch(
            corner, place.width, place.height, round_, facecolor=face, edgecolor=INK, linewidth=line, linestyle=style
        )
        if name:
            frame.set_gid(f"box_{name}")
        self._axes.add_patch(frame)
