"""The version of the code that runs: of a checkout, where it is one, else of the installed package."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path


@cache
def own_version() -> str:
    """ferstore's version; ``unknown`` where it was copied without ``pyproject.toml``.

    A working folder that Ray brings to a worker is installed nowhere, or there is a ferstore of another version too.
    """
    beside = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if beside.is_file():
        project = tomllib.loads(beside.read_text("utf-8")).get("project", {})
        if project.get("name") == "ferstore":
            return str(project["version"])
    try:
        return installed("ferstore")
    except PackageNotFoundError:
        return "unknown"
