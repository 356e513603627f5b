"""One call, one figure; stores and results as notebooks show them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from reported import CLASSES, Filled

from ferstore.api import FeatureStore
from ferstore.errors import InputError
from ferstore.report.charts import curves
from ferstore.report.results import Point
from ferstore.store.store import init_store


def labels(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_confusion_matrix_is_one_call(filled: Filled) -> None:
    figure = filled.api.confusion_matrix("parts-deepest-0")
    assert isinstance(figure, Figure)
    [axes] = figure.axes
    assert "deepest on parts (run parts-deepest-0), test" in axes.get_title(loc="left")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(CLASSES)
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "1"), ((1, 0), "2"), ((0, 1), "1"), ((1, 1), "2"),
    }  # fmt: skip
    np.testing.assert_allclose(axes.images[0].get_array()[0], [1 / 3, 2 / 3, 0])
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_a_curve_is_one_call_train_orange_and_validation_blue_and_other_dashes(filled: Filled) -> None:
    accuracy, loss = filled.api.curve("parts-deepest-0").axes
    lines = {line.get_label(): line for line in accuracy.get_lines()}
    assert {name: to_hex(str(line.get_color())) for name, line in lines.items()} == {
        "train": "#e69f00",
        "validation": "#0072b2",
    }
    assert lines["train"].get_linestyle() != lines["validation"].get_linestyle()
    np.testing.assert_allclose(lines["validation"].get_ydata(), [100 * (1 - 0.5 / n) for n in (1, 2, 3)])
    np.testing.assert_allclose(loss.get_lines()[0].get_ydata(), [2 / n + 0.05 for n in (1, 2, 3)])  # of two updates


def test_a_curve_of_a_training_that_diverged_ends_where_it_did(filled: Filled) -> None:
    _, loss = filled.api.curve("parts-diverged").axes
    found = loss.get_lines()[1].get_ydata()
    assert [bool(np.isfinite(value)) for value in np.asarray(found, float)] == [True, True, False]


@pytest.mark.parametrize(("first", "scale"), [(40.0, "log"), (3.0, "linear")])
def test_a_wild_first_loss_flattens_nothing(first: float, scale: str) -> None:
    losses = [first, 1.2, 1.1, 1.0, 0.9]
    points = [Point("train", n, 1, *[loss] * 3, *[0.5] * 3) for n, loss in enumerate(losses, 1)]
    accuracy, loss = curves(points, "t").axes
    assert (accuracy.get_yscale(), loss.get_yscale()) == ("linear", scale)
    assert ("logarithmic" in loss.get_ylabel()) == (scale == "log")


def test_neighbours_are_one_call_with_their_pictures(filled: Filled) -> None:
    [(image,)] = filled.api.sql("select image_id from images where item_id = '001.png'").rows()
    figure = filled.api.neighbour_grid(image, k=3)
    cells = [axes for axes in figure.axes if axes.get_visible()]
    near = filled.api.similar(image, k=3)
    assert [axes.get_xlabel().split()[0] for axes in cells] == ["asked", *(f"{n.similarity:.3f}" for n in near)]
    assert [str(n.item_id)[-24:] in axes.get_xlabel() for n, axes in zip(near, cells[1:], strict=True)] == [True] * 3
    assert all(len(axes.images) == 1 for axes in cells)
    moved = filled.faces / "1.png"
    data = moved.read_bytes()
    moved.unlink()
    try:
        assert len(filled.api.neighbour_grid(image, k=3).axes[0].images) == 0  # an empty frame, not an error
    finally:
        moved.write_bytes(data)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda api: api.confusion_matrix("nosuch"), r"no training 'nosuch'; allowed: folded-1, folded-0"),
        (lambda api: api.curve("i"), r"no training 'i'"),
        (lambda api: api.confusion_matrix("parts-deepest-0", part="train"), r"allowed: validation or test"),
        (lambda api: api.confusion_matrix("parts-diverged"), r"no predictions of test; it is diverged"),
        (lambda api: api.confusion_matrix("parts-deepest-0", part="validation"), r"no predictions of validation"),
        (lambda api: api.neighbour_grid("f" * 64), r"has no pool_3"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    filled: Filled, call: Callable[[FeatureStore], Figure], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        call(filled.api)


def test_results_are_small_tables(filled: Filled) -> None:
    result = filled.api.sql("select range as n, 'x' || range as name, null as nothing from range(12)")
    lines = repr(result).splitlines()
    assert lines[0] == "<12 rows: n, name, nothing>"
    assert lines[1].split() == ["n", "name", "nothing"]
    assert [line.split() for line in lines[2:]] == [[str(n), f"x{n}"] for n in range(10)]
    long = repr(filled.api.sql("select pool_3, item_id from features limit 1"))
    assert "2,048 values]" in long
    assert max(map(len, long.splitlines())) < 140


def test_nothing_in_a_table_of_a_notebook_is_markup(filled: Filled) -> None:
    html = filled.api.sql("""select '<b>' as "<i>", '&' as amp""")._repr_html_()
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;" in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_a_store_shows_its_tables(filled: Filled, tmp_path: Path) -> None:
    html = filled.api._repr_html_()
    assert filled.api.url in html
    assert '<td style="text-align:left">images</td><td style="text-align:right">12</td>' in html
    assert "images 12" in repr(filled.api)
    empty = FeatureStore(init_store(str(tmp_path / "store")))
    assert "0 rows" in empty._repr_html_()
    assert "empty" in repr(empty)
