"""A folder made to break an ingest: bounded memory, one line an error, and an account of every file."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import picture, write
from PIL import Image

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes of pixels do not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    """An archive with a member that leaves it, and one of 400 MB in 400 kB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("faces/../../escape.png", picture(1))
        archive.writestr("/absolute.png", picture(2))
        archive.writestr("faces/inside.png", picture(3))
        archive.writestr("faces/bomb.png", bytes(400 << 20))
    return stream.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
GOOD = {
    "happy/good.png": picture(10),
    "happy/same-bytes.png": picture(10),
    "happy/cmyk.jpg": saved(NOISE.convert("CMYK"), "jpeg"),
    "happy/16-bit.png": saved(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160), "png"),
    "happy/animated.gif": saved(NOISE, "gif", save_all=True, append_images=[NOISE.rotate(90)]),
    "happy/wrong-suffix.jpg": picture(11),
    "sad/größe 顔 🙂.png": picture(12),
    "sad/a b#c?d%20e.png": picture(13),
    "sad/no-suffix": picture(14),
}
BROKEN = {
    "happy/empty.png": b"",
    "happy/truncated.png": picture(20, 64)[:900],
    "happy/truncated.jpg": saved(NOISE, "jpeg")[:200],
    "happy/text.jpg": b"this is no picture\n" * 100,
    "happy/bomb.png": png_of_size(50_000, 50_000),
    "happy/long.png": png_of_size(4_000_000, 1),
    "happy/zero.png": png_of_size(0, 0),
    "sad/program.png": b"\x7fELF" + bytes(2000),
    "sad/drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "sad/script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    faces = write(tmp_path / "faces", {**GOOD, **BROKEN, "notes.txt": b"x", ".DS_Store": b"x", "happy/.hidden": b"x"})
    (faces / "happy" / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(faces / "happy" / "pipe.png")
    (faces / "folder.png").mkdir()
    (faces / "sad" / "circle").symlink_to(faces)
    (faces / "sad" / "large.png").write_bytes(b"")
    os.truncate(faces / "sad" / "large.png", 300 << 20)
    os.close(os.open(os.fsencode(faces) + b"/sad/not-utf8-\xff.png", os.O_CREAT | os.O_WRONLY))
    return faces


LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str
    peak: int  # bytes: the largest of the command and the processes it started


def ferstore(store: Path, *arguments: str) -> Done:
    environment = {**os.environ, "FERSTORE_STORE": str(store), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ferstore.cli", *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # A child begins with its parent's peak, and this process may have held TensorFlow: a small one starts it.
        process = subprocess.run(
            [sys.executable, "-c", LAUNCHER, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            check=False,
        )
        out.seek(0)
        err.seek(0)
        *lines, peak = err.read().decode().splitlines(keepends=True)
        return Done(process.returncode, out.read().decode(), "".join(lines), int(peak) * 1024)


def test_every_file_of_a_hostile_folder_is_accounted_for_in_bounded_memory(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert ferstore(store, "init").returncode == 0
    done = ferstore(store, "ingest", "folder", str(folder), "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert done.stderr == ""
    broken = len(BROKEN) + len(["dangling.png", "pipe.png", "circle", "large.png", "not-utf8"])
    assert (report["added"], report["quarantined"], report["listed"]) == (len(GOOD), broken, len(GOOD) + broken)
    assert (report["images"], report["same_bytes"]) == (len(GOOD) - 1, 1)
    assert sorted(report["ignored"]) == [".DS_Store", "happy/.hidden", "notes.txt"]
    rows = json.loads(ferstore(store, "sql", "select item_id from images", "--json").stdout)["rows"]
    assert {row["item_id"] for row in rows} == set(GOOD)
    held = json.loads(ferstore(store, "sql", "select item, error from quarantine", "--json").stdout)["rows"]
    assert {row["item"] for row in held} >= set(BROKEN)
    assert len(held) == broken
    assert [row for row in held if "\n" in row["error"] or not row["error"]] == []
    assert done.peak < 2 * GIB


def test_text_for_people_is_one_line_an_item_too(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ferstore(store, "init")
    done = ferstore(store, "ingest", "folder", str(folder))
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 6  # five of them, and how many more there are
    assert all(line.startswith(("  quarantined ", "  and ")) for line in lines)
    assert "Traceback" not in done.stderr
    again = ferstore(store, "ingest", "folder", str(folder), "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["run_id"] is None


def test_members_that_leave_an_archive_or_burst_it_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "hostile.zip").write_bytes(zip_bomb())
    store = tmp_path / "store"
    ferstore(store, "init")
    done = ferstore(store, "ingest", "folder", str(tmp_path / "hostile.zip"), "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert (report["listed"], report["added"], report["quarantined"]) == (4, 1, 3)
    assert not (tmp_path.parent / "escape.png").exists()
    assert done.peak < 2 * GIB
