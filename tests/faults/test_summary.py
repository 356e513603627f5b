"""The runner of the fault suite counts what tests tell, and takes nothing for success that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_summary import AIMS, Summary, read

TESTS = """
import pytest

def test_one(request): request.node.user_properties.append(("count", ("kills", 3)))
def test_two(request): request.node.user_properties.append(("count", ("kills", 4)))
def test_three(): pytest.skip("no such server")
def test_four(): assert False
"""


def reported(folder: Path, name: str, *chosen: str) -> Path:
    """A report as pytest writes it."""
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={name}.xml", *[f"test_it.py::{t}" for t in chosen]]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    return folder / f"{name}.xml"


def test_counts_are_summed_and_failures_and_skips_are_named(tmp_path: Path) -> None:
    summary = read(
        [reported(tmp_path, "a", "test_one", "test_four"), reported(tmp_path, "b", "test_two", "test_three")]
    )
    assert summary.counts == {"kills": 7}
    assert summary.passed == 2
    assert summary.failed == ["test_it::test_four"]
    assert [(test, "no such server" in reason) for test, reason in summary.skipped] == [("test_it::test_three", True)]
    assert not summary.sound
    lines = list(summary.table())
    assert "BELOW ITS AIM: kills: 7 of 20" in lines
    assert "FAILED: test_it::test_four" in lines


def test_all_aims_reached_without_a_failure_are_a_success() -> None:
    assert Summary(dict(AIMS), passed=1).sound
    assert not Summary({**AIMS, "kills": AIMS["kills"] - 1}, passed=1).sound
    assert not Summary(dict(AIMS), failed=["x"]).sound
    said = Summary(dict(AIMS)).asdict(1.25, 7, "full")
    assert json.loads(json.dumps(said))["sound"] is True


@pytest.mark.parametrize("text", [None, "<testsuites>", "<testsuites></testsuites>"])
def test_a_run_that_came_to_no_end_is_a_failure(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "r.xml").write_text(text)
    assert len(read([tmp_path / "r.xml"]).failed) == 1
