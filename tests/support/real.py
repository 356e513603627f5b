"""Real faces and trained weights of the shared folder, as tests use them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def built_weights(shared: Path, folder: Path) -> Path:
    """The trained weights as a file that Keras reads."""
    file = folder / "trained.weights.h5"
    builder = shared / "weights" / "build_inception_v3_weights.py"
    subprocess.run([sys.executable, builder, file], check=True, capture_output=True)
    return file


def first_faces(shared: Path, folder: Path, each: int) -> Path:
    """The first faces of each part, in the official layout."""
    for part in ("Train", "Valid", "Test"):
        source, target = shared / "data" / "ferplus-sample" / f"FER2013{part}", folder / f"FER2013{part}"
        target.mkdir()
        lines = (source / "label.csv").read_text().splitlines()[:each]
        (target / "label.csv").write_text("\n".join(lines) + "\n")
        for line in lines:
            shutil.copy(source / line.split(",")[0], target)
    return folder
