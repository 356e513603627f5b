"""Table 1 is read off the head: the paper's counts at full width, and those of a head that is really built."""

from __future__ import annotations

import resource

import keras
import pytest

from ferstore.train.heads import build
from ferstore.train.job import HeadSpec
from ferstore.train.table_1 import table_1


@pytest.mark.parametrize(("classes", "parameters"), [(7, 132_658_183), (8, 132_658_696), (10, 132_659_722)])
def test_the_papers_table_and_no_weight_of_it(classes: int, parameters: int) -> None:
    table_1(classes, 8)  # what TensorFlow takes to begin
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = table_1(classes, 2048)
    with keras.StatelessScope():  # at its end Keras gives values to all that have none yet
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the weights are 518,000
    assert [(name, kernels, size) for name, _, kernels, size, _, _ in rows] == [
        ("conv1", 2048, 3), ("conv2", 2048, 3), ("conv3", 2048, 3), ("conv4", 2048, 2),
        ("conv5", 1024, 1), ("conv6", 512, 1), ("conv7", classes, 1),
    ]  # fmt: skip
    assert [row[1] for row in rows] == [(8, 8, 2048), *(row[4] for row in rows[:-1])]
    assert [row[4] for row in rows][:3] == [(6, 6, 2048), (4, 4, 2048), (2, 2, 2048)]
    assert sum(row[-1] for row in rows) == parameters


def test_a_built_head_has_as_many() -> None:
    model = build(HeadSpec("sub_deep", {"mixed_10": (8, 8, 2048)}, 5, 4))
    assert sum(row[-1] for row in table_1(5, 4)) == model.count_params()
