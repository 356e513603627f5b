"""Where the layers of a branching network go: columns for branches, levels for depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ferstore.network import Node

Span = tuple[int, int]
"""First column, and the column behind the last."""


def levels_of(nodes: Sequence[Node]) -> dict[str, int]:
    """How many layers lie before each, along the longest way."""
    levels: dict[str, int] = {}
    for node in nodes:
        levels[node.name] = max((levels[name] + 1 for name in node.inputs if name in levels), default=0)
    return levels


def spans_of(nodes: Sequence[Node]) -> dict[str, Span]:
    """The columns of each layer, so that every connection can be drawn straight down.

    A branch has a column of its own; where a layer forks into branches, or joins them, it spans all of theirs.

    Args:
        nodes: a network from one layer to one, in which what forks joins again; inputs before what reads them.
    """
    inputs = {node.name: node.inputs for node in nodes}
    readers = Counter(name for node in nodes for name in node.inputs)
    forks = {name for name, count in readers.items() if count > 1}
    spans: dict[str, Span] = {}
    # From the end to the beginning: what joins branches has them in order, what forks into them has not.
    _walk(nodes[-1].name, 0, inputs, forks, spans)
    return spans


def _walk(
    name: str, low: int, inputs: Mapping[str, Sequence[str]], forks: set[str], spans: dict[str, Span]
) -> tuple[int, str | None]:
    """Place a branch from one layer back; returns the column behind it, and the layer it forked from."""
    branch, high = [name], low + 1
    while True:
        ways = inputs[branch[-1]]
        if len(ways) > 1:
            column, end = low, None
            for way in ways:
                column, end = _walk(way, column, inputs, forks, spans)
            high = max(high, column)
        else:
            end = ways[0] if ways else None
            if end in forks:
                break
        if end is None:
            break
        branch.append(end)
    spans |= dict.fromkeys(branch, (low, high))
    return high, end
