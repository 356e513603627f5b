"""Whether a page can be read: no text leaves it, none covers another, none is wider than its box."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

PAGE = 0.04  # about where a title begins, in shares of the page


def _texts(figure: Any) -> list[Any]:
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def texts_of(figure: Any) -> list[str]:
    """Every text that is shown."""
    return [text.get_text() for text in _texts(figure)]


def check_page(figure: Any) -> None:
    """Fail where something is cut, covered or outside its box."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.bbox
    boxes = [(text, text.get_window_extent(renderer)) for text in _texts(figure)]
    for text, box in boxes:
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text.get_text()!r} leaves the page"
    for (one, a), (other, b) in combinations(boxes, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 0.5 or up <= 1.5, f"{one.get_text()!r} covers {other.get_text()!r}"
    frames = [
        patch.get_window_extent(renderer)
        for patch in figure.findobj(FancyBboxPatch)
        if str(patch.get_gid()).startswith("box_")
    ]
    for frame in frames:
        for text, box in boxes:
            x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            if frame.x0 <= x <= frame.x1 and frame.y0 <= y <= frame.y1:
                fits = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
                assert fits, f"{text.get_text()!r} is larger than its box"
