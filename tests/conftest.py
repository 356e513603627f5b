"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real faces and trained weights: ``FERSTORE_SHARED``, else ``../shared`` beside the project."""
    folder = Path(os.environ.get("FERSTORE_SHARED", Path(__file__).parents[2] / "shared")).resolve()
    if not (folder / "data" / "ferplus-sample").is_dir():
        pytest.skip(f"no shared faces at {folder}: set FERSTORE_SHARED")
    return folder
