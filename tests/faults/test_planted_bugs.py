"""The suite has teeth: each of these bugs of one line, planted in a copy of the package, fails an ordinary test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from planted import BUGS, Bug

ROOT = Path(__file__).parents[2]
AT_CI = 2
FORGE = """
import json, os, sys, traceback
import duckdb, hypothesis, numpy, PIL.Image, pyarrow.compute, pyarrow.parquet, pydantic, pytest, sqlalchemy.orm
import pyiceberg.catalog.sql, pyiceberg.io.fsspec, pyiceberg.io.pyarrow
assert not any(name.split(".")[0] == "ferstore" for name in sys.modules)
for line in sys.stdin:
    root, log, tests = json.loads(line)
    child = os.fork()
    if not child:
        try:
            file = os.open(log, os.O_CREAT | os.O_WRONLY)
            os.dup2(file, 1), os.dup2(file, 2)
            import ferstore
            assert ferstore.__file__.startswith(root), ferstore.__file__
            code = pytest.main([*"-q -x --timeout 60 -p no:cacheprovider -p pytest_timeout".split(), *tests])
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported all but ferstore; each run of pytest is a fork of it, which imports the copy."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy").resolve()
    for part in ("ferstore", "schemas", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


Run = Callable[[list[str]], tuple[int, str]]


@pytest.fixture(scope="module")
def run(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run tests of the copy on the package of the copy: exit code and output.

    Nothing compiled is kept, which could outlive a line.
    """
    logs = tmp_path_factory.mktemp("logs")
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", FORGE], cwd=copy, env=environment, stdin=pipe, stdout=pipe, text=True
    ) as forge:
        assert forge.stdin is not None
        assert forge.stdout is not None
        stdin, stdout = forge.stdin, forge.stdout

        def run(tests: list[str]) -> tuple[int, str]:
            log = logs / str(len(list(logs.iterdir())))
            stdin.write(json.dumps([str(copy), str(log), tests]) + "\n")
            stdin.flush()
            return int(stdout.readline()), log.read_text("utf-8")

        yield run
        stdin.close()


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
def test_without_a_bug_the_tests_pass(run: Run, level: str) -> None:
    code, output = run(sorted({bug.caught_by for bug in chosen(level)}))
    assert code == 0, output


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS, ids=[bug.what for bug in BUGS])
def test_a_planted_bug_is_caught(
    bug: Bug, run: Run, planted: Callable[[Bug], None], level: str, tally: Callable[[str, int], None]
) -> None:
    planted(bug)
    if bug not in chosen(level):
        return  # at this level only: its line is still there
    code, output = run([bug.caught_by])
    assert (code, " failed" in output) == (1, True), f"{bug.what}: not caught by {bug.caught_by}\n{output}"
    tally("planted bugs caught", 1)
