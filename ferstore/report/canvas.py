"""A figure as files that are the same whenever they are written: PNG for a screen, SVG for print.

Figures are matplotlib ``Figure`` objects of their own: pyplot's global state, the user's matplotlibrc and the time have
no part in them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

INK, PAPER, SHADE, ACCENT = "#1a1a1a", "#ffffff", "#eeeeee", "#d6e4f0"
"""Text, background, boxes, and boxes that matter: apart in grey too."""
MAPS = "viridis"
"""Colours of maps: even steps of lightness, and the same to colour-blind eyes."""

_DPI = 220
_MARGIN = 0.3  # inches
_CAPTION = 7  # points


@contextmanager
def fixed_style() -> Iterator[None]:
    """Matplotlib's defaults and ours, for what is drawn and rendered in here; what was set before comes back."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("font", family="DejaVu Sans")
        matplotlib.rc("svg", hashsalt="ferstore", fonttype="path")
        yield


def rendered(figure: Figure) -> dict[str, bytes]:
    """A figure's bytes as ``png`` and ``svg``, without a date in them. Call it inside `fixed_style`."""
    no_time: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    found = {}
    for kind, metadata in no_time.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=_DPI, metadata=metadata, facecolor=PAPER)
        found[kind] = stream.getvalue()
    return found


def sheet(width: float, height: float, title: str, caption: str, warning: str = "") -> tuple[Figure, float, float]:
    """A page with a title above and a caption below.

    Args:
        width: inches.
        height: inches.
        title: one line.
        caption: wrapped to the width.
        warning: a line that must not be missed, below the title; none where empty.

    Returns:
        The figure, and the bottom and top of what is left between, in inches.
    """
    figure = Figure(figsize=(width, height))
    figure.text(_MARGIN / width, 1 - _MARGIN / height, title, size=10, weight="bold", color=INK, va="top")
    top = height - _MARGIN - 0.25
    if warning:
        box = {"facecolor": INK, "edgecolor": INK, "boxstyle": "square,pad=0.35"}
        figure.text((_MARGIN + 0.05) / width, (top - 0.05) / height, warning, size=8, color=PAPER, va="top", bbox=box)
        top -= 0.32
    lines = _wrapped(caption, width - 2 * _MARGIN)
    below = _MARGIN + 0.135 * len(lines)
    figure.text(_MARGIN / width, below / height, "\n".join(lines), size=_CAPTION, color=INK, va="top", linespacing=1.25)
    return figure, below + 0.1, top


def text_width(text: str, size: float) -> float:
    """How wide a text of so many points is drawn, in inches. Call it inside `fixed_style`."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width) / 72


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of a caption, none wider than so many inches as they are drawn."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, _CAPTION) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
