"""What a user would pick instead, whole commands with their start-up: the paper's way, and Ray Data.

Each reads the same files and leaves both features of each on disk. ``ferstore`` makes a store, registers the images
with their labels and extracts: three commands. The others are the scripts in ``peers/``.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.commands import run
from tests.benchmarks.filled import extract, new_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

PEERS = Path(__file__).parent / "peers"


def rows(inputs: Inputs) -> Iterator[Row]:
    """One turn runs each once."""
    images = inputs.of(quick=64, normal=384, full=3600)
    faces = inputs.some_faces(images)
    seconds: dict[str, list[float]] = {"ferstore": [], "paper": [], "ray_data": []}
    problems: dict[str, str] = {}
    for _ in range(inputs.turns):
        began = time.perf_counter()
        extract(inputs, new_store(inputs, faces, "rival"))
        seconds["ferstore"].append(time.perf_counter() - began)
        shutil.rmtree(inputs.folder / "rival")
        for peer in ("paper", "ray_data"):
            target = inputs.folder / peer
            if peer not in problems:
                try:
                    command = [sys.executable, str(PEERS / f"{peer}.py"), str(faces), inputs.weights, str(target)]
                    done = run(command, timeout=60 + images, environment={"RAY_USAGE_STATS_ENABLED": "0"})
                    seconds[peer].append(done.seconds)
                except RuntimeError as error:
                    problems[peer] = str(error)
            shutil.rmtree(target, ignore_errors=True)
    note = f"init, ingest and extract; {images} {inputs.named}"
    for peer, name, aim in (("paper", "the paper's way", 1.1), ("ray_data", "Ray Data", 1.3)):
        what = f"whole commands against {name}"
        rates = [tuple(images / second for second in seconds[side]) for side in ("ferstore", peer)]
        missing = problems.get(peer)
        yield Row(what, *([(), ()] if missing else rates), "images/s", aim, note=note, missing=missing)
