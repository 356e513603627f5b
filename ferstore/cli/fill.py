"""Commands that fill a store. Each parses, calls the API and prints.

What draws is imported after what can refuse: a refusal does not wait for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ferstore.cli.options import (
    DONE,
    SOME_QUARANTINED,
    Address,
    DryRun,
    Insecure,
    Json,
    Maps,
    Precision,
    actor_count,
    local_path,
    names,
)
from ferstore.cli.root import FILL, app
from ferstore.cli.session import Globals, decoder_log, open_store


@app.command(rich_help_panel=FILL)
def init(
    maps: Annotated[Maps | None, typer.Option(help="How maps are stored; float32 is the paper's.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make the store. Example: ferstore --store /data/faces init"""
    from ferstore import api, terminal
    from ferstore.store.files import normalise

    if dry_run:
        url = Globals.store or api.default_store_url()
        normalise(url)  # refuses what could not be made
        terminal.print_json({"would_make": url}) if as_json else terminal.say(f"would make a store at {url}")
        return
    store = api.init(Globals.store, catalog=Globals.catalog, map_dtype=maps.value if maps else None)
    if as_json:
        terminal.print_json({"store": store.url, "map_dtype": store.store.map_dtype})
    else:
        terminal.say(f"store at {store.url}, maps stored as {store.store.map_dtype}")


@app.command(rich_help_panel=FILL)
def ingest(
    kind: Annotated[str, typer.Argument(metavar="ferplus|ckplus|jaffe|folder", help="The data set's kind.")],
    url: Annotated[str, typer.Argument(help="Folder, zip or tar archive, or (folder) CSV or Parquet table.")],
    name: Annotated[str | None, typer.Option(help="Its name in the store.", metavar="DATASET")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register images and labels. Example: ferstore ingest folder ./faces --name mine"""
    from ferstore.sources import check_kind

    check_kind(kind)
    store = open_store()
    from ferstore import rendering, terminal

    with terminal.TerminalProgress() as progress, ExitStack() as stack:
        log = decoder_log(store, stack)
        report = store.ingest(kind, url, name=name, dry_run=dry_run, progress=progress, log=log)
    terminal.print_json(report) if as_json else rendering.show_ingest(report, dry_run=dry_run)
    raise typer.Exit(SOME_QUARANTINED if report.quarantined else DONE)


@app.command(rich_help_panel=FILL)
def extract(
    dataset: Annotated[str | None, typer.Option(help="One data set; all images otherwise.")] = None,
    layers: Annotated[
        str, typer.Option(metavar="NAME,...", help="Feature tables to fill, with commas between.")
    ] = "pool_3,mixed_10",
    weights: Annotated[str, typer.Option(help="imagenet, random, or a path or URL.")] = "imagenet",
    weights_sha256: Annotated[str | None, typer.Option(help="Digest the weights file must have.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the network.")] = Precision.float32,
    batch_size: Annotated[int, typer.Option(help="Images a pass of the network.")] = 32,
    actors: Annotated[str, typer.Option(metavar="N|auto", help="How many, or auto to fill the cluster.")] = "auto",
    gpus_per_actor: Annotated[float, typer.Option(help="Share of a GPU each actor takes; 0 runs on CPUs.")] = 0.0,
    views: Annotated[
        str, typer.Option(metavar="NAME,...", help="identity, hflip (mirrored), or both with a comma.")
    ] = "identity",
    limit: Annotated[int | None, typer.Option(help="Compute at most so many image views.")] = None,
    retry_quarantined: Annotated[bool, typer.Option("--retry-quarantined", help="Try failed images again.")] = False,
    address: Address = None,
    insecure_cluster: Insecure = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compute the features that are missing, and only those. Example: ferstore extract --dataset mine"""
    from ferstore.extract.request import ExtractRequest

    request = ExtractRequest(
        dataset=dataset,
        layers=names(layers),
        weights=weights,
        weights_sha256=weights_sha256,
        seed=seed,
        precision=precision.value,
        batch_size=batch_size,
        actors=actor_count(actors),
        gpus_per_actor=gpus_per_actor,
        views=names(views),
        limit=limit,
        retry_quarantined=retry_quarantined,
    )
    request.check()
    store = open_store(request)
    from ferstore import rendering, terminal

    with terminal.TerminalProgress() as progress:
        report = store.extract(request, address=address, insecure=insecure_cluster, dry_run=dry_run, progress=progress)
    if as_json:
        terminal.print_json({**terminal.jsonable(report), "extractor_id": report.extractor.extractor_id})
    else:
        rendering.show_extract(report, store, dry_run=dry_run)
    raise typer.Exit(SOME_QUARANTINED if report.in_quarantine and not dry_run else DONE)


@app.command(rich_help_panel=FILL)
def demo(
    output: Annotated[Path, typer.Option(help="Where everything goes.", callback=local_path)] = Path("ferstore-demo"),
    address: Address = None,
    insecure_cluster: Insecure = False,
) -> None:
    """All of it on drawn faces, in minutes. Example: ferstore demo"""
    from ferstore import terminal
    from ferstore.demo import run_demo

    with terminal.TerminalProgress() as progress:
        run_demo(output, address=address, insecure=insecure_cluster, progress=progress)
