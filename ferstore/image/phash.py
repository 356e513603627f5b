"""Near-duplicate images by a 64-bit difference hash.

dHash, after N. Krawetz, "Kind of Like That" (The Hacker Factor Blog, 2013): shrink the grey image to 9 x 8 and keep,
for each pixel but the last of a row, whether its right neighbour is brighter. It survives scaling, re-encoding and
changes of brightness; it does not survive turning, mirroring or cropping.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

DIGITS = 16  # 64 bits in hexadecimal


def perceptual_hash(image: Image.Image) -> str:
    """The difference hash of an image of mode "L" or "RGB": 16 hexadecimal digits, row by row, top left first."""
    grey = image if image.mode == "L" else image.convert("L")
    values = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return np.packbits(values[:, 1:] > values[:, :-1]).tobytes().hex()


def distance(a: str, b: str) -> int:
    """The Hamming distance of two hashes: 0 (same) to 64 bits; about 32 for unrelated images."""
    return (int(a, 16) ^ int(b, 16)).bit_count()
