"""What is drawn, found and checked before anything is computed or written."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from ferstore.errors import DecodeError, FetchError, InputError
from ferstore.image.decode import pixels
from ferstore.image.fetch import Fetcher
from ferstore.image.location import normalise, redact
from ferstore.query.similar import is_image_id
from ferstore.store.files import local_path
from ferstore.store.rows import read_rows
from ferstore.store.store import Store

if TYPE_CHECKING:
    from ferstore.extract.weights import Weights
    from ferstore.train.past import PastRun


@dataclass(frozen=True, slots=True)
class Source:
    """What is drawn: a picture, and what it goes through."""

    picture: npt.NDArray[np.uint8]
    image_id: str
    weights: Weights
    extractor_id: str | None = None
    store: Store | None = None
    run: PastRun | None = None


def check_output(output: Path, store: Store | None) -> None:
    if re.match(r"[A-Za-z0-9+]+:/", str(output)):
        raise InputError(f"--output {output} is a URL", allowed="a folder of this machine")
    path = output.absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        raise InputError(f"--output {output}: {there} is a file", allowed="a folder, there or not")
    if not os.access(there, os.W_OK):
        raise InputError(f"--output {output}: {there} cannot be written", hint="choose another folder")
    root = local_path(store.url) if store else None
    if root is not None and path.resolve().is_relative_to(root):
        raise InputError(f"--output {output} lies inside the store", hint="choose a path outside it")


def read_picture(image: str, store: Store | None) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """A picture's bytes, and its pixels as the network sees them: uint8 (299, 299, 3)."""
    wanted, urls = None, [image]
    if is_image_id(image):
        if store is None:
            raise InputError(f"{image!r} is an image_id, and no store is read with --weights", allowed="an image file")
        where = pc.field("image_id") == image
        urls = sorted(read_rows(store, store.pin(), "images", ["source_url"], where)["source_url"].to_pylist())
        wanted = image
        if not urls:
            hint = 'find one: ferstore sql "from images select image_id limit 1"'
            raise InputError(f"no image {image!r} in this store", allowed="an image_id of images", hint=hint)
    try:
        with Fetcher() as fetcher:
            data = fetcher.read(normalise(urls[0]))
        picture = pixels(data)
    except (FetchError, DecodeError) as error:
        raise InputError(error.problem, hint="give an image_id of the store, or an image file") from error
    if wanted is not None and hashlib.sha256(data).hexdigest() != wanted:
        raise InputError(f"{redact(urls[0])} is no longer image {wanted}", hint="ingest its data set again")
    return data, picture


def extractor_row(store: Store, extractor_id: str | None) -> dict[str, Any]:
    pin = store.pin()
    layers = [name for name, schema in store.schemas.items() if schema.feature]
    for layer in sorted(layers, key=lambda name: name != "pool_3") if extractor_id is None else ():
        used = read_rows(store, pin, layer, ["extractor_id", "extracted_at"])
        if len(used):
            extractor_id = used.sort_by([("extracted_at", "descending")])["extractor_id"][0].as_py()
            break
    rows = read_rows(store, pin, "extractors", where=pc.field("extractor_id") == extractor_id).to_pylist()
    if not rows:
        known = ", ".join(read_rows(store, pin, "extractors", ["extractor_id"])["extractor_id"].to_pylist()[:5])
        if extractor_id is not None:
            raise InputError(f"no extractor {extractor_id!r} in this store", allowed=known or "none yet")
        raise InputError(
            "this store has no features, and so no extractor to look into",
            hint="compute some first: ferstore extract; or name the network's weights: --weights imagenet",
        )
    row: dict[str, Any] = rows[0]
    return row
