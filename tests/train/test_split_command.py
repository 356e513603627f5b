"""``ferstore split`` as a command: exit codes, one JSON object, one line for an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from drawn import noise_store

from ferstore.sources import ingest as ingest_module


def ferstore(store: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ferstore.cli", "--store", store, "split", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_split_is_made_once_told_again_and_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "_READERS", 1)
    store = noise_store(tmp_path, 20).url
    asked = ("parts", "--dataset", "noise", "--protocol", "random")
    made = ferstore(store, *asked, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["parts"] == [{"train": 14, "validation": 2, "test": 4}]
    again = ferstore(store, *asked)
    assert (again.returncode, "exists already, nothing changed" in again.stdout) == (0, True)
    other = ferstore(store, *asked, "--seed", "1")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.startswith("ferstore: training set 'parts' exists")
    assert other.stderr.count("\n") == 1
