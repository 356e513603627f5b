"""The paper's Table 1 as the head is built: read off the Keras model."""

from __future__ import annotations

from typing import Any

from ferstore.train.job import HeadSpec
from ferstore.train.weightless import look_at

Row = tuple[str, tuple[int, ...], int, int, tuple[int, ...], int]
"""A layer: name, shape in, kernels, their size, shape out, trained parameters."""


_MAP = {"mixed_10": (8, 8, 2048)}


def table_1(classes: int, width: int) -> tuple[Row, ...]:
    """The convolutions of the sub-deep head under the recipe ``paper``, first to last.

    Args:
        classes: outputs of the last one.
        width: filters of conv1 to conv3; the paper's are 2,048.
    """
    return look_at(HeadSpec("sub_deep", _MAP, classes, width), _rows)


def _rows(model: Any) -> tuple[Row, ...]:
    return tuple(
        (part.name, _values(part.input), part.filters, part.size, _values(part.output), part.count_params())
        for part in model.layers
        if hasattr(part, "filters")
    )


def _values(tensor: Any) -> tuple[int, ...]:
    """A shape without its first dimension, that of the batch."""
    return tuple(int(size) for size in tensor.shape[1:])
