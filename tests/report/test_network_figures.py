"""Figures 1 and 4 are the layers that Keras built, with their shapes and counts, and can be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from matplotlib.patches import FancyBboxPatch
from pages import check_page, texts_of

from ferstore.network import Node, nodes_of
from ferstore.report.architecture import architecture_figure
from ferstore.report.canvas import fixed_style
from ferstore.report.last_nodes import last_nodes, last_nodes_figure
from ferstore.train.job import HeadSpec
from ferstore.train.recipe import MODERN, PAPER

pytestmark = pytest.mark.inception

WARNING = "RANDOM WEIGHTS (seed 0): what is drawn here says nothing about faces"
ABOUT = "Extractor 0123456789abcdef: w.weights.h5 weights, SHA-256 0123456789abcdef, in float32. " * 2
MAP = {"mixed_10": (8, 8, 2048)}
HEADS = {
    "paper": HeadSpec("sub_deep", MAP, 8, 2048, PAPER),
    "narrow": HeadSpec("sub_deep", MAP, 7, 64, replace(PAPER, batch_norm=True)),
    "modern": HeadSpec("sub_deep", MAP, 8, 2048, replace(MODERN, batch_norm=True, fusion="concat")),
    "margin": HeadSpec("sub_deep", MAP, 8, 64, replace(MODERN, loss="margin")),
    "two inputs": HeadSpec("sub_deep", {**MAP, "pool_3": (2048,)}, 8, 64, MODERN),
    "earlier map": HeadSpec("sub_deep", {"mixed_8": (8, 8, 1280)}, 8, 64, PAPER),
    "larger map": HeadSpec("sub_deep", {"mixed_7": (17, 17, 768)}, 8, 64, PAPER),
}


@pytest.fixture(scope="module")
def extractor() -> tuple[Node, ...]:
    from ferstore.extract import inception

    keras = inception.keras  # type: ignore[attr-defined]
    return nodes_of(keras.applications.InceptionV3(include_top=True, weights=None))


def heads(spec: HeadSpec) -> list[tuple[Node, ...]]:
    """Deepest, sub-deep and fusion of a head, each built by itself, with values where they are cheap."""
    import keras

    from ferstore.train.heads import build

    vectors = {"conv4": (2048,), "pool_3": (2048,)}
    specs = (
        replace(spec, experiment="deepest", shapes={"pool_3": (2048,)}),
        spec,
        replace(spec, experiment="fusion", shapes=vectors),
    )
    if spec.width < 2048:
        return [nodes_of(build(one)) for one in specs]
    with keras.StatelessScope(initialize_variables=False):
        found = [nodes_of(build(one)) for one in specs]
    keras.backend.clear_session()
    return found


def boxes(figure: Any) -> list[str]:
    return [
        gid.removeprefix("box_") for patch in figure.findobj(FancyBboxPatch) if (gid := str(patch.get_gid())) != "None"
    ]


@pytest.mark.parametrize("warning", ["", WARNING])
def test_the_last_nodes_are_drawn_once_each_and_can_be_read(extractor: tuple[Node, ...], warning: str) -> None:
    with fixed_style():
        figure = last_nodes_figure(extractor, about=ABOUT, warning=warning)
        check_page(figure)
        shown = texts_of(figure)
    parts = [node for node in last_nodes(extractor) if node.kind not in ("BatchNormalization", "Activation")]
    assert sorted(boxes(figure)) == sorted(["mixed8", *(node.name for node in parts)])
    assert len(parts) == 18 + 2 + 6 + 2  # convolutions, poolings, joins, pool_3 and softmax
    assert {"mixed_9", "mixed_10", "mixed_10 (Keras: mixed10)", "pool_3 (Keras: avg_pool)"} <= set(shown)
    assert "8 × 8 × 320" in shown
    assert (warning in shown) == bool(warning)


@pytest.mark.parametrize("name", HEADS)
def test_the_structure_is_the_models_with_every_parameter_once(name: str, extractor: tuple[Node, ...]) -> None:
    deepest, sub_deep, fusion = heads(HEADS[name])
    with fixed_style():
        figure = architecture_figure(extractor, deepest, sub_deep, fusion, about=ABOUT, warning=WARNING)
        check_page(figure)
        shown = texts_of(figure)
    totals = [
        sum(node.parameters for node in nodes if node.name != "predictions")
        for nodes in (extractor, sub_deep, fusion, deepest)
    ]
    counts = [int(text.split()[0].replace(",", "")) for text in shown if text.endswith(" params")]
    assert sum(counts) == 2 * sum(totals)  # each box's, and each row's sum
    assert all(f"{total:,} params" in shown for total in totals)
    drawn = boxes(figure)
    assert len(drawn) == len(set(drawn))
    assert {
        "0_image",
        "0_stem",
        "1_mixed_10",
        "2_conv1",
        "2_conv7" if name != "margin" else "2_softmax",
        "4_pool_3",
    } <= set(drawn)
    if name == "paper":
        assert totals == [21_802_784, 132_658_696, 16_392, 16_392]
    if name == "two inputs":
        assert "with pool_3" in shown
