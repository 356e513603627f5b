"""The version that rows tell is of the code that runs, wherever that came from."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from ferstore import version as module


def copied(folder: Path) -> Callable[[], str]:
    """`own_version` of a copy of ferstore below a folder."""
    file = folder / "ferstore" / "version.py"
    file.parent.mkdir()
    shutil.copy(str(module.__file__), file)
    spec = importlib.util.spec_from_file_location("copied_version", file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    own: Callable[[], str] = found.own_version
    return own


def test_a_checkout_tells_its_own_version_whatever_is_installed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "ferstore"\nversion = "9.8.7"\n')
    assert copied(tmp_path)() == "9.8.7"


@pytest.mark.parametrize("other", [None, '[project]\nname = "other"\nversion = "9.8.7"\n', "[tool.x]\n"])
def test_elsewhere_it_is_that_of_the_package(tmp_path: Path, other: str | None) -> None:
    if other:
        (tmp_path / "pyproject.toml").write_text(other)
    assert copied(tmp_path)() == version("ferstore")


def test_a_copy_without_either_says_that_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", none)
    assert copied(tmp_path)() == "unknown"
