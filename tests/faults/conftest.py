"""How much of the fault suite is run, and the counts it reports.

``FERSTORE_FAULTS`` is ``ci`` (the default: what every run of the tests has time for), ``full`` (what
``python -m tests.faults`` runs) or ``night`` (several times that).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast

import pytest
from bounded import Bounded

Level = Literal["ci", "full", "night"]
Tally = Callable[[str, int], None]


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """What is imported stays: the collector need not walk it thousands of times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def level() -> Level:
    """How much to run."""
    found = os.environ.get("FERSTORE_FAULTS", "ci")
    assert found in ("ci", "full", "night"), f"FERSTORE_FAULTS={found!r}: ci, full or night"
    return cast(Level, found)


@pytest.fixture
def full(level: Level) -> None:
    """For a test that a run of all tests has no time for."""
    if level == "ci":
        pytest.skip("takes long: FERSTORE_FAULTS=full has it")


@pytest.fixture
def night(level: Level) -> None:
    """For a test that the fault suite has no time for in its quarter of an hour."""
    if level != "night":
        pytest.skip("takes long: FERSTORE_FAULTS=night has it")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count something for the suite's summary: ``tally("crash points", 1)``. Counts of one name are summed."""
    return lambda what, count: request.node.user_properties.append(("count", (what, count)))


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Bounded]:
    """A process to decode files in."""
    with (tmp_path / "stderr").open("w+b") as log:
        made = Bounded(log)
        yield made
        made.close()
