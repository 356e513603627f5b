"""The code's own state: formatted, linted, typed, packaged."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "--strict"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_tool_finds_nothing(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_carries_schemas_and_jobs_and_works_from_any_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "ferstore/schemas/images.toml" in names
    assert "ferstore/schemas/views/features.sql" in names
    assert "jobs/extract.py" in names
    assert {f"ferstore/report/templates/{name}" for name in ("report.html", "page.css", "page.js")} <= set(names)
    assert not any(name.startswith(("tests/", "schemas/")) for name in names)
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from ferstore.cli import main; main(['--store', 's', 'init'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s" / "ferstore.json").is_file()
