"""Figures 2 and 3: one panel a map, in order, with its numbers, and the same bytes whenever they are drawn."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest
from pages import PAGE, check_page, texts_of

from ferstore.network import FusedMap
from ferstore.report.canvas import fixed_style, rendered
from ferstore.report.maps import every_convolution_figure, first_convolution_figure

RANDOM = np.random.default_rng(0)
WARNING = "RANDOM WEIGHTS (seed 0): what is drawn here says nothing about faces"
ABOUT = "Extractor 0123456789abcdef: w.weights.h5 weights, SHA-256 0123456789abcdef, in float32. " * 2


def fused(name: str, side: int, channels: int) -> FusedMap:
    return FusedMap(name, (side, side, channels), RANDOM.random((side, side), np.float32))


def rows() -> dict[str, list[FusedMap]]:
    sizes = [(149, 5), (35, 7), (35, 7), (35, 7), (17, 4), *[(17, 10)] * 4, (8, 6), (8, 9), (8, 9)]
    names = iter(range(94))
    found = {
        f"mixed_{row}": [fused(f"conv2d_{next(names)}", side, 384) for _ in range(count)]
        for row, (side, count) in enumerate(sizes)
    }
    found["head"] = [fused(f"conv{n}", side, 2048) for n, side in enumerate((6, 4, 2, 1), 1)]
    return found


def two() -> tuple[Any, FusedMap]:
    first = RANDOM.random((149, 149, 25), np.float32)
    first[..., 3] = 0
    return first, fused("conv2d", 149, 32)


def gids(figure: Any, kind: str) -> list[str]:
    found = [str(axes.get_gid()) for axes in figure.axes]
    return [gid.removeprefix(f"{kind}_") for gid in found if gid.startswith(f"{kind}_")]


@pytest.mark.parametrize("warning", ["", WARNING])
def test_every_convolution_has_one_panel_in_order_with_its_name_and_size(warning: str) -> None:
    given = rows()
    with fixed_style():
        figure = every_convolution_figure(given, about=ABOUT, warning=warning)
        check_page(figure)
        shown = texts_of(figure)
    names = [one.name for maps in given.values() for one in maps]
    assert len(names) == 98
    assert gids(figure, "panel") == names
    assert "conv2d_93\n8 × 8 × 384" in shown
    assert "conv4\n1 × 1 × 2048" in shown
    assert f"{given['head'][3].values[0, 0]:.3g}" in shown  # one position has no pattern: its value is said
    assert (warning in shown) == bool(warning)
    places = [axes.get_position() for axes in figure.axes]
    assert [(-round(p.y0, 4), p.x0) for p in places] == sorted((-round(p.y0, 4), p.x0) for p in places)


@pytest.mark.parametrize("warning", ["", WARNING])
def test_the_first_convolution_is_a_grid_of_25_beside_the_fused_map(warning: str) -> None:
    first, whole = two()
    with fixed_style():
        figure = first_convolution_figure(first, whole, about=ABOUT, warning=warning)
        check_page(figure)
    assert gids(figure, "channel") == [str(n) for n in range(25)]
    assert gids(figure, "fused") == ["conv2d"]
    grid = [axes.get_position() for axes in figure.axes[:25]]
    assert len({round(p.x0, 4) for p in grid}) == len({round(p.y0, 4) for p in grid}) == 5
    for channel, axes in enumerate(figure.axes[:25]):  # each on its own: two ends of its scale are its own
        [image] = axes.images
        values = first[..., channel]
        assert image.get_clim() == (values.min(), values.max())
        np.testing.assert_array_equal(image.get_array(), values)
    np.testing.assert_array_equal(figure.axes[25].images[0].get_array(), whole.values)
    assert [text.get_text() for text in figure.axes[3].texts] == ["0"]


def test_the_same_maps_are_the_same_bytes_whatever_the_user_s_style(monkeypatch: pytest.MonkeyPatch) -> None:
    small = fused("conv2d", 9, 32)

    def draw() -> dict[str, bytes]:
        with fixed_style():
            return rendered(every_convolution_figure({"stem": [small]}, about=ABOUT))

    one = draw()
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "mine", "image.cmap": "jet", "image.origin": "lower"}):
        assert draw() == one
        assert matplotlib.rcParams["font.size"] == 30  # and theirs is left as it was
    assert one["png"].startswith(b"\x89PNG")
    assert b"<dc:date>" not in one["svg"]


def test_a_text_that_is_cut_or_covered_would_be_seen() -> None:
    with fixed_style():
        figure = first_convolution_figure(*two(), about=ABOUT)
        figure.text(0.95, 0.5, "far too long for this place")
        with pytest.raises(AssertionError, match="leaves the page"):
            check_page(figure)
        figure = first_convolution_figure(*two(), about=ABOUT)
        figure.text(PAGE, 1 - PAGE, "Figure 2 again", va="top")
        with pytest.raises(AssertionError, match="covers"):
            check_page(figure)
