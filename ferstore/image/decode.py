"""Image bytes to pixels: one convention, bounded memory, and one error for everything that can go wrong.

The convention, which is part of an extractor's identity (`PREPROCESSING`):

1. A JPEG is decoded by the DCT at the smallest of 1, 1/2, 1/4, 1/8 that leaves both sides at least the size asked for.
2. EXIF orientation is applied. Of an animation or a multi-page file, the first frame is read.
3. Grey stays one channel: bilevel is 0 or 255, 16 bits become ``round(v * 255 / 65535)``. All else becomes RGB as
   Pillow's ``convert("RGB")`` does it (and so ``keras.utils.load_img``): alpha is dropped and colours are as stored,
   a palette gives its RGB entries, 16-bit colour keeps its high byte. 32-bit integers and floats have no known white
   and are refused.
4. ``Image.resize((size, size), Resampling.BILINEAR)`` on 8-bit channels: a triangle filter at half-pixel centres,
   widened when shrinking (antialiased), in fixed-point arithmetic rounded to 8 bits.
5. Grey becomes three equal channels, after the resize: the same result for a third of the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

# Registers WebP, as the imports above do the others: Image.open would load every plugin there is to find it.
from PIL import WebPImagePlugin as _WebPImagePlugin  # noqa: F401

from ferstore.errors import DecodeError

PREPROCESSING = "rgb8/bilinear-299/pillow/v1"
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # none starts another program; MPO is read as JPEG
MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
MAX_JPEG_SCANS = 100  # an encoder writes about ten; each costs a pass over all pixels, for a few bytes of file
MAX_READS = 200_000  # steps in which a reader takes a file; a PNG of 256 MiB in the usual 8 KiB chunks has 100,000
LARGE = 16_000_000  # pixels from which images are decoded one at a time

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A start of scan: marker, length, count of components (ITU-T T.81, B.2.3); two bytes alone are common in other data.
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8

_log = logging.getLogger(__name__)
_one_large = threading.Lock()
_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as it is displayed.

    Attributes:
        image: mode "L" or "RGB", oriented; a JPEG may be smaller than `width` x `height` (see `decode`).
        width: pixels across of the stored image, after orientation.
        height: pixels down of the stored image, after orientation.
        mode: Pillow's mode of the file, such as "L", "I;16", "P", "RGBA" or "CMYK".
        format: Pillow's name of the file format, such as "PNG" or "MPO".
    """

    image: Image.Image
    width: int
    height: int
    mode: str
    format: str


def decode(data: bytes, *, at_least: int | None = None) -> Decoded:
    """Decode an image file.

    Args:
        data: the whole file.
        at_least: pixels a side that are enough: a JPEG is decoded scaled down, its sides no shorter than this.

    Raises:
        DecodeError: the bytes are not an image of `FORMATS`, are damaged, or are over a limit. Limits are checked on
            the header, before memory for pixels is taken.

    Images of more than `LARGE` pixels are decoded one at a time in a process, so that threads do not add up (the worst
    seen, a WebP of 90 million pixels, took 1.6 GB); the caller holds the result. Nothing is written to standard error.
    """
    with _refusals(), _opened(data) as image:
        return _decoded(image, at_least)


