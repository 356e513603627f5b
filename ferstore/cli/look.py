"""Commands that show what a store and its trainings hold. Each parses, calls the API and prints.

What draws is imported after what can refuse: a refusal does not wait for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ferstore.cli.options import At, Json, local_path
from ferstore.cli.root import LOOK, app
from ferstore.cli.session import open_store
from ferstore.errors import InputError


@app.command(rich_help_panel=LOOK)
def report(
    output: Annotated[Path, typer.Option(help="Folder of the page, its figures and CSV files.", callback=local_path)],
    training_set: Annotated[str | None, typer.Option(help="One training set's trainings; all otherwise.")] = None,
    at: At = None,
    faces: Annotated[bool, typer.Option("--faces", help="Put small pictures of faces on the page.")] = False,
    as_json: Json = False,
) -> None:
    """Tables, curves and comparisons on one page. Example: ferstore report --output report"""
    store = open_store()
    from ferstore import rendering, terminal

    with terminal.TerminalProgress() as progress:
        made = store.report(output, training_set=training_set, at=at, faces=faces, progress=progress)
    terminal.print_json(made) if as_json else rendering.show_report(made)


@app.command(rich_help_panel=LOOK)
def figures(
    image: Annotated[str, typer.Argument(help="An image_id of the store, or an image file or URL.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the figures; made if it is not there.", callback=local_path)
    ],
    run: Annotated[
        str | None, typer.Option(help="Training whose conv1 to conv4 are shown; the newest sub_deep otherwise.")
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="Look into this extractor; the run's, or the newest, otherwise.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Without a store: imagenet, random, or a path or URL of weights.")
    ] = None,
    weights_sha256: Annotated[str | None, typer.Option(help="Digest the file of --weights must have.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of --weights random; 0 otherwise.")] = None,
    as_json: Json = False,
) -> None:
    """The paper's Figures 1 to 4 for an image. Example: ferstore figures face.png --output figures"""
    from ferstore import rendering, terminal

    if weights is not None and (run or extractor):
        raise InputError("--weights with --run or --extractor", allowed="--weights alone, which reads no store")
    if weights is None and (weights_sha256 is not None or seed is not None):
        raise InputError("--weights-sha256 or --seed without --weights", allowed="with --weights")
    with terminal.TerminalProgress() as progress:
        if weights is not None:
            from ferstore.figures.run import figures_of_weights

            found = figures_of_weights(
                image, output, weights=weights, weights_sha256=weights_sha256, seed=seed or 0, progress=progress
            )
        else:
            found = open_store().figures(image, output=output, run=run, extractor_id=extractor, progress=progress)
    rendering.note_random(found)
    terminal.print_json(found) if as_json else rendering.show_figures(found)
