"""The paper's Table 1 as the head is built: read off the Keras model, of which no weight is ever made."""

from __future__ import annotations

import os

from ferstore.stderr import without_remarks

Row = tuple[str, tuple[int, ...], int, int, tuple[int, ...], int]
"""A layer: name, shape in, kernels, their size, shape out, trained parameters."""


_MAP = {"mixed_10": (8, 8, 2048)}


def table_1(classes: int, width: int) -> tuple[Row, ...]:
    """The convolutions of the sub-deep head under the recipe ``paper``, first to last.

    Args:
        classes: outputs of the last one.
        width: filters of conv1 to conv3; the paper's are 2,048.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_remarks():
        import keras

        from ferstore.train.heads import build
        from ferstore.train.job import HeadSpec

        # Variables made in here have a shape and no value: 132 million of them take no memory.
        with keras.StatelessScope(initialize_variables=False):
            model = build(HeadSpec("sub_deep", _MAP, classes, width))
    return tuple(
        (part.name, _values(part.input), part.filters, part.size, _values(part.output), part.count_params())
        for part in model.layers
        if hasattr(part, "filters")
    )


def _values(tensor: object) -> tuple[int, ...]:
    """A shape without its first dimension, that of the batch."""
    return tuple(int(size) for size in tensor.shape[1:])  # type: ignore[attr-defined]
