"""Small pictures, stores of them, and what is in a store."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ferstore.query.session import Session
from ferstore.sources.ingest import ingest
from ferstore.store.store import Store, init_store


def picture(seed: int, size: int = 16) -> bytes:
    """A PNG of grey noise."""
    return png(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8))


def flat_picture(grey: int) -> bytes:
    """A PNG of one grey level."""
    return png(np.full((8, 8), grey, np.uint8))


def png(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> bytes:
    """Pixels as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Files below a folder, by relative name."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def noise_files(count: int, first: int = 0) -> dict[str, bytes]:
    """Names and bytes of distinct pictures in two classes."""
    return {f"{'happy' if n % 2 else 'sad'}/{n:05}.png": picture(n) for n in range(first, first + count)}


def noise_store(folder: Path, count: int) -> Store:
    """A new store with a data set ``noise`` of distinct pictures."""
    store = init_store(str(folder / "store"))
    ingest(store, "folder", str(write(folder / "noise", noise_files(count))))
    return store


def sql(store: Store, query: str) -> list[tuple[object, ...]]:
    """Rows of a query over the newest state."""
    with Session(store, store.pin()).execute(query) as cursor:
        return list(cursor.rows())


def tree_digest(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder but the logs: equal digests, unchanged store."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "log")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
