"""Decodes files in a bounded process as ingest and as extract do: ``python -m decode_child``.

Protocol: the parent writes the length (8 bytes, little-endian) and the bytes of a file; the child answers with one
line of JSON: ``refused`` (the error's text, or null) and ``peak``, its resident memory so far in bytes. What is neither
pixels nor a DecodeError ends it with a traceback.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ferstore.errors import DecodeError
from ferstore.image.decode import decode, pixels
from ferstore.image.phash import perceptual_hash
from ferstore.image.probe import MEMORY


def as_ingest_does(data: bytes) -> str | None:
    try:
        found = decode(data, at_least=299)
    except DecodeError as error:
        return str(error)
    assert found.image.mode in ("L", "RGB"), found
    assert np.asarray(found.image).dtype == np.uint8
    assert 0 < found.image.width <= found.width, found
    assert 0 < found.image.height <= found.height, found
    assert isinstance(found.image, Image.Image)
    assert len(perceptual_hash(found.image)) == 16
    return None


def as_extract_does(data: bytes) -> str | None:
    try:
        array = pixels(data)
    except DecodeError as error:
        return str(error)
    assert array.shape == (299, 299, 3), array.shape
    assert array.dtype == np.uint8
    return None


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(int.from_bytes(header, "little"))
        refused = as_ingest_does(data)
        again = as_extract_does(data)
        assert refused == again, (refused, again)
        assert refused is None or (refused and "\n" not in refused and refused.isprintable()), refused
        print(json.dumps({"refused": refused, "peak": peak()}), flush=True)


def peak() -> int:
    """Most memory that was resident, in bytes: not ``ru_maxrss``, which begins with that of the parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
