"""The page: one HTML file that needs nothing else, reads without colours, and asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from ferstore.report.charts import number
from ferstore.report.contents import SHOWN, Contents, shown_items
from ferstore.report.entries import EXPERIMENTS, PAPER_WIDTH
from ferstore.report.figures import NUMBERS, Picture
from ferstore.report.missing import find_missing
from ferstore.report.scores import BINS
from ferstore.report.splits import PARTS

_TEMPLATES = jinja2.PackageLoader("ferstore.report", "templates")
NONE = "–"
"""What stands where there is no number."""


def render(contents: Contents, pictures: Sequence[Sequence[Picture]]) -> bytes:
    """The page as UTF-8.

    Args:
        contents: what it says.
        pictures: of each of its details.

    Every value is escaped by the template engine; style sheet and script are ours, and the page's own policy lets no
    other script run and no request out.
    """
    environment = jinja2.Environment(
        loader=_TEMPLATES,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score, "signed": signed, "share": share, "count": number, "chance": chance}
    script = _text(environment, "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    text = environment.get_template("report.html").render(
        page=contents,
        details=list(zip(contents.details, pictures, strict=True)),
        missing=find_missing(contents),
        experiments=EXPERIMENTS,
        figures=NUMBERS,
        paper_width=PAPER_WIDTH,
        parts=PARTS,
        bins=BINS,
        shown=SHOWN,
        shown_items=shown_items,
        shade=shade,
        own_command=_own_command(contents),
        quote=shlex.quote,
        style=Markup(_text(environment, "page.css")),  # noqa: S704  ours
        script=Markup(script),  # noqa: S704  ours
        script_digest=digest,
    )
    return text.encode("utf-8")


def _text(environment: jinja2.Environment, name: str) -> str:
    return _TEMPLATES.get_source(environment, name)[0]


def _own_command(contents: Contents) -> str:
    words = ["ferstore", "report", "--output", "DIR"]
    words += ["--training-set", contents.training_set] if contents.training_set else []
    words += ["--at", contents.lineage.at] if contents.lineage.at else []
    return shlex.join([*words, *(["--faces"] if contents.faces is not None else [])])


def score(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point."""
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """The same with its sign."""
    return NONE if value is None or not math.isfinite(value) else _signed(f"{value:+,.{digits}f}")


def _signed(text: str) -> str:
    return text.lstrip("+-") if not text.strip("+-0.,") else text.replace("-", "−")


def share(value: float | None) -> str:
    """A share as per cent."""
    return score(None if value is None else 100 * value)


def chance(p: float) -> str:
    """A p value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def shade(items: float, row: float) -> Any:
    """Background and ink of a cell with so many of its row's items; the ink is the one that stands out more."""
    part = items / row if row else 0.0
    colour = [round(255 + (dark - 255) * part) for dark in (0x08, 0x45, 0x94)]
    light = _luminance(colour)
    ink = "#ffffff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000000"
    return Markup("background:#{:02x}{:02x}{:02x};color:{}").format(*colour, ink)


def _luminance(colour: Sequence[int]) -> float:
    """Relative luminance (WCAG 2.2)."""
    red, green, blue = ((c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
