"""Figures 2 and 3: what the convolutions make of one picture, as maps.

Every map is scaled on its own, from its smallest to its largest value, so that its pattern is seen and its size is not;
the arrays are there for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ferstore.network import Floats, FusedMap, size_text
from ferstore.report.canvas import INK, MAPS, sheet

_ACTIVATION = "Keras's own activations: behind batch normalisation and ReLU"
_SCALED = "scaled on its own from its smallest value (dark) to its largest (light)"


def first_convolution_figure(first: Floats, fused: FusedMap, *, about: str, warning: str = "") -> Figure:
    """Figure 2: the first channels of the first convolution, five a row, beside all its channels fused 1:1.

    Args:
        first: float32 (rows, columns, 25).
        fused: of the same convolution.
        about: what picture and weights these are.
        warning: what must be said of the weights.
    """
    count, channels = first.shape[-1], fused.shape[-1]
    caption = (
        f"The activation of the first convolution, {fused.name} ({size_text(fused.shape)}; {_ACTIVATION}). Left: its "
        f"channels 0 to {count - 1}, each {_SCALED}. Right: all {channels} channels fused 1:1, which is their "
        f"unweighted sum, with its values. A channel of one value everywhere is flat, with that value on it. {about}"
    )
    title = "Figure 2. The first convolution: its first 25 channels, and all of them fused 1:1"
    width, height = 8.27, 5.3 if warning else 5.0
    figure, bottom, top = sheet(width, height, title, caption, warning)
    side = min(top - bottom - 0.2, 3.4)
    cell, left, floor = side / 5, 0.3, top - 0.2 - side
    _heading(figure, left, top, f"channels 0 to {count - 1}")
    for channel in range(count):
        row, column = divmod(channel, 5)
        axes = _place(figure, left + column * cell, floor + (4 - row) * cell, cell - 0.04, cell - 0.04)
        axes.set_gid(f"channel_{channel}")
        _show(axes, first[..., channel])
    start = left + side + 0.15
    size = side - 0.04
    _heading(figure, start, top, f"all {channels} channels, 1:1")
    axes = _place(figure, start, floor + side - 0.04 - size, size, size)
    axes.set_gid(f"fused_{fused.name}")
    image = _show(axes, fused.values)
    bar = _place(figure, start + size + 0.08, floor + side - 0.04 - size, 0.12, size)
    figure.colorbar(image, cax=bar)
    bar.tick_params(labelsize=6, length=2, width=0.5)
    return figure


def every_convolution_figure(rows: Mapping[str, Sequence[FusedMap]], *, about: str, warning: str = "") -> Figure:
    """Figure 3: one panel a convolution in the network's order, a row a block.

    Args:
        rows: maps of each block, in the network's order.
        about: what picture, weights and head these are, or why there is no head.
        warning: what must be said of the weights.
    """
    count = sum(len(maps) for maps in rows.values())
    caption = (
        f"A panel is a convolution's activation ({_ACTIVATION}) with all channels fused 1:1, which is their "
        f"unweighted sum, {_SCALED}; below its name rows × columns × channels. Read row by row. A map of one position, "
        f"or of one value everywhere, has no pattern: it is flat, with its value on it. {about}"
    )
    title = f"Figure 3. The fused map of every convolution: {count} panels in the order of the network"
    width, height = 8.27, 11.69
    figure, bottom, top = sheet(width, height, title, caption, warning)
    left, columns = 0.95, max(10, *(len(maps) for maps in rows.values()))
    across, down = (width - left - 0.2) / columns, (top - bottom) / len(rows)
    side = min(across - 0.06, down - 0.24)
    for row, (block, maps) in enumerate(rows.items()):
        above = top - row * down
        figure.text(
            0.3 / width, (above - 0.2 - side / 2) / height, block, size=7, weight="bold", color=INK, va="center"
        )
        for column, fused in enumerate(maps):
            axes = _place(figure, left + column * across, above - 0.2 - side, side, side)
            axes.set_gid(f"panel_{fused.name}")
            axes.set_title(f"{fused.name}\n{size_text(fused.shape)}", size=4.8, pad=1.5, color=INK, linespacing=1.1)
            _show(axes, fused.values)
    return figure


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _heading(figure: Figure, left: float, top: float, text: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, (top - 0.13) / height, text, size=7.5, color=INK)


def _show(axes: Axes, values: Floats) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.3)
    if values.max() == values.min():
        text = f"{values.flat[0]:.3g}"
        axes.text(0.5, 0.5, text, size=5.5, color="white", ha="center", va="center", transform=axes.transAxes)
    # Nearest, so that a map of 8 x 8 positions shows 64 of them, and none between.
    return axes.imshow(values, cmap=MAPS, interpolation="nearest", aspect="auto")
