"""The folder of a report: checked before anything is written, and each file replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ferstore.errors import InputError
from ferstore.store.files import local_path

MANIFEST = "report.json"


def check_folder(folder: Path, store_url: str) -> None:
    """Refuse a place that is no folder, or is the store's.

    Raises:
        InputError: why not.
    """
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"--output {folder}: {path} is a file", hint="name a folder, new or there already")
            break
    root = local_path(store_url)
    if root is not None and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(str(root))):
        raise InputError(f"--output {folder} lies inside the store", hint="choose a folder outside it")


def manifest(names: Iterable[str]) -> bytes:
    """The report's own list of its files, by which a later one knows what it may remove."""
    return (json.dumps({"files": sorted({*names, MANIFEST})}, indent=1) + "\n").encode("utf-8")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files under temporary names and rename them; then remove those of an earlier report that are no more.

    Only files that the earlier report's own list names are removed, so that nothing else in the folder is touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _listed(folder / MANIFEST)
    for name, data in files.items():
        partial = folder / f".{name}.partial"
        try:
            partial.write_bytes(data)
            partial.replace(folder / name)
        finally:
            partial.unlink(missing_ok=True)
    for name in earlier - files.keys():
        (folder / name).unlink(missing_ok=True)


def _listed(manifest: Path) -> set[str]:
    try:
        names = json.loads(manifest.read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {
        name
        for name in names
        if isinstance(name, str) and Path(name).name == name and (manifest.parent / name).is_file()
    }
