"""Good files changed at random, through the decoder in a bounded process: pixels or a typed error, and nothing else.

``FERSTORE_FAULTS_SEED`` runs other mutants; a failure names the seed, the number and a file with the bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from mutants import good_files, mutant

from tests.faults.conftest import Level, Tally

MUTANTS = {"ci": 1_000, "full": 20_000, "night": 100_000}
SEED = int(os.environ.get("FERSTORE_FAULTS_SEED", "20160618"))
SECONDS = 20.0  # an image may take; the slowest of the mutants is one of 100 million pixels
PEAK = 3 << 29  # bytes of resident memory: the bound that `ferstore.image.decode` states
ROOT = Path(__file__).parents[2]


class Bounded:
    """A process that decodes, started again when it dies; what it prints is kept."""

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> dict[str, object] | str:
        """What the child says of a file, or how it ended."""
        child = self._child = self._child or self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        watchdog = threading.Timer(SECONDS, child.kill)
        watchdog.start()
        try:
            child.stdin.write(len(data).to_bytes(8, "little") + data)
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            watchdog.cancel()
        if answer:
            return dict(json.loads(answer))
        code = child.wait()
        self.close()
        return f"took longer than {SECONDS:.0f} s" if code == -9 else f"ended with {code}"

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _started(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests/support")))
        return subprocess.Popen(
            [sys.executable, "-m", "decode_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "stderr").open("w+b") as file:
        yield file


@pytest.fixture
def bounded(log: IO[bytes]) -> Iterator[Bounded]:
    made = Bounded(log)
    yield made
    made.close()


def said(log: IO[bytes]) -> str:
    log.flush()
    return Path(log.name).read_text("utf-8", "replace")


def kept(data: bytes) -> str:
    """The bytes in a file that outlives the test."""
    descriptor, path = tempfile.mkstemp(prefix="ferstore-mutant-")
    with open(descriptor, "wb") as file:
        file.write(data)
    return path


def test_the_files_that_are_mutated_are_good(bounded: Bounded, log: IO[bytes]) -> None:
    for name, data in good_files().items():
        found = bounded.decode(data)
        assert isinstance(found, dict), (name, found, said(log))
        assert (found["refused"] is None) == (name != "float.pfm"), (name, found)  # floats have no known white
    assert said(log) == ""


def test_a_mutant_is_made_again_from_its_seed_and_number() -> None:
    made = [mutant(1, number) for number in range(200)]
    assert made == [mutant(1, number) for number in range(200)]
    assert made != [mutant(2, number) for number in range(200)]


@pytest.mark.timeout(3600)
def test_a_mutant_is_pixels_or_a_typed_error(bounded: Bounded, log: IO[bytes], level: Level, tally: Tally) -> None:
    outcomes: Counter[str] = Counter()
    printed = ""
    for number in range(MUTANTS[level]):
        what, data = mutant(SEED, number)
        found = bounded.decode(data)
        words = said(log)
        if isinstance(found, str) or words != printed or int(str(found["peak"])) > PEAK:
            pytest.fail(f"seed {SEED}, mutant {number} ({what}), kept as {kept(data)}: {found}\n{words[-2000:]}")
        outcomes["pixels" if found["refused"] is None else "refused"] += 1
    tally("mutated images", outcomes.total())
    assert min(outcomes.values()) > MUTANTS[level] // 10, outcomes
