"""What the benchmarks run on: faces, weights, a folder for what they make, and how much of everything."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ferstore.extract.weights import resolve
from ferstore.sources.layouts import write_ferplus

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("FERSTORE_SHARED") or ROOT.parent / "shared")
PARTS = ("FER2013Train", "FER2013Valid", "FER2013Test")
_PICTURES = (".png", ".jpg", ".jpeg", ".tiff", ".bmp")
T = TypeVar("T")

Size = Literal["quick", "normal", "full"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Given to every benchmark.

    Attributes:
        faces: a folder in the layout of the official FERPLUS extraction, or of ``<class>/<file>``.
        weights: as ``ferstore extract --weights`` takes them.
        folder: for what is made; the benchmarks of one run share it.
        size: ``quick`` shows that everything works, ``normal`` keeps to 20 minutes, ``full`` is the aims' own size.
        named: faces and weights in words, for a row's note.
        turns: repetitions.
    """

    faces: Path
    weights: str
    folder: Path
    size: Size
    named: str
    turns: int = 3

    @property
    def quick(self) -> bool:
        """Whether figures do not matter."""
        return self.size == "quick"

    @property
    def kind(self) -> str:
        """Of data set, for ``ferstore ingest``."""
        return kind_of(self.faces)

    def of(self, *, quick: T, normal: T, full: T) -> T:
        """What is asked for at this size."""
        return {"quick": quick, "normal": normal, "full": full}[self.size]

    def some_faces(self, count: int) -> Path:
        """A folder with so many of the faces (fewer where there are no more), in their layout, from all parts."""
        folder = self.folder / f"faces-{count}"
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            (_some_of_ferplus if self.kind == "ferplus" else _some_of_classes)(self.faces, partial, count)
            partial.rename(folder)
        return folder


def prepare(faces: Path | None, weights: str | None, folder: Path, size: Size) -> Inputs:
    """What is asked for; else the shared faces and weights where they are; else drawn faces and random weights."""
    sample, builder = SHARED / "data" / "ferplus-sample", SHARED / "weights" / "build_inception_v3_weights.py"
    if faces is None and sample.is_dir():
        faces = sample
    named = f"faces of {faces.name}" if faces else "DRAWN FACES"
    if faces is None:
        faces = folder / "drawn"
        counts = {"quick": (96, 32, 32), "normal": (720, 180, 180), "full": (2400, 600, 600)}[size]
        write_ferplus(faces, seed=1, per_part=counts)
    if weights is None and builder.is_file():
        weights = str(folder / "inception_v3.weights.h5")
        subprocess.run([sys.executable, builder, weights], check=True, capture_output=True)
    found = resolve(weights or "random")
    word = "RANDOM WEIGHTS" if found.kind == "random" else f"weights {found.sha256[:8]}"
    return Inputs(faces.absolute(), weights or "random", folder.absolute(), size, f"{named}, {word}")


def kind_of(folder: Path) -> str:
    """Of data set, for ``ferstore ingest``: the official extraction of FERPLUS, or ``<class>/<file>``."""
    return "ferplus" if (folder / PARTS[0]).is_dir() else "folder"


def pictures(folder: Path) -> list[Path]:
    """Image files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)


def _share(counts: list[int], wanted: int) -> list[int]:
    total = sum(counts)
    return counts if total <= wanted else [round(count * wanted / total) for count in counts]


def _spread(items: list[T], count: int) -> list[T]:
    """So many, evenly spread over all."""
    return [items[at * len(items) // count] for at in range(count)]


def _some_of_ferplus(faces: Path, target: Path, count: int) -> None:
    lines = {part: list(csv.reader((faces / part / "label.csv").open(encoding="utf-8", newline=""))) for part in PARTS}
    for part, share in zip(PARTS, _share([len(lines[part]) for part in PARTS], count), strict=True):
        (target / part).mkdir(parents=True)
        chosen = _spread(lines[part], share)
        for line in chosen:
            shutil.copy(faces / part / line[0], target / part / line[0])
        with (target / part / "label.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(chosen)


def _some_of_classes(faces: Path, target: Path, count: int) -> None:
    classes = [pictures(folder) for folder in sorted(faces.iterdir()) if folder.is_dir()]
    for files, share in zip(classes, _share([len(files) for files in classes], count), strict=True):
        for file in _spread(files, share):
            place = target / file.relative_to(faces)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
