"""Training on a GPU: ``python -m tests.benchmarks --gpu``. Without one its row says so."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.gpu import NO_GPU, gpu_name
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.turns import rates

WHAT = "training of sub_deep on one GPU, fed from Parquet, against the same from memory"


def rows(inputs: Inputs) -> Iterator[Row]:
    """As measured, or not measured and why."""
    name = gpu_name()
    if name is None:
        yield Row(WHAT, (), (), "samples/s", 0.9, missing=NO_GPU)
        return
    from ferstore.train.trainer import configure
    from tests.benchmarks.training import Loop, load

    configure(gpus=1)
    for width in inputs.of(quick=(64,), normal=(256, 2048), full=(256, 2048)):
        loop = Loop(load(inputs, "mixed_10"), "sub_deep", width, inputs.of(quick=0.3, normal=3.0, full=10.0))
        ways = {"parquet": loop.parquet, "memory": loop.memory}
        found = rates(ways, inputs.turns, pieces=dict.fromkeys(ways, loop.pieces))
        loop.close()
        note = f"{name}; width {width}"
        yield Row(WHAT, found["parquet"], found["memory"], "samples/s", 0.9, note=note)
