"""The paper's Figures 1 to 4 for one picture, through a store's extractor or through weights alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ferstore.figures.draw import FiguresReport, draw
from ferstore.figures.source import Source, check_output, extractor_row, read_picture
from ferstore.progress import Progress
from ferstore.store.store import Store


def figures_of_store(
    store: Store,
    image: str,
    output: Path,
    *,
    run_id: str | None = None,
    extractor_id: str | None = None,
    progress: Progress | None = None,
) -> FiguresReport:
    """Draw Figures 1 to 4 with the network that computed a store's features, and a head that was trained on them.

    Args:
        store: where they are.
        image: an image_id of the store, or an image file or URL.
        output: a folder; it is made, and files of the same names are replaced.
        run_id: training whose head is shown; None takes the newest of the extractor that has convolutions.
        extractor_id: None takes the run's, or the one that computed the newest features.
        progress: told of every figure.

    Raises:
        InputError: no such image, run or extractor, or a folder that cannot be written; nothing was written.
        WeightsError: the extractor's weights are gone or changed.
        CorruptionError: the head's weights are gone or changed.
    """
    from ferstore.extract.weights import resolve
    from ferstore.train.past import run_with_maps

    check_output(output, store)
    data, picture = read_picture(image, store)
    run = run_with_maps(store, run_id, extractor_id) if run_id is not None else None
    row = extractor_row(store, run.extractor_id if run else extractor_id)
    run = run or run_with_maps(store, None, row["extractor_id"])
    weights = resolve(row["weights"], sha256=row["weights_sha256"], seed=row["seed"] or 0)
    return draw(
        Source(picture, hashlib.sha256(data).hexdigest(), weights, row["extractor_id"], store, run), output, progress
    )


def figures_of_weights(
    image: str,
    output: Path,
    *,
    weights: str,
    weights_sha256: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> FiguresReport:
    """Draw Figures 1 to 4 with weights that are named themselves: no store is needed, and no head is shown.

    Args:
        image: an image file or URL.
        output: as for `figures_of_store`.
        weights: ``imagenet``, ``random``, or a path or URL.
        weights_sha256: digest the weights must have.
        seed: of random weights.
        progress: told of every figure.

    Raises:
        InputError: no such image, or a folder that cannot be written; nothing was written.
        WeightsError: weights that cannot be had, or do not fit the network.
    """
    from ferstore.extract.weights import resolve

    check_output(output, None)
    data, picture = read_picture(image, None)
    found = resolve(weights, sha256=weights_sha256, seed=seed)
    return draw(Source(picture, hashlib.sha256(data).hexdigest(), found), output, progress)
