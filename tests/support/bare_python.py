"""A Python that has everything that this one has, but no ferstore."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path


def bare_python(folder: Path) -> str:
    """Make its environment in a folder, of links to the packages of this one; returns the interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    [packages] = folder.glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        # What an editable installation leaves: a name with ferstore in it, or a line of a .pth file.
        own = "ferstore" in package.name or (package.suffix == ".pth" and "ferstore" in package.read_text("utf-8"))
        if not own and not package.name.startswith("__"):
            (packages / package.name).symlink_to(package)
    return str(folder / "bin" / "python")
