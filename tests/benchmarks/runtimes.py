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

from ferstore.extract.weights import resolve
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
            running[name] = build(_exported(inputs))
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


def _keras_model(inputs: Inputs) -> Any:
    """From float32 pixels in 0..255 to mixed_10, with ferstore's weights."""
    import keras

    from ferstore.extract import inception

    full = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(299, 299, 3))
    inception.assign(full, resolve(inputs.weights).load())
    pixels = keras.Input((299, 299, 3), batch_size=BATCH)
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    return keras.Model(pixels, keras.Model(full.input, full.get_layer("mixed10").output)(scaled))


def _exported(inputs: Inputs) -> Path:
    """The network as an ONNX file."""
    path = inputs.folder / "inception.onnx"
    if not path.exists():
        model = _keras_model(inputs)
        model(np.zeros((BATCH, 299, 299, 3), np.float32))  # Keras exports no model that was never called
        model.export(str(path), format="onnx", verbose=False)
    return path


def _onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda batch: np.asarray(session.run(None, {given.name: batch.astype(np.float32)})[0])


def _openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  never a word home
    import openvino

    # Left to itself it computes in bfloat16 where the CPU can.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: np.asarray(compiled(batch.astype(np.float32))[0])
