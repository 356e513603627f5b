"""Other runtimes on the same network, to know whether one would be worth its weight; ``pip install -e '.[bench]'``.

float32, the same batch of 32 in memory, all cores. An output that differs by more than rounding is no result.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.extraction import BATCH, Bare
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.turns import rates

RUNTIMES = {"ONNX Runtime": ("onnxruntime", "tf2onnx"), "OpenVINO": ("openvino", "tf2onnx")}
_CLOSE = 1e-3
"""Largest difference of mixed_10 allowed, as a share of its largest value."""


def rows(inputs: Inputs) -> Iterator[Row]:
    """A row a runtime: ferstore's network against it, so a ratio below 1 means that it is faster."""
    bare = Bare(inputs, inputs.some_faces(inputs.of(quick=40, normal=40, full=256)), seconds=1)
    batches = [batch for batch in bare.batches if len(batch) == BATCH]
    expected = bare.network(batches[0])["mixed_10"]
    running: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    problems = {}
    for name, modules in RUNTIMES.items():
        lacking = [module for module in modules if importlib.util.find_spec(module) is None]
        if lacking:
            problems[name] = f"no {' and '.join(lacking)}: pip install -e '.[bench]'"
            continue
        build = {"ONNX Runtime": _onnx, "OpenVINO": _openvino}[name]
        try:
            running[name] = build(_exported(bare, inputs.folder / "inception.onnx"))
            difference = np.abs(running[name](batches[0]) - expected).max() / np.abs(expected).max()
            if difference > _CLOSE:
                problems[name] = f"its output differs by {difference:.1e} of the largest"
        except Exception as error:
            problems[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    seconds = inputs.of(quick=0.5, normal=1.5, full=15.0)
    ways: dict[str, Callable[[], int]] = {"ferstore": lambda: _for(seconds, bare.network, batches)}
    for name, network in running.items():
        if name not in problems:
            ways[name] = lambda network=network: _for(seconds, network, batches)
    found = rates(ways, inputs.turns)
    for name in RUNTIMES:
        what = f"ferstore's network against {name}, float32, batches of {BATCH}"
        if name in problems:
            yield Row(what, (), (), "images/s", None, missing=problems[name])
        else:
            note = f"{inputs.named}; only to know: it would be taken at a ratio below {1 / 1.5:.2f}"
            yield Row(what, found["ferstore"], found[name], "images/s", None, note=note)


def _for(seconds: float, network: Callable[[np.ndarray], Any], batches: list[np.ndarray]) -> int:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for batch in batches:
            network(batch)
            done += len(batch)
    return done


def _exported(bare: Bare, path: Path) -> Path:
    """ferstore's own graph as an ONNX file: uint8 pixels to mixed_10."""
    if not path.exists():
        import tf2onnx

        function = bare.network._run  # its weights are constants already
        names = ([one.name for one in end] for end in (function.inputs, function.outputs))
        model, _ = tf2onnx.convert.from_graph_def(function.graph.as_graph_def(), None, *names)
        path.write_bytes(model.SerializeToString())
    return path


def _onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda batch: np.asarray(session.run(None, {given.name: batch})[0])


def _openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  never a word home
    import openvino

    # Left to itself it computes in bfloat16 where the CPU can.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: np.asarray(compiled(batch)[0])
