"""Commands that show what is in a store. Each parses, calls the API and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ferstore.cli.options import At, Json
from ferstore.cli.root import LOOK, app
from ferstore.cli.session import open_store


@app.command(rich_help_panel=LOOK)
def report(
    output: Annotated[Path, typer.Option(help="Folder of the page, its figures and CSV files.")],
    training_set: Annotated[str | None, typer.Option(help="One training set's trainings; all otherwise.")] = None,
    at: At = None,
    faces: Annotated[bool, typer.Option("--faces", help="Put small pictures of faces on the page.")] = False,
    as_json: Json = False,
) -> None:
    """Tables, curves and comparisons on one page. Example: ferstore report --output report"""
    from ferstore import rendering, terminal

    store = open_store()
    with terminal.TerminalProgress() as progress:
        made = store.report(output, training_set=training_set, at=at, faces=faces, progress=progress)
    terminal.print_json(made) if as_json else rendering.show_report(made)
