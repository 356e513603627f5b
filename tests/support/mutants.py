"""Good image files of every kind that `ferstore.image.decode` reads, and what a hostile hand makes of them.

A mutant is a pure function of a seed and a number, so that a failure can be made again from its two numbers alone.
"""

from __future__ import annotations

import functools
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 31, 32, 63, 127, 128, 255, 256, 257, 1000, 9999, 10_001, 2**15 - 1, 2**15,
            2**16 - 1, 2**16, 65_537, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)  # fmt: skip


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    more = (
        {"append_images": [frame.copy() for frame in options.pop("append_images", ())]} if "save_all" in options else {}
    )
    image.copy().save(stream, kind, **options, **more)  # copies: Pillow leaves settings of one encoder for the next
    return stream.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(
    width: int, height: int, *, depth: int = 8, colour: int = 2, before: bytes = b"", data: bytes = b""
) -> bytes:
    """A PNG whose header says anything, with whatever pixels and chunks behind it."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(data or bytes(1000), 1))
    return PNG + header + before + body + png_chunk(b"IEND", b"")


def _bmp_rle() -> bytes:
    """A BMP of 16 x 4 compressed by RLE8, which Pillow reads and does not write."""
    pixels = b"".join(bytes([5, row, 0, 3, 1, 2, 3, 0, 8, row + 1, 0, 0]) for row in range(4)) + b"\0\1"
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, 16, 4, 1, 8, 1, len(pixels), 1, 1, 256, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


@functools.cache
def good_files() -> dict[str, bytes]:
    """Small good files by name: every format, and the variants of each that take another way through its decoder."""
    noise = np.random.default_rng(48).integers(0, 256, (30, 40, 4), np.uint8)
    smooth = np.add.outer(np.arange(30), np.arange(40)).astype(np.uint8) * 3
    rgba = Image.fromarray(np.where(np.arange(40)[None, :, None] < 20, noise, smooth[:, :, None]).astype(np.uint8))
    of = {mode: rgba.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "CMYK", "YCbCr")} | {"RGBA": rgba}
    of["I;16"] = Image.fromarray(smooth.astype(np.uint16) * 257)
    of["LAB"] = Image.fromarray(np.ascontiguousarray(noise[:, :, :3]), "LAB")
    frames = [of["RGB"].rotate(90 * turn) for turn in range(1, 4)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    icc = b"\0\0\0\x80" + bytes(124)
    files: dict[str, bytes] = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        files[f"{mode}.png"] = saved(of[mode], "PNG", exif=exif)
    files["text.png"] = png_of(
        8, 8, colour=0, data=bytes(72), before=png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(500)))
        + png_chunk(b"iTXt", b"k\0\1\0en\0k\0" + zlib.compress(b"text" * 99)) + png_chunk(b"tEXt", b"k\0text")
        + png_chunk(b"iCCP", b"k\0\0" + zlib.compress(icc)) + png_chunk(b"gAMA", bytes(4)),
    )  # fmt: skip
    files["animated.png"] = saved(of["RGB"], "PNG", save_all=True, append_images=frames)
    for mode in ("L", "RGB", "CMYK"):
        files[f"{mode}.jpg"] = saved(of[mode], "JPEG", exif=exif, icc_profile=icc)
        files[f"{mode}-progressive.jpg"] = saved(of[mode], "JPEG", progressive=True, quality=60)
    files["large.jpg"] = saved(of["RGB"].resize((700, 640)), "JPEG", quality=20, subsampling=2)  # decoded at half size
    files["restarts.jpg"] = saved(of["RGB"], "JPEG", restart_marker_rows=1, optimize=True, subsampling=1)
    files["several.mpo"] = saved(of["RGB"], "MPO", save_all=True, append_images=frames)
    for mode in ("1", "L", "P", "RGB"):
        files[f"{mode}.gif"] = saved(of[mode], "GIF", transparency=0) if mode == "P" else saved(of[mode], "GIF")
    files["animated.gif"] = saved(of["RGB"], "GIF", save_all=True, append_images=frames, disposal=2, loop=0)
    files["interlaced.gif"] = saved(of["L"], "GIF", interlace=1)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        files[f"{mode}.bmp"] = saved(of[mode], "BMP")
    files["rle.bmp"] = _bmp_rle()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"):
        files[f"{mode}.tiff"] = saved(of[mode], "TIFF", exif=exif)
    for compression in ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        files[f"{compression}.tiff"] = saved(of["RGB"], "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt", "tiff_lzw"):
        files[f"{compression}-1.tiff"] = saved(of["1"], "TIFF", compression=compression)
    files["predictor.tiff"] = saved(of["RGB"], "TIFF", compression="tiff_lzw", tiffinfo={317: 2, 278: 5})
    files["big.tiff"] = saved(of["RGB"], "TIFF", big_tiff=True)
    files["pages.tiff"] = saved(of["RGB"], "TIFF", save_all=True, append_images=frames)
    for name, options in {
        "lossy": {},
        "lossless": {"lossless": True},
        "exif": {"exif": exif, "icc_profile": icc},
    }.items():
        for mode in ("RGB", "RGBA"):
            files[f"{name}-{mode}.webp"] = saved(of[mode], "WEBP", **options)
    files["animated.webp"] = saved(of["RGB"], "WEBP", save_all=True, append_images=frames)
    for mode in ("1", "L", "RGB", "I;16"):
        files[f"{mode}.ppm"] = saved(of[mode], "PPM")
    files["ascii.pgm"] = b"P2\n# a remark\n6 2\n255\n" + b" ".join(b"%d" % (n * 20) for n in range(12)) + b"\n"
    files["ascii.ppm"] = b"P3 2 2 15 " + b"1 2 3 4 5 6 7 8 9 10 11 12\n"
    files["ascii.pbm"] = b"P1\n4 2\n0 1 0 1\n1010\n"
    files["float.pfm"] = saved(Image.fromarray(smooth.astype(np.float32)), "PPM")
    files["deep.ppm"] = b"P6 3 2 1023\n" + bytes(range(36))
    return files


def mutant(seed: int, number: int) -> tuple[str, bytes]:
    """What was done to which file, and the bytes that came of it."""
    random = np.random.default_rng([seed, number])
    names = sorted(good_files())
    name = names[number % len(names)]
    data = bytearray(good_files()[name])
    done = []
    for _ in range(int(random.choice([1, 1, 2, 3, 6]))):
        change = _CHANGES[int(random.integers(len(_CHANGES)))]
        done.append(change.__name__.lstrip("_"))
        data = change(data, random)
    if data.startswith(PNG) and random.random() < 0.8:  # else the checksums would stop nearly all of them at the gate
        data = _with_checksums(data, random)
    return f"{name}: {', '.join(done)}", bytes(data)


Change = Callable[[bytearray, np.random.Generator], bytearray]


def _place(data: bytearray, random: np.random.Generator) -> int:
    """Anywhere, but mostly where headers are: at the front, and in TIFF at the end."""
    size = len(data)
    near = int(random.integers(min(size, 96))) if size else 0
    return (near, near, max(0, size - 1 - near), int(random.integers(size)) if size else 0)[int(random.integers(4))]


def _flip_bits(data: bytearray, random: np.random.Generator) -> bytearray:
    for _ in range(int(random.integers(1, 5))):
        if data:
            data[_place(data, random)] ^= 1 << int(random.integers(8))
    return data


def _overwrite(data: bytearray, random: np.random.Generator) -> bytearray:
    at = _place(data, random)
    noise = random.bytes(int(random.integers(1, 9)))
    data[at : at + len(noise)] = noise
    return data


def _number(data: bytearray, random: np.random.Generator) -> bytearray:
    """A field of 1, 2 or 4 bytes, in either order, becomes a number that programs stumble over."""
    value = _NUMBERS[int(random.integers(len(_NUMBERS)))]
    width = (1, 2, 4)[int(random.integers(3))]
    at = _place(data, random)
    order = "big" if random.random() < 0.5 else "little"
    data[at : at + width] = (value % 256**width).to_bytes(width, "big" if order == "big" else "little")
    return data


def _text_number(data: bytearray, random: np.random.Generator) -> bytearray:
    """A number written in digits, as PPM has them."""
    found = list(re.finditer(rb"\d+", bytes(data[:64])))
    if not found or not data.startswith(b"P"):
        return _number(data, random)
    match = found[int(random.integers(len(found)))]
    value = _NUMBERS[int(random.integers(len(_NUMBERS)))]
    data[match.start() : match.end()] = b"-%d" % value if random.random() < 0.1 else b"%d" % value
    return data


def _cut(data: bytearray, random: np.random.Generator) -> bytearray:
    return data[: int(random.integers(1, len(data)))] if len(data) > 1 else data


def _remove(data: bytearray, random: np.random.Generator) -> bytearray:
    at = _place(data, random)
    del data[at : at + int(random.integers(1, 64))]
    return data


def _insert(data: bytearray, random: np.random.Generator) -> bytearray:
    at = _place(data, random)
    noise = random.bytes(int(random.integers(1, 64))) if random.random() < 0.5 else bytes(int(random.integers(1, 64)))
    return data[:at] + noise + data[at:]


def _repeat(data: bytearray, random: np.random.Generator) -> bytearray:
    """A stretch, such as a chunk or a frame, occurs many times."""
    at, size = _place(data, random), int(random.integers(1, 256))
    return data[: at + size] + data[at : at + size] * int(random.integers(1, 40)) + data[at + size :]


def _splice(data: bytearray, random: np.random.Generator) -> bytearray:
    """A stretch of another good file, of any format, takes the place of one here."""
    others = sorted(good_files())
    other = good_files()[others[int(random.integers(len(others)))]]
    begin = int(random.integers(len(other)))
    part = other[begin : begin + int(random.integers(1, 400))]
    at = _place(data, random)
    return data[:at] + part + data[at + (len(part) if random.random() < 0.5 else 0) :]


def _chunks(data: bytearray) -> Iterator[tuple[int, bytes, bytearray]]:
    at = len(PNG)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size > len(data):
            return
        yield at, bytes(data[at + 4 : at + 8]), data[at + 8 : at + 8 + size]
        at += 12 + size


def _with_checksums(data: bytearray, random: np.random.Generator) -> bytearray:
    """A PNG with right checksums, and sometimes with its compressed bytes changed under the compression."""
    out = bytearray(PNG)
    for _, kind, body in _chunks(data):
        if kind == b"IDAT" and random.random() < 0.2:
            try:
                raw = bytearray(zlib.decompress(bytes(body)))
            except zlib.error:
                pass
            else:
                body = bytearray(zlib.compress(bytes(_CHANGES[int(random.integers(len(_CHANGES)))](raw, random))))
        out += png_chunk(kind, bytes(body))
    return out


_CHANGES: tuple[Change, ...] = (
    _flip_bits, _overwrite, _number, _number, _text_number, _cut, _remove, _insert, _repeat, _splice,
)  # fmt: skip