def pixels(data: bytes, size: int = 299) -> NDArray[np.uint8]:
    """Decode and resize an image file: uint8 of shape (size, size, 3), red, green, blue in 0..255.

    Raises:
        DecodeError: as `decode`.
    """
    with _refusals(), _opened(data) as image:
        small = _decoded(image, size).image.resize((size, size), Image.Resampling.BILINEAR)
        values = np.asarray(small)
        # np.repeat would keep the interpreter lock, and with it all threads that decode, longer than everything else.
        return np.stack((values,) * 3, axis=2) if values.ndim == 2 else values.copy()


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to "L" or "RGB", by the rules above.

    Raises:
        DecodeError: a mode of 32 bits a channel.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow reads a 16-bit PGM as "I", scaled to 0..65535.
        return Image.fromarray(_eight_bits(image))
    if image.mode in ("I", "F"):
        raise DecodeError(
            f"the image has 32-bit values (mode {image.mode}), whose white is not known",
            allowed="8 or 16 bits a channel",
            hint="convert it to 8 or 16 bits",
        )
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image).astype(np.uint32)
    white = 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow gives both of these as stored: 12-bit samples, and grey whose zero is white.
        if image.tag_v2.get(_BITS_PER_SAMPLE) == (12,):
            white = 4095
        if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            values = white - values
    return ((values * 255 + white // 2) // white).astype(np.uint8)


def _decoded(image: Image.Image, at_least: int | None) -> Decoded:
    mode, file_format, (width, height) = image.mode, image.format or "", image.size
    if at_least is not None:
        image.draft(None, (at_least, at_least))  # no mode: draft would otherwise also convert colours
    image.load()
    orientation = _orientation(image)
    image = to_grey_or_rgb(image)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    if orientation >= 5:  # the last four swap the sides
        width, height = height, width
    return Decoded(image=image, width=width, height=height, mode=mode, format=file_format)


def _orientation(image: Image.Image) -> int:
    """The orientation tag, 1 to 8; 1 where none is to be read or none is left (Pillow turns a TIFF itself)."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # metadata of any kind of damage does not make the pixels unreadable
        _log.info("EXIF cannot be read, taken as upright: %s", _one_line(error))
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image with its header read and its limits checked; large ones wait for their turn."""
    if not data:
        raise DecodeError("the file is empty", hint="check how it was written or copied")
    try:
        image: Image.Image = Image.open(_Counted(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError("not an image of a known format", allowed=", ".join(FORMATS)) from error
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise _too_large(f"{int(count[0]):,} pixels" if count else "too many pixels") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise _too_large(f"{width} x {height} = {width * height:,} pixels")
        if isinstance(image, JpegImagePlugin.JpegImageFile) and len(_SCAN.findall(data)) > MAX_JPEG_SCANS:
            raise DecodeError("the JPEG has too many scans", allowed=f"at most {MAX_JPEG_SCANS}", hint="save it again")
        with _one_large if width * height > LARGE else contextlib.nullcontext():
            yield image


def _too_large(size: str) -> DecodeError:
    return DecodeError(
        f"the image has {size}", allowed=f"at most {MAX_PIXELS:,}, and {MAX_SIDE:,} a side", hint="scale it down"
    )


class _Counted(BytesIO):
    """A file that is not read in ever more and smaller steps: chunks, segments, comments of a few bytes each.

    Pillow's readers of headers are Python and keep much of what they pass. Sixteen million empty segments, 64 MiB of
    JPEG, took them a minute and more, and gigabytes.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise DecodeError("the file is in too many small parts", allowed=f"{MAX_READS:,}", hint="save it again")
        return super().read(size)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Every failure as a DecodeError of one line; Pillow's Python warnings to the log, in this thread only."""
    _thread.decoding = True
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing runs into
        raise DecodeError(f"the image cannot be decoded: {_one_line(error)}") from error
    finally:
        _thread.decoding = False


def _one_line(error: Exception) -> str:
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))[:160]
    return f"{type(error).__name__}: " + "".join(c if c.isprintable() else "?" for c in text)


class _PillowWarnings:
    """Stands in for the module `warnings` inside Pillow's readers.

    ``warnings.catch_warnings`` swaps process-wide state, so with threads it loses or leaks filters, and a filter
    ``error`` would turn a harmless remark into a failed image. While a thread decodes, its warnings go to the log; for
    every other caller of Pillow nothing changes.
    """

    def warn(self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
        if getattr(_thread, "decoding", False):
            _log.debug("Pillow: %s", " ".join(str(message).split()))
        else:
            warnings.warn(message, category, stacklevel + 1)

    def __getattr__(self, name: str) -> object:
        return getattr(warnings, name)


for _module in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin):
    vars(_module)["warnings"] = _PillowWarnings()
# Errors that Pillow logs would be printed by `logging` itself where a program has set up no logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# libtiff prints every remark about a damaged file; the library that Pillow's extension was linked with is asked not to.
with contextlib.suppress(AttributeError, OSError):
    _linked = ctypes.CDLL(vars(Image)["core"].__file__)
    for _set_handler in (_linked.TIFFSetErrorHandler, _linked.TIFFSetWarningHandler):
        _set_handler.argtypes, _set_handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
        _set_handler(None)
