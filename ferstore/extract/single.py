"""The feature of one image file, computed in this process: for ``similar FILE``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ferstore.errors import DecodeError, FetchError, InputError, WeightsError
from ferstore.extract.layer import Layer
from ferstore.extract.weights import resolve
from ferstore.image.decode import pixels
from ferstore.image.fetch import Fetcher
from ferstore.image.location import normalise
from ferstore.store.schema import TableSchema


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
    try:
        with Fetcher() as fetcher:
            picture = pixels(fetcher.read(normalise(url)))
    except (FetchError, DecodeError) as error:
        raise InputError(error.problem, hint="give an image_id of the store, or an image file") from error
    seed = extractor["seed"]
    weights = resolve(extractor["weights"], sha256=extractor["weights_sha256"], seed=seed if seed is not None else 0)
    feature = schema.feature
    if feature is None:
        raise WeightsError(f"table {schema.name!r} holds no features")
    from ferstore.extract import inception

    inception.configure(extractor["precision"], gpus=0, threads=None)
    layer = Layer(schema.name, feature.node, feature.pool, feature.shape)
    network = inception.Network([layer], weights.load(), batch_size=1, precision=extractor["precision"])
    return np.asarray(network(picture[np.newaxis])[schema.name][0])
