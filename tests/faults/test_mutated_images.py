"""Good files changed at random, through the decoder in a bounded process: pixels or a typed error, and nothing else.

``FERSTORE_FAULTS_SEED`` runs other mutants; a failure names the seed, the number and a file with the bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter

import pytest
from bounded import PEAK, Bounded
from mutants import good_files, mutant

from tests.faults.conftest import Level, Tally

MUTANTS = {"ci": 1_000, "full": 20_000, "night": 100_000}
SEED = int(os.environ.get("FERSTORE_FAULTS_SEED", "20160618"))


def kept(data: bytes) -> str:
    """The bytes in a file that outlives the test."""
    descriptor, path = tempfile.mkstemp(prefix="ferstore-mutant-")
    with open(descriptor, "wb") as file:
        file.write(data)
    return path


def test_the_files_that_are_mutated_are_good(bounded: Bounded) -> None:
    for name, data in good_files().items():
        found = bounded.decode(data)
        assert isinstance(found, dict), (name, found, bounded.printed())
        assert (found["refused"] is None) == (name != "float.pfm"), (name, found)  # floats have no known white
    assert bounded.printed() == ""


def test_a_mutant_is_made_again_from_its_seed_and_number() -> None:
    made = [mutant(1, number) for number in range(200)]
    assert made == [mutant(1, number) for number in range(200)]
    assert made != [mutant(2, number) for number in range(200)]


@pytest.mark.timeout(3600)
def test_a_mutant_is_pixels_or_a_typed_error(bounded: Bounded, level: Level, tally: Tally) -> None:
    outcomes: Counter[str] = Counter()
    printed = ""
    for number in range(MUTANTS[level]):
        what, data = mutant(SEED, number)
        found = bounded.decode(data)
        words = bounded.printed()
        if isinstance(found, str) or words != printed or int(str(found["peak"])) > PEAK:
            pytest.fail(f"seed {SEED}, mutant {number} ({what}), kept as {kept(data)}: {found}\n{words[-2000:]}")
        outcomes["pixels" if found["refused"] is None else "refused"] += 1
    tally("mutated images", outcomes.total())
    assert min(outcomes.values()) > MUTANTS[level] // 10, outcomes
