"""Branches get columns, and what forks or joins them spans theirs."""

from __future__ import annotations

from ferstore.network import Node
from ferstore.report.layout import levels_of, spans_of


def network(**inputs: str) -> list[Node]:
    return [Node(name, "Layer", (1,), 0, tuple(read.split())) for name, read in inputs.items()]


def test_a_chain_is_one_column() -> None:
    nodes = network(a="", b="a", c="b")
    assert spans_of(nodes) == {"a": (0, 1), "b": (0, 1), "c": (0, 1)}
    assert levels_of(nodes) == {"a": 0, "b": 1, "c": 2}


def test_branches_lie_beside_each_other_in_the_order_they_are_joined() -> None:
    # Given in another order than they are joined in, as Keras gives them: by depth.
    nodes = network(start="", z="start", b1="start", c="start", b2="b1", join="b2 c z", end="join")
    spans = spans_of(nodes)
    assert [spans[name] for name in ("b1", "b2", "c", "z")] == [(0, 1), (0, 1), (1, 2), (2, 3)]
    assert spans["start"] == spans["join"] == spans["end"] == (0, 3)
    assert [levels_of(nodes)[name] for name in ("start", "b1", "z", "b2", "join", "end")] == [0, 1, 1, 2, 3, 4]


def test_branches_of_branches_and_what_follows_a_join() -> None:
    nodes = network(
        start="",
        a="start",
        fork="start",
        x="fork",
        y="fork",
        inner="x y",
        join="a inner",
        p="join",
        q="join",
        end="p q",
    )
    spans = spans_of(nodes)
    assert (spans["a"], spans["x"], spans["y"]) == ((0, 1), (1, 2), (2, 3))
    assert spans["fork"] == spans["inner"] == (1, 3)
    assert spans["start"] == spans["join"] == (0, 3)
    assert (spans["p"], spans["q"], spans["end"]) == ((0, 1), (1, 2), (0, 3))
