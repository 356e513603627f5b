"""Small pictures of items, read from where ingest found them: nothing else of the report touches a pixel."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from ferstore.errors import DecodeError, FetchError
from ferstore.image.decode import decode
from ferstore.image.fetch import Fetcher

SIDE = 64
"""Longest side of a thumbnail, in pixels."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One picture, or why there is none: exactly one of ``image`` and ``problem`` is set."""

    image: Image.Image | None
    problem: str

    @property
    def uri(self) -> str:
        """The picture as a JPEG ``data:`` URI; empty where there is none."""
        if self.image is None:
            return ""
        stream = io.BytesIO()
        self.image.save(stream, "jpeg", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def thumbnails(places: Iterable[tuple[str, str]]) -> dict[str, Thumbnail]:
    """Thumbnails by image_id.

    Args:
        places: image_id and source_url of each.

    An image whose bytes are no longer those of its id, or cannot be read, gets its reason instead of a picture: another
    face under an item's name would be worse than none.
    """
    found: dict[str, Thumbnail] = {}
    with Fetcher() as fetcher:
        for image_id, url in places:
            if image_id not in found:
                found[image_id] = _thumbnail(fetcher, image_id, url)
    return found


def of_file(url: str) -> Thumbnail:
    """Thumbnail of a file that is in no table."""
    with Fetcher() as fetcher:
        return _thumbnail(fetcher, None, url)


def _thumbnail(fetcher: Fetcher, image_id: str | None, url: str) -> Thumbnail:
    try:
        data = fetcher.read(url)
        if image_id is not None and hashlib.sha256(data).hexdigest() != image_id:
            return Thumbnail(None, "the file has changed since it was ingested")
        image = decode(data, at_least=SIDE).image
    except (FetchError, DecodeError) as error:
        return Thumbnail(None, error.problem)
    scale = SIDE / max(image.size)
    if scale < 1:  # smaller ones stay as they are: scaling up adds bytes and no detail
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return Thumbnail(image, "")
