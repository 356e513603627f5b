"""Figure 1: the last nodes of Inception v3, drawn from the layers as they were built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from ferstore.network import PAPER_NAMES, Node, blocks_of, merged, size_text
from ferstore.report.boxes import Box, Drawing
from ferstore.report.canvas import ACCENT, PAPER, SHADE, sheet
from ferstore.report.layout import levels_of, spans_of

_BRANCHING, _AFTER = ("mixed_9", "mixed_10"), tuple(PAPER_NAMES.values())
_WIDTH, _HEIGHT = 8.27, 11.2
_BAND = 0.2  # inches for the name of a block above its boxes
_KINDS = {
    "Conv2D": "convolution",
    "AveragePooling2D": "average pooling",
    "Concatenate": "concatenation",
    "GlobalAveragePooling2D": "spatial mean",
    "Dense": "fully connected",
}


def last_nodes(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """What the paper's Figure 1 shows of Inception v3: the layers of its last two blocks, and what follows them."""
    blocks = blocks_of(nodes)
    return tuple(node for node in nodes if blocks[node.name] in (*_BRANCHING, *_AFTER))


def last_nodes_figure(nodes: Sequence[Node], *, about: str, warning: str = "") -> Figure:
    """Figure 1.

    Args:
        nodes: all layers of Inception v3 with its top.
        about: what weights these are.
        warning: what must be said of them.
    """
    caption = (
        "The last nodes of the extractor, from the model that computes the features: the branches of mixed_9 and "
        "mixed_10, the sub-deep feature mixed_10 and the deepest feature pool_3. A convolution stands for three layers "
        "of Keras: itself, its batch normalisation and its ReLU. The last line of a box is the output for one image. "
        "Dashed: Keras's own classifier, which ferstore does not use; each experiment has its own in its place. The "
        f"same nodes are in figure_1_graph for TensorBoard. {about}"
    )
    figure, bottom, top = sheet(_WIDTH, _HEIGHT, "Figure 1. The last nodes of Inception v3", caption, warning)
    blocks, drawn = blocks_of(nodes), _drawn(nodes)
    places = _places(drawn, blocks, bottom, top)
    drawing = Drawing(figure)
    for block in _BRANCHING:
        inside = [places[node.name] for node in drawn if blocks[node.name] == block]
        above, below = max(place.top for place in inside) + _BAND, min(place.bottom for place in inside) - 0.08
        drawing.region(Box(_WIDTH / 2, (above + below) / 2, _WIDTH - 0.6, above - below), block)
    for node in drawn:
        for name in node.inputs:
            x = min(places[name], places[node.name], key=lambda box: box.width).x
            drawing.arrow((x, places[name].bottom), (x, places[node.name].top))
    for node in drawn:
        unused = blocks[node.name] == "softmax"
        face = PAPER if unused else ACCENT if node.name in ("mixed10", "avg_pool") else SHADE
        drawing.box(places[node.name], _lines(node), name=node.name, face=face, unused=unused)
    return figure


def _drawn(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The last nodes behind the one they read, each convolution with what normalises it as one."""
    last = last_nodes(nodes)
    outside = {name for node in last for name in node.inputs} - {node.name for node in last}
    groups = {name: name for name in outside}
    for node in last:
        part = node.kind in ("BatchNormalization", "Activation")
        groups[node.name] = groups[node.inputs[0]] if part else node.name
    return merged([*(replace(node, inputs=()) for node in nodes if node.name in outside), *last], groups)


def _places(drawn: Sequence[Node], blocks: dict[str, str], bottom: float, top: float) -> dict[str, Box]:
    spans, levels = spans_of(drawn), levels_of(drawn)
    down = (top - bottom - _BAND * len(_BRANCHING)) / (max(levels.values()) + 1)
    across = (_WIDTH - 0.8) / max(high for _, high in spans.values())
    order = ("", *_BRANCHING, *_AFTER)
    places = {}
    for node in drawn:
        low, high = spans[node.name]
        width = (high - low) * across - 0.11
        if blocks[node.name] in _AFTER:
            width = min(width, 2.6)
        bands = order.index(blocks[node.name]) if blocks[node.name] in order else 0
        y = top - down * (levels[node.name] + 0.5) - _BAND * min(bands, len(_BRANCHING))
        places[node.name] = Box(0.4 + (low + high) / 2 * across, y, width, down - 0.26)
    return places


def _lines(node: Node) -> list[str]:
    paper = PAPER_NAMES.get(node.name, "")
    if node.name.startswith("mixed") and "_" not in node.name:
        paper = node.name.replace("mixed", "mixed_")
    title = f"{paper} (Keras: {node.name})" if paper else node.name
    kind = " ".join(filter(None, (node.detail, _KINDS.get(node.kind, node.kind))))
    return [title, kind, size_text(node.shape)] if node.inputs else [title, size_text(node.shape)]
