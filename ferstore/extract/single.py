"""Features of image files that are in no table, computed in this process: for ``similar FILE`` and ``predict``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ferstore.errors import DecodeError, FerstoreError, FetchError, InputError, WeightsError
from ferstore.extract.layer import Layer
from ferstore.extract.weights import resolve
from ferstore.image.decode import pixels
from ferstore.image.fetch import Fetcher
from ferstore.image.location import normalise
from ferstore.store.schema import TableSchema

Found = dict[str, dict[str, npt.NDArray[np.float32]]]
"""Features of one image, by view and layer."""
Picture = npt.NDArray[np.uint8] | FetchError | DecodeError
"""uint8 (299, 299, 3), or why there is none."""


def vector_of_file(url: str, schema: TableSchema, extractor: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Compute one vector exactly as an extractor of the store did.

    Args:
        url: an image file or URL.
        schema: the table of vectors.
        extractor: a row of ``extractors``.

    Returns:
        float32 (channels,).

    Raises:
        InputError: it cannot be read, or is no image.
        WeightsError: the extractor's weights are gone or changed.
    """
    [(_, found)] = features_of_files([url], [schema], extractor, ("identity",))
    if isinstance(found, FerstoreError):
        raise InputError(found.problem, hint="give an image_id of the store, or an image file")
    return found["identity"][schema.name]


def features_of_files(
    urls: Sequence[str], schemas: Sequence[TableSchema], extractor: Mapping[str, Any], views: Sequence[str]
) -> Iterator[tuple[str, Found | FetchError | DecodeError]]:
    """Compute features exactly as an extractor of the store did, one image after another: one is in memory at a time.

    Args:
        urls: image files or URLs.
        schemas: the tables of the features.
        extractor: a row of ``extractors``.
        views: of each image.

    Yields:
        Each URL with its features, float32 (*shape) by view and layer; or the error that kept them.

    Raises:
        InputError: none of them is an image; the first one's reason.
        WeightsError: the extractor's weights are gone or changed.
    """
    with Fetcher() as fetcher:
        pictures = ((url, _picture(fetcher, url)) for url in urls)
        first: list[tuple[str, Picture]] = []  # up to the first image: without one the network is not built
        for entry in pictures:
            first.append(entry)
            if isinstance(entry[1], np.ndarray):
                break
        else:
            if first and isinstance(problem := first[0][1], FerstoreError):
                raise InputError(problem.problem, hint="give an image_id of the store, or an image file")
            return
        network = _network(schemas, extractor)
        for url, picture in chain(first, pictures):
            if isinstance(picture, FetchError | DecodeError):
                yield url, picture
                continue
            found: Found = {}
            for view in views:
                seen = np.ascontiguousarray(picture[:, ::-1] if view == "hflip" else picture)
                found[view] = {name: values[0] for name, values in network(seen[np.newaxis]).items()}
            yield url, found


def _picture(fetcher: Fetcher, url: str) -> Picture:
    try:
        return pixels(fetcher.read(normalise(url)))
    except (FetchError, DecodeError) as error:
        return error


def _network(schemas: Sequence[TableSchema], extractor: Mapping[str, Any]) -> Any:
    seed = extractor["seed"]
    weights = resolve(extractor["weights"], sha256=extractor["weights_sha256"], seed=seed if seed is not None else 0)
    layers = []
    for schema in schemas:
        if schema.feature is None:
            raise WeightsError(f"table {schema.name!r} holds no features")
        layers.append(Layer(schema.name, schema.feature.node, schema.feature.pool, schema.feature.shape))
    from ferstore.extract import inception

    inception.configure(extractor["precision"], gpus=0, threads=None)
    return inception.Network(layers, weights.load(), batch_size=1, precision=extractor["precision"])
