"""Small files made to cost a decoder far more than their size: memory, time, or a way into another program."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from mutants import PNG, good_files, png_chunk, png_of, saved
from PIL import Image


def tiff(*entries: tuple[int, int, int, int], after: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory at 8: (tag, type, count, value) and what lies behind it."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + after


def _grey(width: int, height: int, *more: tuple[int, int, int, int], compression: int = 1) -> list[tuple[int, ...]]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
            (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100), *more]  # fmt: skip


def _gif(
    width: int, height: int, frame: tuple[int, int], data: bytes = b"\x02\x02\x44\x01\0", frames: int = 1
) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    picture = b"\x21\xf9\x04\x04\x01\0\0\0," + struct.pack("<HHHHB", 0, 0, *frame, 0) + data
    return head + picture * frames + b";"


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0, size: int = 40, colours: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 1, 1, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + info + bytes(100)


def _webp(width: int, height: int, *, extended: bool = True) -> bytes:
    """A good lossless WebP of 1 x 1 under a header of another size."""
    small = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + (b"VP8X" + struct.pack("<IB3x", 10, 0) + size if extended else b"") + small[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _lossless_header(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + bits.to_bytes(4, "little") + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg_of(width: int, height: int, **options: object) -> bytes:
    """A good JPEG of a few pixels whose frame header says another size."""
    data = bytearray(saved(Image.new("RGB", (16, 16), 90), "JPEG", **options))
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _zipped(data: bytes, name: str = "x.png") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def _tarred(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("x.png")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def bombs() -> dict[str, bytes]:
    """Files by what they are; every one of them is refused, or is a picture at a cost that is bounded."""
    text = zlib.compress(bytes(64 << 20), 1)
    good = good_files()
    progressive = _jpeg_of(9_000, 9_000, progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    film = Image.fromarray(np.zeros((4, 4), np.uint8))
    loop = tiff(*_grey(8, 8), following=8, after=bytes(500))  # type: ignore[arg-type]
    return {
        "png of 2^31 pixels a side": png_of(2**31 - 1, 2**31 - 1),
        "png of 2^32 - 1 pixels a side": png_of(2**32 - 1, 2**32 - 1),
        "png of 65,535 x 65,535": png_of(65_535, 65_535),
        "png just under the limit": png_of(10_000, 10_000, depth=16, colour=6),
        "png of one row, a mile wide": png_of(2_000_000, 1),
        "png whose pixels are a bomb": png_of(8, 8, data=bytes(64 << 20)),
        "png, zTXt bomb": png_of(8, 8, before=png_chunk(b"zTXt", b"k\0\0" + text)),
        "png, iTXt bomb": png_of(8, 8, before=png_chunk(b"iTXt", b"k\0\1\0\0\0" + text)),
        "png, iCCP bomb": png_of(8, 8, before=png_chunk(b"iCCP", b"k\0\0" + text)),
        "png of 100,000 empty chunks": png_of(8, 8, before=png_chunk(b"prVt", b"") * 100_000),
        "png, a chunk longer than the file": PNG + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(50),
        "png, exif loop": png_of(8, 8, colour=0, data=bytes(72), before=png_chunk(b"eXIf", loop)),
        "png with 100,000 frames": png_of(8, 8, before=png_chunk(b"acTL", struct.pack(">II", 100_000, 0))
                                          + png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0))
                                          * 20_000),
        "gif of 65,535 x 65,535": _gif(65_535, 65_535, (65_535, 65_535)),
        "gif, a small screen and a frame of 60,000 x 60,000": _gif(8, 8, (60_000, 60_000)),
        "gif of 2,000 frames": good["L.gif"][:-1] + good["L.gif"][good["L.gif"].index(b","):-1] * 2_000 + b";",
        "gif of 50,000 frames, each larger than the last": b"".join(
            [_gif(1, 1, (1, 1))[:-1], *(_gif(1, 1, (n, n))[19:-1] for n in range(1, 20_000)), b";"]),
        "gif of 9,999 x 9,999 with nothing in it": _gif(9_999, 9_999, (9_999, 9_999)),
        "gif, endless comment": _gif(8, 8, (8, 8))[:19] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * 40_000,
        "bmp of 2^31 - 1 a side": _bmp(2**31 - 1, 2**31 - 1),
        "bmp of a negative height": _bmp(30_000, -30_000),
        "bmp, run-length, of 9,999 x 9,999": _bmp(9_999, 9_999, 8, 1, colours=256) + b"\xff\x01" * 100,
        "bmp of 2^32 - 1 colours": _bmp(8, 8, 8, 0, colours=2**32 - 1),
        "bmp with a header of 4 GiB": _bmp(8, 8, size=2**32 - 1),
        "tiff whose directory follows itself": loop,
        "tiff of 65,000 x 65,000": tiff(*_grey(65_000, 65_000)),  # type: ignore[arg-type]
        "tiff of 9,999 x 9,999, lzw, with nothing in it": tiff(
            *_grey(9_999, 9_999, compression=5), after=bytes(300)),  # type: ignore[arg-type]
        "tiff, a tag of 2^32 - 1 values": tiff(*_grey(8, 8, (65_000, 4, 2**32 - 1, 8)), after=bytes(300)),  # type: ignore[arg-type]
        "tiff, 2^29 strips": tiff(*_grey(8, 8)[:5], (273, 4, 2**29, 100), (277, 3, 1, 1), (278, 4, 1, 1),
                                  (279, 4, 2**29, 100), after=bytes(300)),  # type: ignore[arg-type]
        "tiff, 65,535 tags": b"II*\0" + struct.pack("<IH", 8, 65_535) + struct.pack("<HHII", 65_000, 4, 1, 0) * 65_535,
        "tiff of 65,535 samples a pixel": tiff(*_grey(8, 8, (277, 3, 1, 65_535)), after=bytes(300)),  # type: ignore[arg-type]
        "tiff of tiles of 2^31": tiff(*_grey(64, 64, (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8),
                                             (325, 4, 1, 2**31), compression=8), after=bytes(300)),  # type: ignore[arg-type]
        "webp of 16,777,216 x 16,777,216": _webp(2**24, 2**24),
        "webp canvas of 9,999 x 9,999 over one pixel": _webp(9_999, 9_999),
        "webp, lossless, of 16,384 x 16,384": _lossless_header(16_384, 16_384),
        "webp of 2,000 frames": saved(
            film, "WEBP", save_all=True, append_images=[Image.fromarray(np.full((4, 4), n % 256, np.uint8))
                                                        for n in range(2_000)]),
        "jpeg of 65,500 x 65,500": _jpeg_of(65_500, 65_500),
        "jpeg of 9,999 x 9,999 with nothing in it": _jpeg_of(9_999, 9_999),
        "jpeg of 9,000 x 9,000, progressive, 5,000 scans": progressive[:-2] + scan * 5_000,
        "jpeg of 100,000 empty segments": good["RGB.jpg"][:2] + b"\xff\xe1\0\2" * 100_000 + good["RGB.jpg"][2:],
        "jpeg of 16 MiB of comment": good["RGB.jpg"][:2] + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 256
                                     + good["RGB.jpg"][2:],
        "jpeg of 20 MiB of fill bytes": good["RGB.jpg"][:2] + b"\xff" * (20 << 20) + good["RGB.jpg"][2:],
        "gif of 2 million comments": _gif(8, 8, (8, 8))[:19] + b"\x21\xfe\1c\0" * 2_000_000,
        "ppm of a million comments": b"P6 " + b"#\n" * 1_000_000 + b"1 1 255\nabc",
        "mpo of 2^32 - 1 pictures": good["several.mpo"].replace(struct.pack("<HHI", 0xB001, 4, 1),
                                                               struct.pack("<HHI", 0xB001, 4, 2**32 - 1)),
        "ppm of 10^12 pixels": b"P6 1000000 1000000 255\n" + bytes(100),
        "ppm with a number of a million digits": b"P6 " + b"9" * 1_000_000 + b" 1 255\n",
        "ppm with an endless comment": b"P6 #" + b"c" * 10_000_000,
        "ppm in text, of 9,999 x 9,999": b"P3 9999 9999 255\n" + b"1 " * 1000,
        "ppm in text, a token of ten million digits": b"P3 2 2 255\n" + b"1" * 10_000_000,
        "pbm in text, spaces without end": b"P1 9 9\n" + b" " * 10_000_000,
        "icon": saved(Image.new("RGB", (16, 16)), "ICO"),
        "icns": b"icns" + struct.pack(">I", 100) + bytes(92),
        "eps, which Ghostscript would run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "eps of DOS": b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "svg": b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>",
        "psd": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 9, 9, 8, 3) + bytes(100),
        "fits": b"SIMPLE  =                    T" + b" " * 2850,
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "avif": b"\0\0\0\x20ftypavif" + bytes(100),
        "pcx": b"\n\x05\x01\x08" + bytes(124),
        "tga": bytes([0, 0, 2]) + bytes(9) + struct.pack("<HHBB", 9, 9, 24, 0) + bytes(243),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>",
        "a zip called png": _zipped(good["RGB.png"]),
        "a zip in a zip called png": _zipped(_zipped(good["RGB.png"]), "x.zip"),
        "a tar called png": _tarred(good["RGB.png"]),
        "a zip with a picture in front": good["RGB.png"] + _zipped(b"x"),
        "zeros": bytes(1 << 20),
    }  # fmt: skip


def heavy_bombs() -> dict[str, bytes]:
    """Those that take a second or more."""
    progressive = _jpeg_of(9_000, 9_000, progressive=True)
    return {
        "png just under the limit, all of it there": png_of(10_000, 9_999, colour=0, data=bytes(10_001 * 9_999)),
        "png, many small zTXt bombs": png_of(
            8, 8, before=png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20))) * 200
        ),
        "webp, lossless, of 9,999 x 9,999": _lossless_header(9_999, 9_999),
        "jpeg of 9,000 x 9,000, progressive, 90 scans": progressive[:-2]
        + progressive[progressive.rindex(b"\xff\xda") : -2] * 90,
        "jpeg of 16 million empty segments": good_files()["RGB.jpg"][:2] + b"\xff\xe1\0\2" * (1 << 24),
        "webp of 9,999 x 9,999, all of it there": saved(
            Image.new("RGBA", (9_999, 9_999)), "WEBP", lossless=True, method=0
        ),
    }
