"""Image bytes to pixels: golden values for every kind of file, limits, and damage."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ferstore.errors import DecodeError
from ferstore.image import decode as module
from ferstore.image.decode import MAX_JPEG_SCANS, decode, pixels, to_grey_or_rgb

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A drawing without any symmetry."""
    image = Image.new("RGB", size, (200, 180, 160))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, size[0] // 4, size[1] // 3), fill=(10, 60, 220))
    draw.ellipse((size[0] // 2, size[1] // 2, size[0] - 2, size[1] - 2), fill=(220, 20, 40))
    return image.convert(mode)


def png(width: int, height: int, *, chunks: bytes = b"") -> bytes:
    """A PNG whose header says anything, with next to no pixels behind it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(width: int, height: int, bits: int, data: bytes, *, order: str = "<", photometric: int = 1) -> bytes:
    """An uncompressed grey TIFF of one strip (TIFF 6.0): the kinds that Pillow reads and does not write."""
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 0),
        (277, 1),
        (278, height),
    ]
    entries += [(279, len(data))]
    start = 8 + 2 + 12 * len(entries) + 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, value in entries:
        head += struct.pack(order + "HHIHH", tag, 3, 1, start if tag == 273 else value, 0)
    return head + bytes(4) + data


def u8(numbers: object) -> NDArray[np.uint8]:
    return np.array(numbers, np.uint8)


def values(image: Image.Image) -> Any:
    return np.asarray(image).tolist()


def test_colour_of_lossless_formats_is_exact() -> None:
    for file_format in ("PNG", "BMP", "TIFF", "PPM"):
        decoded = decode(saved(picture(), file_format))
        assert (decoded.mode, decoded.format, decoded.width, decoded.height) == ("RGB", file_format, 40, 30)
        np.testing.assert_array_equal(decoded.image, picture())


def test_grey_stays_one_channel() -> None:
    for file_format in ("PNG", "JPEG", "BMP", "TIFF", "PPM"):
        assert decode(saved(picture("L"), file_format)).image.mode == "L"


def test_grey_is_the_same_resized_before_or_after_it_becomes_three_channels(shared: Path) -> None:
    faces = sorted((shared / "data/ferplus-sample/FER2013Test").glob("*.png"))[:5]
    for data in [saved(picture("L"), "PNG"), *(face.read_bytes() for face in faces)]:
        with Image.open(io.BytesIO(data)) as image:
            expected = image.convert("RGB").resize((299, 299), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pixels(data), np.asarray(expected))


def test_pixels_are_a_writable_block_of_bytes() -> None:
    for mode in ("L", "RGB"):
        array = pixels(saved(picture(mode), "PNG"), 32)
        assert array.shape == (32, 32, 3)
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_resize_is_half_pixel_bilinear_and_antialiased_when_shrinking() -> None:
    enlarged = pixels(saved(Image.fromarray(u8([[0, 100]])), "PNG"), 4)[0, :, 0]
    assert enlarged.tolist() == [0, 25, 75, 100]
    stripes = np.tile(u8([0, 255]), (64, 32))
    shrunk = pixels(saved(Image.fromarray(stripes), "PNG"), 8)[:, 1:-1]
    assert np.abs(shrunk.astype(int) - 127).max() <= 1


def test_bilevel_is_black_and_white() -> None:
    bits = Image.fromarray(u8([[0, 255, 255, 0]])).convert("1")
    for file_format in ("PNG", "TIFF", "PPM", "BMP"):
        decoded = decode(saved(bits, file_format))
        assert (decoded.mode, values(decoded.image)) == ("1", [[0, 255, 255, 0]])


SIXTEEN = [0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]
EIGHT = [0, 0, 1, 1, 127, 128, 254, 255, 255]  # round(v * 255 / 65535); 128.5 is the first half


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(np.array([SIXTEEN], np.uint16)), "PNG"),
        tiff(9, 1, 16, struct.pack("<9H", *SIXTEEN)),
        tiff(9, 1, 16, struct.pack(">9H", *SIXTEEN), order=">"),
        tiff(9, 1, 16, struct.pack("<9H", *(65535 - v for v in SIXTEEN)), photometric=0),
        b"P5 9 1 65535\n" + struct.pack(">9H", *SIXTEEN),
    ],
    ids=["png", "tiff", "big-endian tiff", "white-is-zero tiff", "pgm"],
)
def test_sixteen_bit_grey_is_rounded_to_eight(data: bytes) -> None:
    assert values(decode(data).image) == [EIGHT]


def test_twelve_bit_grey_uses_its_own_white() -> None:
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x08])  # 0, 2048, 4095, 8: two samples in three bytes
    assert values(decode(tiff(4, 1, 12, packed)).image) == [[0, 128, 255, 0]]


def test_palette_gives_its_colours_with_and_without_transparency() -> None:
    image = Image.fromarray(u8([[0, 1, 2]]), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 1, 2, 3])
    expected = [[[255, 0, 0], [0, 255, 0], [1, 2, 3]]]
    for data in (
        saved(image, "PNG"),
        saved(image, "PNG", transparency=1),
        saved(image, "PNG", transparency=b"\x00\x80\xff"),
        saved(image, "GIF"),
    ):
        decoded = decode(data)
        assert (decoded.mode, values(decoded.image)) == ("P", expected)
    assert values(to_grey_or_rgb(image.convert("PA"))) == expected


def test_alpha_is_dropped_and_colours_stay_as_stored() -> None:
    colours = u8([[[10, 20, 30, 0], [40, 50, 60, 128]]])
    for data in (saved(Image.fromarray(colours), "PNG"), saved(Image.fromarray(colours), "TIFF")):
        assert values(decode(data).image) == [[[10, 20, 30], [40, 50, 60]]]
    webp = saved(Image.fromarray(colours), "WEBP", lossless=True, exact=True)
    assert values(decode(webp).image) == [[[10, 20, 30], [40, 50, 60]]]
    grey = decode(saved(Image.fromarray(u8([[[7, 0], [9, 200]]]), "LA"), "PNG"))
    assert (grey.mode, grey.image.mode, values(grey.image)) == ("LA", "L", [[7, 9]])
    np.testing.assert_array_equal(decode(saved(picture("RGBX"), "TIFF")).image, picture())


@pytest.mark.parametrize(
    ("mode", "file_format"), [("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("LAB", "TIFF")]
)
def test_other_colour_spaces_become_rgb_as_pillow_converts_them(mode: str, file_format: str) -> None:
    lab = Image.fromarray(u8([[[0, 0, 0], [255, 0, 0], [128, 60, 200]]]), "LAB")
    source = lab if mode == "LAB" else picture(mode)
    decoded = decode(saved(source, file_format))
    assert decoded.mode == mode
    tolerance = 12 if file_format == "JPEG" else 0  # an inverted CMYK would be off by some 200
    difference = np.asarray(decoded.image).astype(int) - np.asarray(source.convert("RGB"))
    assert np.abs(difference)[2:6, 2:6].max(initial=0) <= tolerance
    assert np.abs(difference).mean() <= tolerance


def test_hue_saturation_value_becomes_rgb() -> None:
    image = Image.fromarray(u8([[[0, 255, 255], [85, 255, 255]]]), "HSV")
    assert values(to_grey_or_rgb(image)) == [[[255, 0, 0], [0, 255, 0]]]


def test_values_of_32_bits_are_refused() -> None:
    for image in (Image.new("I", (4, 4), 70000), Image.new("F", (4, 4), 0.5)):
        with pytest.raises(DecodeError, match="convert it to 8 or 16 bits"):
            decode(saved(image, "TIFF"))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int, file_format: str) -> None:
    upright = np.asarray(picture("RGB", (64, 32)))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    options |= {"lossless": True} if file_format == "WEBP" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options)
    decoded = decode(data)
    assert (decoded.width, decoded.height, decoded.image.size) == (64, 32, (64, 32))
    np.testing.assert_allclose(np.asarray(decoded.image).astype(int), upright, atol=60 if file_format == "JPEG" else 0)


def test_unreadable_metadata_leaves_the_image_upright(caplog: pytest.LogCaptureFixture) -> None:
    data = saved(picture(), "PNG", exif=b"Exif\0\0not a TIFF header")
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(decode(data).image, picture())
    assert "EXIF cannot be read" in caplog.text


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_several_is_read(file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode(saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options))
    assert decoded.format == file_format
    assert np.abs(np.asarray(decoded.image.convert("RGB")).astype(int) - [250, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ("stored", "scaled"),
    [
        ((1200, 900), (600, 450)),
        ((2400, 2392), (300, 299)),
        ((2400, 2391), (600, 598)),
        ((597, 900), (597, 900)),
        ((1195, 2000), (598, 1000)),
    ],
)
def test_jpeg_is_decoded_at_the_smallest_scale_that_is_large_enough(
    stored: tuple[int, int], scaled: tuple[int, int]
) -> None:
    for mode in ("L", "RGB", "CMYK"):
        decoded = decode(saved(picture(mode, stored), "JPEG"), at_least=299)
        assert (decoded.width, decoded.height) == stored
        assert decoded.image.size == scaled
        assert (decoded.mode, decoded.image.mode) == (mode, "L" if mode == "L" else "RGB")


def test_jpeg_is_decoded_in_full_unless_asked() -> None:
    assert decode(saved(picture("RGB", (1200, 900)), "JPEG")).image.size == (1200, 900)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"GIF", "not an image"),
        (b"<html>404</html>", "not an image"),
        (saved(picture(), "ICO"), "not an image"),
        (saved(picture(), "EPS"), "not an image"),
        (png(50_000, 50_000), "2,500,000,000 pixels"),
        (png(12_000, 9_000), "12000 x 9000 = 108,000,000 pixels"),
        (png(70_000, 2), "70000 x 2"),
        (png(300, 300), "truncated"),
        (png(0, 0), "not an image"),
        (png(8, 8, chunks=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))), "too large"),
        (png(8, 8, chunks=chunk(b"tEXt", b"k\0" + bytes(2**16)) * 1100), "Too much memory"),
        (tiff(65_000, 65_000, 8, b""), "4,225,000,000 pixels"),
        (tiff(64, 64, 8, b"short"), "truncated"),
        (tiff(64, 64, 77, bytes(64 * 64)), "not an image"),
        (b"P5 4 4 255\n", "truncated"),
        (b"P5 99999999 4 255\n" + bytes(16), "399,999,996 pixels"),
    ],
)
def test_refused_in_one_line_that_says_why(data: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)
    with pytest.raises(DecodeError):
        pixels(data)


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_files_are_refused(file_format: str) -> None:
    data = saved(picture("RGB", (200, 150)).effect_spread(9), file_format)
    with pytest.raises(DecodeError):
        decode(data[: len(data) // 2])


def test_gif_frame_larger_than_its_screen_is_held_to_the_limit() -> None:
    data = bytearray(saved(picture("P"), "GIF"))
    frame = data.rindex(b",")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(DecodeError, match="3,600,000,000 pixels"):
        decode(bytes(data))


def test_jpeg_of_endless_scans_is_refused() -> None:
    data = saved(picture(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(DecodeError, match="too many scans"):
        decode(data[:-2] + scan * MAX_JPEG_SCANS + data[-2:])


def test_jpeg_with_a_film_behind_it_is_read() -> None:
    film = np.random.default_rng(5).bytes(100) + b"\xff\xda" * (2 * MAX_JPEG_SCANS)
    assert decode(saved(picture(), "JPEG") + film).width == 40


@pytest.mark.parametrize(
    "data",
    [
        png(8, 8, chunks=chunk(b"prVt", b"") * 110_000),
        saved(picture(), "JPEG").replace(b"\xff\xd8", b"\xff\xd8" + b"\xff\xe1\0\2" * 70_000, 1),
        b"P5 " + b"#\n" * 100_000 + b"4 4 255\n" + bytes(16),
    ],
    ids=["png", "jpeg", "pgm"],
)
def test_a_file_in_countless_small_parts_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="too many small parts"):
        decode(data)


def test_nothing_is_printed_about_a_damaged_file(capfd: pytest.CaptureFixture[str]) -> None:
    data = saved(picture(), "TIFF", compression="tiff_lzw")
    with pytest.raises(DecodeError):
        decode(data[:40] + b"\xff" * 100 + data[140:])
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
    assert capfd.readouterr() == ("", "")


def test_large_images_take_turns_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    inner = module._decoded

    def spy(image: Image.Image, at_least: int | None) -> module.Decoded:
        held.append(module._one_large.locked())
        return inner(image, at_least)

    monkeypatch.setattr(module, "_decoded", spy)
    monkeypatch.setattr(module, "LARGE", 1000)
    pixels(saved(picture("RGB", (20, 20)), "PNG"))
    pixels(saved(picture("RGB", (40, 30)), "PNG"))
    decode(saved(picture("RGB", (40, 30)), "PNG"))
    with pytest.raises(DecodeError):
        decode(png(300, 300))
    assert held == [False, True, True, True]
    assert not module._one_large.locked()


def warned_tiff() -> bytes:
    """A good TIFF with a private tag whose text lies behind the end of the file: Pillow warns of it."""
    data = bytearray(saved(picture("L"), "TIFF", tiffinfo={65000: "a text that lies elsewhere"}))
    entry = data.index(struct.pack("<HH", 65000, 2))
    data[entry + 8 : entry + 12] = struct.pack("<I", 10**6)
    return bytes(data)


def test_warnings_of_pillow_go_to_the_log_while_decoding_and_stay_warnings_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "ferstore.image.decode"):
        np.testing.assert_array_equal(decode(warned_tiff()).image, picture("L"))
    assert "Pillow:" in caplog.text
    with pytest.warns(UserWarning, match="Truncated File Read"), Image.open(io.BytesIO(warned_tiff())) as image:
        image.load()


def test_large_but_allowed_header_warns_nobody() -> None:
    with pytest.raises(DecodeError, match="truncated"):
        decode(png(9_990, 9_990))  # under our limit, over the size from which Pillow warns


def test_damaged_files_give_pixels_or_a_decode_error() -> None:
    random = np.random.default_rng(20140618)
    modes = {"JPEG": ("L", "RGB", "CMYK"), "PPM": ("1", "L", "RGB"), "WEBP": ("RGB", "RGBA")}
    modes |= {"TIFF": ("1", "L", "I;16", "P", "RGBA", "CMYK")}
    good = [
        saved(picture("L" if mode == "I;16" else mode, (24, 18)).convert(mode), file_format)
        for file_format in FORMATS
        for mode in modes.get(file_format, ("1", "L", "P", "RGB"))
    ]
    good += [saved(picture("L"), "TIFF", compression=c) for c in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")]
    outcomes = {"pixels": 0, "refused": 0}
    for number in range(2000):
        data = bytearray(good[number % len(good)])
        for _ in range(int(random.integers(1, 6))):
            at = int(random.integers(len(data)) if random.random() < 0.5 else random.integers(min(64, len(data))))
            data[at] = int(random.integers(256))
        if random.random() < 0.2:
            del data[int(random.integers(1, len(data))) :]
        try:
            array = pixels(bytes(data), 32)
        except DecodeError:
            outcomes["refused"] += 1
        else:
            assert array.shape == (32, 32, 3)
            assert array.dtype == np.uint8
            outcomes["pixels"] += 1
    assert min(outcomes.values()) > 200, outcomes
