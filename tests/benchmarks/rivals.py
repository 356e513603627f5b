"""What a user would pick instead, whole commands with their start-up: the paper's way, and Ray Data.

Each reads the same files and leaves both features of each on disk. They are the scripts in ``peers/``; `extraction`
runs them turn by turn beside ferstore's own commands.
"""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.commands import run
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

PEERS = Path(__file__).parent / "peers"
OF_THE_AIM = 3600
NAMES = {"paper": ("the paper's way", 1.1), "ray_data": ("Ray Data", 1.3)}


class Rivals:
    """Each over the same faces, as often as asked; one that fails is not tried again."""

    def __init__(self, inputs: Inputs, faces: Path, images: int) -> None:
        self._inputs, self._faces, self._images = inputs, faces, images
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._problems: dict[str, str] = {}

    def turn(self) -> None:
        """Run each once."""
        for peer in NAMES:
            target = self._inputs.folder / peer
            if peer not in self._problems:
                try:
                    script = [sys.executable, str(PEERS / f"{peer}.py")]
                    command = [*script, str(self._faces), self._inputs.weights, str(target)]
                    done = run(command, timeout=60 + self._images, environment={"RAY_USAGE_STATS_ENABLED": "0"})
                    self._seconds[peer].append(done.seconds)
                except RuntimeError as error:
                    self._problems[peer] = str(error)
            shutil.rmtree(target, ignore_errors=True)

    def rows(self, ours: tuple[float, ...]) -> Iterator[Row]:
        """Against seconds of ferstore's ``init``, ``ingest`` and ``extract`` in the same turns."""
        note = f"init, ingest and extract; {self._images} {self._inputs.named}"
        if self._images < OF_THE_AIM:
            note += f"; the aim is for {OF_THE_AIM:,}, where start-up counts less (--full)"
        for peer, (name, aim) in NAMES.items():
            rates = [tuple(self._images / one for one in side) for side in (ours, self._seconds[peer])]
            missing = self._problems.get(peer)
            what = f"whole commands against {name}"
            yield Row(what, *([(), ()] if missing else rates), "images/s", aim, note=note, missing=missing)
