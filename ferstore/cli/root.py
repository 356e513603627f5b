"""The command line's root: the options before a command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ferstore.cli.options import DONE
from ferstore.cli.session import Globals

FILL, LEARN, LOOK, ASK, KEEP = "Fill a store", "Learn from it", "Look at it", "Ask it", "Keep it"

app = typer.Typer(
    name="ferstore",
    help="A distributed feature store for image features: Ray computes them, Iceberg keeps them, DuckDB queries them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        from ferstore.version import own_version

        sys.stdout.write(f"ferstore {own_version()}\n")
        raise typer.Exit(DONE)


@app.callback()
def _globals(
    store: Annotated[
        str | None, typer.Option("--store", help="Folder or fsspec URL [FERSTORE_STORE, else ./ferstore-data].")
    ] = None,
    catalog: Annotated[
        str | None, typer.Option("--catalog", help="postgresql:// or REST http(s):// URI [FERSTORE_CATALOG].")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    Globals.store, Globals.catalog, Globals.debug = store, catalog, debug
