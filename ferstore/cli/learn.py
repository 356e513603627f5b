"""Commands that learn from a store. Each parses, calls the API and prints.

What draws is imported after what can refuse: a refusal does not wait for it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ferstore.cli.options import (
    DONE,
    FAILED,
    SOME_QUARANTINED,
    Address,
    DryRun,
    Experiment,
    Insecure,
    Json,
    Labels,
    Leaks,
    Protocol,
    RecipeName,
    TrainPrecision,
    names,
)
from ferstore.cli.root import LEARN, app
from ferstore.cli.session import open_store
from ferstore.errors import StoppedError


@app.command(rich_help_panel=LEARN)
def split(
    name: Annotated[str, typer.Argument(help="The training set's name; it never changes.")],
    dataset: Annotated[str, typer.Option(help="Whose items.")],
    protocol: Annotated[Protocol, typer.Option(help="The data set's own parts, by image, or no person on two sides.")],
    labels: Annotated[Labels, typer.Option(help="One class an item, or shares of its votes.")] = Labels.majority,
    seed: Annotated[int, typer.Option(help="Which items go where.")] = 0,
    folds: Annotated[
        int | None,
        typer.Option(help="random: one 70/10/20 split otherwise; subject: 10 otherwise, 0 leaves one person out."),
    ] = None,
    leaks: Annotated[Leaks, typer.Option(help="Items on both sides: keep, drop from train, refuse.")] = Leaks.report,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Freeze a training set. Example: ferstore split parts --dataset mine --protocol random"""
    from ferstore.train.split_plan import SplitRequest

    request = SplitRequest(name, dataset, protocol.value, labels.value, seed, folds, leaks.value)
    request.check()
    report = open_store().split(request, dry_run=dry_run)
    from ferstore import rendering, terminal

    terminal.print_json(report) if as_json else rendering.show_split(report, dry_run=dry_run)


@app.command(rich_help_panel=LEARN)
def train(
    experiment: Annotated[Experiment, typer.Argument(help="Softmax on pool_3; Table 1 on mixed_10; conv4 + pool_3.")],
    training_set: Annotated[str, typer.Option(help="A frozen split.")],
    recipe: Annotated[RecipeName, typer.Option(help="The paper's, or ferstore's.")] = RecipeName.paper,
    steps: Annotated[int | None, typer.Option(help="Updates; the recipe's own otherwise.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over train instead.")] = None,
    width: Annotated[
        int | None, typer.Option(help="Filters of conv1 to conv3; 2048, the paper's, otherwise. fusion: of its conv4.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Change one option of the recipe.")
    ] = None,
    layers: Annotated[
        str, typer.Option(metavar="NAME,...", help="Other features than the experiment's, with commas.")
    ] = "",
    views: Annotated[str, typer.Option(metavar="NAME,...", help="identity, hflip, or both with a comma.")] = "identity",
    joint: Annotated[bool, typer.Option("--joint", help="fusion: fit conv1 to conv4 with it, from the map.")] = False,
    conv4: Annotated[str | None, typer.Option(help="fusion: the sub_deep run whose conv4 is read.")] = None,
    extractor: Annotated[str | None, typer.Option(help="Whose features; the newest complete otherwise.")] = None,
    fold: Annotated[int | None, typer.Option(help="One fold; all of them otherwise.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that train together.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs each takes; 0 trains on CPUs.")] = 0.0,
    precision: Annotated[TrainPrecision, typer.Option(help="Arithmetic of the head.")] = TrainPrecision.float32,
    checkpoint_seconds: Annotated[float, typer.Option(help="Least time between checkpoints.")] = 30.0,
    resume: Annotated[str | None, typer.Option(help="Continue a run, with its own settings.")] = None,
    address: Address = None,
    insecure_cluster: Insecure = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a head on stored features. Example: ferstore train deepest --training-set parts --recipe modern"""
    from ferstore.train.recipe import recipe_of
    from ferstore.train.request import TrainRequest

    request = TrainRequest(
        experiment=experiment.value,
        training_set=training_set,
        fold=fold,
        recipe=recipe_of(recipe.value, set_ or [], steps=steps, epochs=epochs),
        width=width,
        layers=names(layers),
        views=names(views),
        joint=joint,
        conv4=conv4,
        extractor=extractor,
        seed=seed,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        precision=precision.policy,
        checkpoint_seconds=checkpoint_seconds,
    )
    request.check()
    store = open_store(request)
    from ferstore import rendering, terminal

    with terminal.TerminalProgress() as progress:
        try:
            reports = store.train(
                request,
                resume=resume,
                address=address,
                insecure=insecure_cluster,
                dry_run=dry_run,
                progress=progress,
            )
        except KeyboardInterrupt as error:
            raise StoppedError("stopped", hint=" ".join(getattr(error, "__notes__", ["nothing was begun"]))) from error
    if as_json:
        terminal.print_json({"trainings": reports})
    else:
        for report in reports:
            rendering.show_train(report, dry_run=dry_run)
    raise typer.Exit(FAILED if any(report.state == "diverged" for report in reports) else DONE)


@app.command(rich_help_panel=LEARN)
def predict(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Image files.")],
    run: Annotated[str, typer.Option(help="A training that is done: ferstore runs.")],
    as_json: Json = False,
) -> None:
    """Classify images with a trained run. Example: ferstore predict --run RUN face.png"""
    from ferstore import rendering, terminal

    found = open_store().predict(run, urls)
    terminal.print_json({"run": run, "predictions": found}) if as_json else rendering.show_predictions(found)
    raise typer.Exit(SOME_QUARANTINED if any(one.error for one in found) else DONE)
