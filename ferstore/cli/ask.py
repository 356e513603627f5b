"""Commands that ask a store. Each parses, calls the API and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ferstore.cli.options import At, Json, OutputFormat, local_path
from ferstore.cli.root import ASK, app
from ferstore.cli.session import open_store
from ferstore.errors import InputError


@app.command(rich_help_panel=ASK)
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over tables and views.")],
    at: At = None,
    format: Annotated[OutputFormat, typer.Option(help="How rows are printed.")] = OutputFormat.table,  # noqa: A002
    output: Annotated[Path | None, typer.Option(help="Write to a file instead of stdout.", callback=local_path)] = None,
    timeout: Annotated[float, typer.Option(help="Seconds the query may work; 0 for no limit.")] = 60,
    memory: Annotated[
        float | None, typer.Option(help="GiB it may hold; half of the machine's and at most 4 otherwise.")
    ] = None,
    rows: Annotated[
        int, typer.Option(help="Rows that may be printed; 0 for no limit. With --output there is none.")
    ] = 100_000,
    as_json: Json = False,
) -> None:
    """Read-only SQL. Example: ferstore sql "select label, count(*) from images group by label" """
    from ferstore.query.isolated import start_ahead
    from ferstore.query.limits import Limits

    limits = Limits(seconds=timeout or None, memory=int((memory or 0) * 2**30), rows=rows or None)
    start_ahead()
    from ferstore import rendering

    rendering.show_query(open_store(), query, at=at, kind=format.value, output=output, as_json=as_json, limits=limits)


@app.command(rich_help_panel=ASK)
def similar(
    image: Annotated[str, typer.Argument(help="An image_id of the store, or an image file.")],
    k: Annotated[int, typer.Option("-k", help="How many neighbours.")] = 10,
    layer: Annotated[str, typer.Option(help="A table of vectors.")] = "pool_3",
    extractor: Annotated[
        str | None, typer.Option(help="Compare this extractor's features; the newest otherwise.")
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Nearest images by cosine. Example: ferstore similar face.png -k 5"""
    from ferstore import rendering, terminal

    store = open_store()
    found = store.similar(image, k=k, layer=layer, extractor_id=extractor, at=at)
    rendering.warn_random(store, at, {layer})
    if as_json:
        terminal.print_json({"image": image, "layer": layer, "neighbours": found})
    else:
        rows = [(n.image_id, f"{n.similarity:.4f}", n.dataset, n.item_id, n.label) for n in found]
        terminal.print_table(["image_id", "similarity", "dataset", "item_id", "label"], rows, numbers=["similarity"])


@app.command(rich_help_panel=ASK)
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A tag, snapshot id or time.")],
    second: Annotated[str, typer.Argument(metavar="B", help="A tag, snapshot id or time.")],
    as_json: Json = False,
) -> None:
    """What changed between two states. Example: ferstore diff before after"""
    from ferstore import rendering, terminal

    found = open_store().diff(first, second)
    terminal.print_json(found) if as_json else rendering.show_diff(found)


@app.command(rich_help_panel=ASK)
def tables(as_json: Json = False) -> None:
    """Tables with their rows and sizes. Example: ferstore tables"""
    from ferstore import rendering, terminal

    store = open_store()
    found = store.tables()
    terminal.print_json({"store": store.url, "tables": found}) if as_json else rendering.show_tables(found)


@app.command(rich_help_panel=ASK)
def snapshots(
    table: Annotated[str | None, typer.Option(help="Of one table.")] = None,
    as_json: Json = False,
) -> None:
    """Every commit, newest first, with what made it. Example: ferstore snapshots --table images"""
    from ferstore import rendering, terminal

    store = open_store()
    if table is not None and table not in store.store.schemas:
        raise InputError(f"unknown table {table!r}", allowed=", ".join(store.store.schemas))
    found = [s for s in store.snapshots() if table in (None, s.table)]
    terminal.print_json({"snapshots": found}) if as_json else rendering.show_snapshots(found)


@app.command(rich_help_panel=ASK)
def runs(
    abandon: Annotated[str | None, typer.Option(help="Declare a run dead that died on another machine.")] = None,
    as_json: Json = False,
) -> None:
    """Commands that changed the store, and batch jobs, newest first. Example: ferstore runs"""
    from ferstore import rendering, terminal

    store = open_store()
    if abandon is not None:
        store.abandon(abandon)
    found, jobs = store.runs(), store.jobs()
    terminal.print_json({"runs": found, "jobs": jobs}) if as_json else rendering.show_runs(found, jobs)
