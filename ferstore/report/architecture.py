"""Figure 4: the whole structure, the extractor and the three experiments, drawn from the models as they were built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from matplotlib.figure import Figure

from ferstore.network import PAPER_NAMES, Node, blocks_of, merged, size_text
from ferstore.report.boxes import Box, Drawing
from ferstore.report.canvas import ACCENT, SHADE, sheet, text_width

_PASSING = ("Reshape", "ReLU", "Activation", "Dropout")
_KINDS = {
    "Add": "sum",
    "Average": "mean",
    "Maximum": "maximum",
    "Concatenate": "concatenation",
    "Dense": "fully connected",
    "Cosine": "cosines",
    "GlobalAveragePooling2D": "spatial mean",
    "Standardise": "of each channel",
    "Activation": "of the last layer",
}
_WIDTH, _HEIGHT, _LEFT = 11.69, 7.4, 1.5
_SIZE, _GAP = 6.2, 0.2  # points of text, inches between boxes
_FEATURES = ("mixed_10", "pool_3", "conv4", "fused")


def architecture_figure(
    extractor: Sequence[Node],
    deepest: Sequence[Node],
    sub_deep: Sequence[Node],
    fusion: Sequence[Node],
    *,
    about: str,
    warning: str = "",
) -> Figure:
    """Figure 4.

    Args:
        extractor: all layers of Inception v3 with its top, which is left out.
        deepest: softmax on ``pool_3``.
        sub_deep: Table 1 on a map.
        fusion: of conv4 and ``pool_3``.
        about: what weights and heads these are.
        warning: what must be said of them.
    """
    caption = (
        "The network as it was built. In a box: its name, kernel or operation, the output for one image, and its "
        "parameters (params) as they are counted in the model, moments of batch normalisation included. Batch "
        "normalisation, ReLU and dropout belong to the box of what they follow, the standardising of vectors to the "
        f"box where these meet. Inception v3 is frozen; deepest, sub-deep and fusion are trained. {about}"
    )
    figure, bottom, top = sheet(_WIDTH, _HEIGHT, "Figure 4. The structure of the network", caption, warning)
    blocks = blocks_of(extractor)
    known = merged(extractor, blocks)
    backbone = [node for node in known if node.name not in PAPER_NAMES.values()]
    [pool_3] = [node for node in known if node.name == "pool_3"]
    counts = Counter(blocks[node.name] for node in extractor if node.kind == "Conv2D")
    backbone = [
        _told(node, f"{counts[node.name]} convolutions" if node.inputs else "red, green, blue") for node in backbone
    ]
    rows = [
        _head(sub_deep, drawn=()),
        _head(fusion, drawn=("conv4", "pool_3")),
        [_told(pool_3, _KINDS[pool_3.kind]), *_head(deepest, drawn=("pool_3",))],
    ]
    half = (len(backbone) + 1) // 2
    page = _Page(Drawing(figure), bottom, top, columns=max(half, *(len(row) for row in rows)))
    page.backbone([backbone[:half], backbone[half:]])
    page.heads(rows, map_name=sub_deep[0].name)
    for row, name, nodes in (
        (0, "Inception v3", [node for node in extractor if blocks[node.name] != "softmax"]),
        (2, "Sub-deep", sub_deep),
        (3, "Fusion", fusion),
        (4, "Deepest", deepest),
    ):
        page.label(row, name, sum(node.parameters for node in nodes))
    return figure


class _Page:
    """Five rows of boxes: two of the extractor, one for each experiment."""

    def __init__(self, drawing: Drawing, bottom: float, top: float, *, columns: int) -> None:
        self._drawing = drawing
        self._top, self._down = top, (top - bottom) / 5
        self._columns, self._across = columns, (_WIDTH - _LEFT - 0.2) / columns
        self._places: dict[tuple[int, str], Box] = {}
        room = self._across - _GAP - 0.12
        self._size = min(_SIZE, _SIZE * room / text_width("37,750,784 params", _SIZE))  # as wide as lines get

    def label(self, row: int, name: str, parameters: int) -> None:
        """What a row is, on its left."""
        y = self._at(row, 0).y
        self._drawing.text(0.3, y + 0.07, name, size=9, weight="bold")
        self._drawing.text(0.3, y - 0.1, f"{parameters:,} params", size=6.5)

    def backbone(self, rows: Sequence[Sequence[Node]]) -> None:
        """The extractor: one row, and on below it."""
        for row, nodes in enumerate(rows):
            for column, node in enumerate(nodes):
                self._box(row, column, node)
            self._chain(row, nodes)
        self._around((0, rows[0][-1].name), (1, rows[1][0].name), lane=0)

    def heads(self, rows: Sequence[Sequence[Node]], *, map_name: str) -> None:
        """Sub-deep, fusion and deepest; what ends in a softmax ends at the right."""
        sub_deep, fusion, deepest = rows
        for column, node in enumerate(sub_deep):
            self._box(2, column if node is not sub_deep[-1] else self._columns - 1, node)
        under = next(column for column, node in enumerate(sub_deep) if node.name == "conv4")
        for row, nodes, first in ((3, fusion, under), (4, deepest, 0)):
            for column, node in enumerate(nodes, first):
                self._box(row, column if node is not nodes[-1] else self._columns - 1, node)
        for row, nodes in enumerate(rows, 2):
            self._chain(row, nodes)
        self._around((1, map_name), (2, sub_deep[0].name), lane=0)
        self._around((1, "mixed_10"), (4, "pool_3"), lane=0 if map_name == "mixed_10" else 1)
        conv4, pool_3, fused = self._places[2, "conv4"], self._places[4, "pool_3"], self._places[3, fusion[0].name]
        self._drawing.arrow((conv4.x, conv4.bottom), (conv4.x, fused.top))
        self._drawing.arrow((pool_3.x, pool_3.top), (pool_3.x, fused.y), (fused.left, fused.y))

    def _at(self, row: int, column: int) -> Box:
        x = _LEFT + (column + 0.5) * self._across
        return Box(x, self._top - self._down * (row + 0.45), self._across - _GAP, 0.66)

    def _box(self, row: int, column: int, node: Node) -> None:
        place = self._places[row, node.name] = self._at(row, column)
        title = {"Standardise": "standardised"}.get(node.kind, node.name)
        size = f"{node.shape[0]} classes" if node.name == "softmax" else size_text(node.shape)
        lines = [title, node.detail, size, f"{node.parameters:,} params"]
        if not node.parameters:
            lines.pop()
        face = ACCENT if node.name in _FEATURES else SHADE
        self._drawing.box(place, lines, name=f"{row}_{node.name}", face=face, size=self._size)

    def _chain(self, row: int, nodes: Sequence[Node]) -> None:
        for before, after in pairwise(nodes):
            one, other = self._places[row, before.name], self._places[row, after.name]
            self._drawing.arrow((one.right, one.y), (other.left, other.y))

    def _around(self, start: tuple[int, str], end: tuple[int, str], *, lane: int) -> None:
        """From below one box to the left of another, through the gap below its row and the left margin."""
        one, other = self._places[start], self._places[end]
        y = one.bottom - (self._down - one.height) / 2 - 0.1 * lane
        x = _LEFT - 0.03 - 0.1 * lane
        self._drawing.arrow((one.x, one.bottom), (one.x, y), (x, y), (x, other.y), (other.left, other.y))


def _told(node: Node, detail: str) -> Node:
    return replace(node, detail=detail)


def _head(nodes: Sequence[Node], *, drawn: Sequence[str]) -> list[Node]:
    """A head as boxes: every layer with weights, and where several meet; what follows them belongs to them.

    Args:
        nodes: its layers.
        drawn: inputs that an arrow leads from; others that are met on the way are named.
    """
    by_name = {node.name: node for node in nodes}
    joins = {name: node.name for node in nodes if len(node.inputs) > 1 for name in node.inputs}
    groups: dict[str, str] = {}
    for node in nodes:
        before = groups.get(node.inputs[0], "") if len(node.inputs) == 1 else ""
        belongs = node.name.startswith(f"{before}_") or (node.kind in _PASSING and not node.parameters)
        if node.kind == "Standardise" and node.name in joins:
            groups[node.name] = joins[node.name]
        elif before and by_name[before].kind != "InputLayer" and belongs and not _ends(node, before):
            groups[node.name] = before
        else:
            groups[node.name] = node.name
    found = []
    for node in merged(nodes, groups):
        own = by_name[node.name]
        if own.kind != "InputLayer":
            name = "softmax" if own.name == "logits" else own.name
            met = [
                n for n in node.inputs if by_name[n].kind == "InputLayer" and n not in drawn and len(node.inputs) > 1
            ]
            detail = own.detail or (f"with {', '.join(met)}" if met else _KINDS.get(own.kind, own.kind))
            found.append(replace(node, name=name, kind=own.kind, shape=own.shape, detail=detail))
    return found


def _ends(node: Node, before: str) -> bool:
    """Whether it is the logits of a head whose last layer is not called softmax already."""
    return node.name == "logits" and before != "softmax"
