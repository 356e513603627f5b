"""The benchmark runner, with a stub in the place of what takes minutes: nothing here is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.inputs import kind_of
from tests.benchmarks.turns import rates

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, object], str]:
    """The runner's end, its JSON and its Markdown; no shared faces or weights, and no driver of a GPU, are found."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "support")))
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "FERSTORE_SHARED": str(folder / "none"),
        "PATH": str(folder),
        "TMPDIR": str(folder),
    }
    files = [folder / "found.json", folder / "found.md"]
    command = [sys.executable, "-m", "tests.benchmarks", "--json", str(files[0]), "--markdown", str(files[1])]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert files[0].is_file(), done.stderr
    return done, json.loads(files[0].read_text()), files[1].read_text()


def test_a_run_gives_every_row_in_json_and_markdown_and_fails_where_a_benchmark_did(tmp_path: Path) -> None:
    done, found, table = run(tmp_path, "--quick", "--only", "stub_benchmark")
    assert done.returncode == 1
    assert done.stdout == table
    rows = found["rows"]
    assert isinstance(rows, list)
    verdicts = {row["what"]: row["passes"] for row in rows}
    expected = {"met": True, "missed": False, "to know": None, "absolute": True, "lean": True, "elsewhere": None}
    assert verdicts == {**expected, "stub_benchmark": None}
    met = rows[0]
    assert (met["ours"], met["other"], met["ratio"], met["spread"]) == ([1, 2, 6], [1, 1, 2], 2, [1, 3])
    assert met["note"] == "16 faces, DRAWN FACES, RANDOM WEIGHTS"
    lines = table.splitlines()
    assert (
        "| met; 16 faces, DRAWN FACES, RANDOM WEIGHTS | 2 images/s | 1 images/s | 2.00 (1.00 to 3.00) | ≥ 1.5 | pass |"
        in lines
    )
    assert "| missed | 1 images/s | 2 images/s | 0.50 (0.25 to 0.50) | ≥ 1.1 | **short** |" in lines
    assert "| absolute | 5,500 rows/s | | 4,000 to 6,000 | ≥ 5000 rows/s | pass |" in lines
    assert "| elsewhere | not measured: no such device | | | ≥ 2 | |" in lines
    assert any("the disk is full" in line for line in lines)


def test_rows_of_a_gpu_say_that_there_is_none(tmp_path: Path) -> None:
    done, found, table = run(tmp_path, "--gpu", "--quick")
    assert done.returncode == 0
    rows = found["rows"]
    assert isinstance(rows, list)
    assert len(rows) >= 3
    assert {row["missing"] for row in rows} == {"no GPU"}
    assert table.count("not measured: no GPU") == len(rows)


def test_a_folder_is_ingested_as_what_it_holds_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "of-ferplus" / "FER2013Train").mkdir(parents=True)
    (tmp_path / "photos" / "class-0").mkdir(parents=True)
    assert [kind_of(tmp_path / name) for name in ("of-ferplus", "photos")] == ["ferplus", "folder"]


def test_a_turn_is_cut_in_pieces_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def way(name: str, seconds: float, items: int) -> Callable[[], int]:
        def run() -> int:
            calls.append(name)
            clock[0] += seconds
            return items

        return run

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    ways = {"a": way("a", 1, 4), "b": way("b", 2, 4), "c": way("c", 8, 8)}
    found = rates(ways, 2, pieces={"a": 3, "b": 3})
    assert found == {"a": (4, 4), "b": (2, 2), "c": (1, 1)}
    assert "".join(calls) == "cbaabba" + "abcbaab" + "cbaabba"  # the first is for warmth
    assert rates(ways, 1, warm=0) == {"a": (4,), "b": (2,), "c": (1,)}
