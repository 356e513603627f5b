"""One store for all tests of the report; none changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reported import Filled, report_store


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, put: Callable[..., Any]) -> Filled:
    """Three training sets: two seeds of all experiments; two folds on random weights; one without a training."""
    return report_store(tmp_path_factory.mktemp("report"), put)


@pytest.fixture(scope="session")
def made(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of all of it."""
    folder = tmp_path_factory.mktemp("made") / "out"
    filled.api.report(folder)
    return folder
