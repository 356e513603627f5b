"""The page's numbers as CSV files: every row of Table 2 in detail, lists in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from ferstore.report.contents import Contents, Detail
from ferstore.report.entries import Entry
from ferstore.report.lineage import Health, TrainRun
from ferstore.report.results import Point, Result
from ferstore.report.scores import Bin, ClassScore

_ENTRY = ("dataset", "protocol", "training_set", "experiment", "recipe", "width", "settings", "extractor_id")


def csv_files(contents: Contents) -> dict[str, bytes]:
    """CSV files by name; one without rows has its header."""
    results = [result for detail in contents.details for result in detail.results]
    own = [field.name for field in fields(Entry) if field.name not in ("trainings", "classes")]
    layers = ("name", "shape_in", "kernels", "size", "shape_out", "parameters")
    return {
        "table-1.csv": _csv(
            ["classes", *layers],
            (
                [head.classes, *(_shape(getattr(layer, name)) for name in layers)]
                for head in contents.heads
                for layer in head.layers
            ),
        ),
        "table-2.csv": _csv(own, ([getattr(entry, name) for name in own] for entry in contents.entries)),
        "gains.csv": _csv(
            [*_ENTRY, "over", "own_percent", "paper_percent"],
            (
                [*(getattr(fusion, name) for name in _ENTRY), gain.over, gain.own, gain.paper]
                for detail in contents.details
                if (fusion := detail.lineup.entry("fusion"))
                for gain in detail.lineup.gains
            ),
        ),
        "classes.csv": _csv([*_ENTRY, *_names(ClassScore)], _each(results, lambda result: map(_values, result.scores))),
        "confusion.csv": _csv([*_ENTRY, "label", "predicted", "items"], _each(results, _confusion)),
        "calibration.csv": _csv([*_ENTRY, *_names(Bin)], _each(results, lambda r: map(_values, r.calibration.bins))),
        "curves.csv": _csv([*_ENTRY, *_names(Point)], _each(results, lambda result: map(_values, result.curve))),
        "fusion-against-deepest.csv": _csv(
            [*_ENTRY, "change", "item_id", "image_id", "fold", "label", "seeds", "of", "wrong"],
            (row for detail in contents.details for row in _items(detail)),
        ),
        "splits.csv": _csv(
            ["training_set", "class", "part", "fewest", "most"],
            (
                [split.name, label, part, span.low, span.high]
                for split in contents.splits
                for label, parts in split.by_class.items()
                for part, span in parts.items()
            ),
        ),
        "leakage.csv": _csv(
            ["training_set", "kind", "part", "found", "left"],
            (
                [split.name, leak.kind, leak.part, leak.found, leak.left]
                for split in contents.splits
                for leak in split.leaks
            ),
        ),
        "feature-health.csv": _csv(_names(Health), map(_values, contents.health)),
        "trainings.csv": _csv(
            [name for name in _names(TrainRun) if name != "versions"],
            ([v for n, v in asdict(run).items() if n != "versions"] for run in contents.lineage.runs),
        ),
    }


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    # Ten digits: the last bits of a mean depend on the order in which threads added up.
    writer.writerows([f"{cell:.10g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return text.getvalue().encode("utf-8")


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _values(row: Any) -> list[Any]:
    return [getattr(row, field.name) for field in fields(row)]


def _each(results: Iterable[Result], rows_of: Any) -> Iterator[list[Any]]:
    for result in results:
        for row in rows_of(result):
            yield [*_entry(result.entry), *row]


def _entry(entry: Entry) -> list[Any]:
    return [getattr(entry, name) for name in _ENTRY]


def _confusion(result: Result) -> Iterator[list[Any]]:
    for label, row in zip(result.entry.classes, result.confusion, strict=True):
        for predicted, items in zip(result.entry.classes, row, strict=True):
            yield [label, predicted, items]


def _items(detail: Detail) -> Iterator[list[Any]]:
    if detail.versus:
        for item in detail.versus.items:
            yield [*_entry(detail.versus.fusion), *_values(item)[:-1], " ".join(item.wrong)]


def _shape(value: Any) -> Any:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else value
