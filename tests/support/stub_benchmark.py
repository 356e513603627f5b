"""A benchmark whose figures are known, for the runner's own test; it fails after its last row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.benchmarks.row import Row


def rows(inputs: Any) -> Iterator[Row]:
    """Met, missed, without an aim, absolute, lower is better, and not measured."""
    note = f"{len(list(inputs.some_faces(16).rglob('*.png')))} faces, {inputs.named}"
    yield Row("met", (1.0, 2.0, 6.0), (1.0, 1.0, 2.0), "images/s", 1.5, note=note)
    yield Row("missed", (1.0, 1.0, 1.0), (2.0, 2.0, 4.0), "images/s", 1.1)
    yield Row("to know", (3.0,), (2.0,), "images/s", None)
    yield Row("absolute", (4000.0, 6000.0, 5500.0), (), "rows/s", 5000)
    yield Row("lean", (76.0,), (532.0,), "bytes", 1 / 7, higher=False)
    yield Row("elsewhere", (), (), "images/s", 2.0, missing="no such device")
    raise RuntimeError("the disk is full")
