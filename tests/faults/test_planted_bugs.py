"""The suite has teeth: each of these bugs of one line, planted in a copy of the package, fails an ordinary test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from planted import BUGS, Bug

ROOT = Path(__file__).parents[2]
AT_CI = 2
RUN = """
import sys
import ferstore, pytest
assert ferstore.__file__.startswith(sys.argv[1]), ferstore.__file__
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--timeout", "30", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy").resolve()
    for part in ("ferstore", "schemas", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(copy: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Tests of the copy on the package of the copy. Nothing compiled is kept, which could outlive a line."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", RUN, str(copy), *tests]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def planted(copy: Path) -> Iterator[Callable[[Bug], None]]:
    """Plant a bug; it is pulled up afterwards."""
    before: dict[Path, str] = {}

    def plant(bug: Bug) -> None:
        path = copy / "ferstore" / bug.file
        before[path] = path.read_text("utf-8")
        lines = before[path].splitlines()
        assert lines.count(bug.line) == 1, f"{bug.file} has this line {lines.count(bug.line)} times: {bug.line}"
        lines[lines.index(bug.line)] = bug.planted
        text = "\n".join(lines) + "\n"
        compile(text, str(path), "exec")  # else any test would fail
        path.write_text(text, "utf-8")

    yield plant
    for path, text in before.items():
        path.write_text(text, "utf-8")


def chosen(level: str) -> tuple[Bug, ...]:
    return BUGS[:AT_CI] if level == "ci" else BUGS


@pytest.mark.timeout(400)
def test_without_a_bug_the_tests_pass(copy: Path, level: str) -> None:
    done = run(copy, sorted({bug.caught_by for bug in chosen(level)}))
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", range(len(BUGS)), ids=[bug.what for bug in BUGS])
def test_a_planted_bug_is_caught(
    number: int, copy: Path, planted: Callable[[Bug], None], level: str, tally: Callable[[str, int], None]
) -> None:
    bug = BUGS[number]
    planted(bug)
    if bug not in chosen(level):
        return  # at this level only: its line is still there
    done = run(copy, [bug.caught_by])
    assert done.returncode == 1, f"{bug.what}: not caught by {bug.caught_by}\n{done.stdout}{done.stderr}"
    assert Counter(done.stdout.splitlines()[-1].split())["failed"] or "Timeout" in done.stdout + done.stderr
    tally("planted bugs caught", 1)
