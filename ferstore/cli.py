"""The command line: parse, call the API, print, exit. No logic lives here."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from contextlib import ExitStack
from enum import StrEnum
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ferstore.config import job_commands
from ferstore.errors import FerstoreError, InputError

if TYPE_CHECKING:
    from ferstore.api import FeatureStore

DONE, FAILED, BAD_INPUT, SOME_QUARANTINED = 0, 1, 2, 3

app = typer.Typer(
    name="ferstore",
    help="A distributed feature store for image features: Ray computes them, Iceberg keeps them, DuckDB queries them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FILL = "Fill a store"
_ASK = "Ask it"
_LEARN = "Learn from it"
_KEEP = "Keep it"


class _Globals:
    """Options before the command (also accepted after it)."""

    store: str | None = None
    catalog: str | None = None
    debug: bool = False


class OutputFormat(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class Precision(StrEnum):
    """Arithmetic of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Maps(StrEnum):
    """How maps are stored."""

    float16 = "float16"
    float32 = "float32"


class Protocol(StrEnum):
    """What decides the part of an item."""

    official = "official"
    random = "random"
    subject = "subject"


class Labels(StrEnum):
    """Targets of training."""

    majority = "majority"
    soft = "soft"


class Experiment(StrEnum):
    """The paper's three classifiers."""

    deepest = "deepest"
    sub_deep = "sub_deep"
    fusion = "fusion"


class RecipeName(StrEnum):
    """How a head is fitted."""

    paper = "paper"
    modern = "modern"


class TrainPrecision(StrEnum):
    """Arithmetic of a head."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


class Leaks(StrEnum):
    """What to do about items on both sides of a split."""

    report = "report"
    drop = "drop"
    refuse = "refuse"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
At = Annotated[str | None, typer.Option("--at", help="A tag, snapshot id or ISO time; the newest state otherwise.")]


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"ferstore {version('ferstore')}\n")
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
    _Globals.store, _Globals.catalog, _Globals.debug = store, catalog, debug


@app.command(rich_help_panel=_FILL)
def init(
    maps: Annotated[Maps | None, typer.Option(help="How maps are stored; float32 is the paper's.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make the store. Example: ferstore --store /data/faces init"""
    from ferstore import api, terminal

    if dry_run:
        url = _Globals.store or api.default_store_url()
        terminal.print_json({"would_make": url}) if as_json else terminal.say(f"would make a store at {url}")
        return
    store = api.init(_Globals.store, catalog=_Globals.catalog, map_dtype=maps.value if maps else None)
    if as_json:
        terminal.print_json({"store": store.url, "map_dtype": store.store.map_dtype})
    else:
        terminal.say(f"store at {store.url}, maps stored as {store.store.map_dtype}")


@app.command(rich_help_panel=_FILL)
def ingest(
    kind: Annotated[str, typer.Argument(metavar="ferplus|ckplus|jaffe|folder", help="The data set's kind.")],
    url: Annotated[str, typer.Argument(help="Folder, zip or tar archive, or (folder) CSV or Parquet table.")],
    name: Annotated[str | None, typer.Option(help="Its name in the store.", metavar="DATASET")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register images and labels. Example: ferstore ingest folder ./faces --name mine"""
    from ferstore import rendering, terminal

    store = _open()
    with terminal.TerminalProgress() as progress, ExitStack() as stack:
        log = _decoder_log(store, stack)
        report = store.ingest(kind, url, name=name, dry_run=dry_run, progress=progress, log=log)
    terminal.print_json(report) if as_json else rendering.show_ingest(report, dry_run=dry_run)
    raise typer.Exit(SOME_QUARANTINED if report.quarantined else DONE)


@app.command(rich_help_panel=_FILL)
def extract(
    dataset: Annotated[str | None, typer.Option(help="One data set; all images otherwise.")] = None,
    layers: Annotated[str, typer.Option(help="Feature tables to fill, with commas between.")] = "pool_3,mixed_10",
    weights: Annotated[str, typer.Option(help="imagenet, random, or a path or URL.")] = "imagenet",
    weights_sha256: Annotated[str | None, typer.Option(help="Digest the weights file must have.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the network.")] = Precision.float32,
    batch_size: Annotated[int, typer.Option(help="Images a pass of the network.")] = 32,
    actors: Annotated[str, typer.Option(help="Number of actors, or auto to fill the cluster.")] = "auto",
    gpus_per_actor: Annotated[float, typer.Option(help="Share of a GPU each actor takes; 0 runs on CPUs.")] = 0.0,
    views: Annotated[str, typer.Option(help="identity, hflip (mirrored), or both with a comma.")] = "identity",
    limit: Annotated[int | None, typer.Option(help="Compute at most so many image views.")] = None,
    retry_quarantined: Annotated[bool, typer.Option("--retry-quarantined", help="Try failed images again.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine otherwise.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compute the features that are missing, and only those. Example: ferstore extract --dataset mine"""
    from ferstore import rendering, terminal
    from ferstore.extract.request import ExtractRequest

    request = ExtractRequest(
        dataset=dataset,
        layers=_names(layers),
        weights=weights,
        weights_sha256=weights_sha256,
        seed=seed,
        precision=precision.value,
        batch_size=batch_size,
        actors=_actors(actors),
        gpus_per_actor=gpus_per_actor,
        views=_names(views),
        limit=limit,
        retry_quarantined=retry_quarantined,
    )
    request.check()
    store = _open()
    with terminal.TerminalProgress() as progress:
        report = store.extract(request, address=address, dry_run=dry_run, progress=progress)
    if as_json:
        terminal.print_json({**terminal.jsonable(report), "extractor_id": report.extractor.extractor_id})
    else:
        rendering.show_extract(report, store, dry_run=dry_run)
    raise typer.Exit(SOME_QUARANTINED if report.in_quarantine and not dry_run else DONE)


@app.command(rich_help_panel=_LEARN)
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
    from ferstore import rendering, terminal
    from ferstore.train.split_plan import SplitRequest

    request = SplitRequest(name, dataset, protocol.value, labels.value, seed, folds, leaks.value)
    request.check()
    report = _open().split(request, dry_run=dry_run)
    terminal.print_json(report) if as_json else rendering.show_split(report, dry_run=dry_run)


@app.command(rich_help_panel=_LEARN)
def train(
    experiment: Annotated[Experiment, typer.Argument(help="Softmax on pool_3; Table 1 on mixed_10; conv4 + pool_3.")],
    training_set: Annotated[str, typer.Option(help="A frozen split.")],
    recipe: Annotated[RecipeName, typer.Option(help="The paper's, or ferstore's.")] = RecipeName.paper,
    steps: Annotated[int | None, typer.Option(help="Updates; the recipe's own otherwise.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over train instead.")] = None,
    width: Annotated[int, typer.Option(help="Filters of conv1 to conv3; the paper's are 2048.")] = 2048,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Change one option of the recipe.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Other features than the experiment's, with commas.")] = "",
    views: Annotated[str, typer.Option(help="identity, hflip, or both with a comma.")] = "identity",
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
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine otherwise.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a head on stored features. Example: ferstore train deepest --training-set parts --recipe modern"""
    from ferstore import rendering, terminal
    from ferstore.train.recipe import recipe_of
    from ferstore.train.request import TrainRequest

    request = TrainRequest(
        experiment=experiment.value,
        training_set=training_set,
        fold=fold,
        recipe=recipe_of(recipe.value, set_ or [], steps=steps, epochs=epochs),
        width=width,
        layers=_names(layers),
        views=_names(views),
        joint=joint,
        conv4=conv4,
        extractor=extractor,
        seed=seed,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        precision=precision.value,
        checkpoint_seconds=checkpoint_seconds,
    )
    request.check()
    store = _open()
    with terminal.TerminalProgress() as progress:
        reports = store.train(request, resume=resume, address=address, dry_run=dry_run, progress=progress)
    if as_json:
        terminal.print_json({"trainings": reports})
    else:
        for report in reports:
            rendering.show_train(report, dry_run=dry_run)
    raise typer.Exit(FAILED if any(report.state == "diverged" for report in reports) else DONE)


@app.command(rich_help_panel=_LEARN)
def predict(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Image files.")],
    run: Annotated[str, typer.Option(help="A training that is done: ferstore runs.")],
    as_json: Json = False,
) -> None:
    """Classify images with a trained run. Example: ferstore predict --run RUN face.png"""
    from ferstore import rendering, terminal

    found = _open().predict(run, urls)
    terminal.print_json({"run": run, "predictions": found}) if as_json else rendering.show_predictions(found)
    raise typer.Exit(SOME_QUARANTINED if any(one.error for one in found) else DONE)


@app.command(rich_help_panel=_FILL)
def demo(
    output: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("ferstore-demo"),
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine otherwise.")] = None,
) -> None:
    """All of it on drawn faces, in minutes. Example: ferstore demo"""
    from ferstore import terminal
    from ferstore.demo import run_demo

    with terminal.TerminalProgress() as progress:
        run_demo(output, address=address, progress=progress)


@app.command(rich_help_panel=_ASK)
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over tables and views.")],
    at: At = None,
    format: Annotated[OutputFormat, typer.Option(help="How rows are printed.")] = OutputFormat.table,  # noqa: A002
    output: Annotated[Path | None, typer.Option(help="Write to a file instead of stdout.")] = None,
    as_json: Json = False,
) -> None:
    """Read-only SQL. Example: ferstore sql "select label, count(*) from images group by label" """
    from ferstore import rendering

    rendering.show_query(_open(), query, at=at, kind=format.value, output=output, as_json=as_json)


@app.command(rich_help_panel=_ASK)
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

    store = _open()
    found = store.similar(image, k=k, layer=layer, extractor_id=extractor, at=at)
    rendering.warn_random(store, at, {layer})
    if as_json:
        terminal.print_json({"image": image, "layer": layer, "neighbours": found})
    else:
        rows = [(n.image_id, f"{n.similarity:.4f}", n.dataset, n.item_id, n.label) for n in found]
        terminal.print_table(["image_id", "similarity", "dataset", "item_id", "label"], rows, numbers=["similarity"])


@app.command(rich_help_panel=_ASK)
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A tag, snapshot id or time.")],
    second: Annotated[str, typer.Argument(metavar="B", help="A tag, snapshot id or time.")],
    as_json: Json = False,
) -> None:
    """What changed between two states. Example: ferstore diff before after"""
    from ferstore import rendering, terminal

    found = _open().diff(first, second)
    terminal.print_json(found) if as_json else rendering.show_diff(found)


@app.command(rich_help_panel=_ASK)
def tables(as_json: Json = False) -> None:
    """Tables with their rows and sizes. Example: ferstore tables"""
    from ferstore import rendering, terminal

    store = _open()
    found = store.tables()
    terminal.print_json({"store": store.url, "tables": found}) if as_json else rendering.show_tables(found)


@app.command(rich_help_panel=_ASK)
def snapshots(
    table: Annotated[str | None, typer.Option(help="Of one table.")] = None,
    as_json: Json = False,
) -> None:
    """Every commit, newest first, with what made it. Example: ferstore snapshots --table images"""
    from ferstore import rendering, terminal

    store = _open()
    if table is not None and table not in store.store.schemas:
        raise InputError(f"unknown table {table!r}", allowed=", ".join(store.store.schemas))
    found = [s for s in store.snapshots() if table in (None, s.table)]
    terminal.print_json({"snapshots": found}) if as_json else rendering.show_snapshots(found)


@app.command(rich_help_panel=_ASK)
def runs(as_json: Json = False) -> None:
    """Commands that changed the store, newest first. Example: ferstore runs"""
    from ferstore import rendering, terminal

    found = _open().runs()
    terminal.print_json({"runs": found}) if as_json else rendering.show_runs(found)


@app.command(rich_help_panel=_KEEP)
def tag(
    name: Annotated[str | None, typer.Argument(help="The tag to make; tags are listed without one.")] = None,
    at: At = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Name a state of all tables for ever. Example: ferstore tag first"""
    from ferstore import rendering, terminal

    store = _open()
    if name is None or dry_run:
        tags = store.tags()
        if name is not None and name not in tags:
            terminal.tell(f"would tag {name}")
        terminal.print_json({"tags": tags}) if as_json else rendering.show_tags(tags)
        return
    made = store.tag(name, at=at)
    if as_json:
        terminal.print_json({"tag": name, "snapshots": made})
    else:
        terminal.say(f"tagged {name}: {len(made)} tables")


@app.command(rich_help_panel=_KEEP)
def verify(as_json: Json = False) -> None:
    """Read every live file back against its digest. Example: ferstore verify"""
    from ferstore import rendering, terminal

    with terminal.TerminalProgress() as progress:
        report = _open().verify(progress)
    terminal.print_json({**terminal.jsonable(report), "sound": report.sound}) if as_json else rendering.show_verify(
        report
    )
    raise typer.Exit(DONE if report.sound else FAILED)


@app.command(rich_help_panel=_KEEP)
def doctor(as_json: Json = False) -> None:
    """Is the store sound, atomic and reachable; what is left over. Example: ferstore doctor"""
    from ferstore import terminal

    findings = _open().doctor()
    if as_json:
        terminal.print_json({"findings": findings})
    else:
        terminal.print_table(["state", "check", "detail"], [(f.state, f.check, f.detail) for f in findings])
    raise typer.Exit(FAILED if any(finding.state == "fail" for finding in findings) else DONE)


def _open() -> FeatureStore:
    from ferstore import api

    store = api.open(_Globals.store, catalog=_Globals.catalog)
    _log_to(store)
    return store


def _log_folder(store: FeatureStore) -> Path | None:
    from ferstore.store.files import local_path

    folder = local_path(store.url)
    return folder / "log" if folder else None


def _log_to(store: FeatureStore) -> None:
    """Libraries' warnings go to a file in a local store, never between the lines of a result."""
    folder = _log_folder(store)
    handler: logging.Handler = logging.NullHandler()
    if folder:
        try:
            folder.mkdir(exist_ok=True)
            handler = RotatingFileHandler(folder / "ferstore.log", maxBytes=5 << 20, backupCount=2, delay=True)
        except OSError:
            pass  # a store that can only be read can still be queried
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)


def _decoder_log(store: FeatureStore, stack: ExitStack) -> IO[bytes] | None:
    folder = _log_folder(store)
    return stack.enter_context((folder / "decoders.log").open("ab")) if folder and folder.is_dir() else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _actors(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--actors {text!r}", allowed="auto, or a number from 1") from None


_HOISTED = {"--store": 1, "--catalog": 1, "--debug": 0}


def _hoist(arguments: list[str]) -> list[str]:
    """Move the global options before the command, so that they may also come after it."""
    front: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        name, given, _ = word.partition("=")
        if word == "--":
            rest += [word, *left]
            break
        if name in _HOISTED:
            take = 0 if given else _HOISTED[name]
            front += [word, *left[:take]]
            del left[:take]
        else:
            rest.append(word)
    return front + rest


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


# Typer keeps Click's exceptions private; this one covers unknown commands, options and missing arguments.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def run_job(command: str) -> None:
    """``python -m jobs.COMMAND --config FILE [OPTION ...]``: the file's options, then those given, which win."""
    given = sys.argv[1:]
    try:
        if len(given) < 2 or given[0] != "--config":
            raise InputError(f"jobs.{command} {' '.join(given)}".strip(), allowed="--config FILE, then more options")
        commands = job_commands(command, Path(given[1]))
    except FerstoreError as error:
        sys.exit(_fail(error.exit_code, str(error)))
    codes = [DONE]
    for arguments in commands:
        codes.append(_run([*arguments, *given[2:]]))
        if codes[-1] not in (DONE, SOME_QUARANTINED):
            break
    sys.exit(codes[-1] or max(codes))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.ERROR, handlers=[logging.NullHandler()])
    given = _hoist(arguments)
    try:
        code: int = app(given, prog_name="ferstore", standalone_mode=False) or DONE
    except _UsageError as error:
        problem = error.format_message().rstrip(".") or "no command given"  # type: ignore[attr-defined]
        code = _fail(BAD_INPUT, f"{problem}; see: ferstore --help")
    except FerstoreError as error:
        code = _fail(error.exit_code, str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as head, has seen enough
        code = DONE
    except OSError as error:
        code = _fail(FAILED, f"{error}; mend the cause and run the same command again")
    except Exception as error:
        code = _fail(FAILED, f"unexpected {type(error).__name__}: {error}; run again with --debug and report it")
    if code == 130:  # Typer's code for Ctrl-C
        code = _fail(FAILED, "stopped; what was finished is kept, and the same command continues")
    return code


def _fail(code: int, text: str) -> int:
    if _Globals.debug or "--debug" in sys.argv:
        traceback.print_exc()
    line = " ".join(text.split())
    sys.stderr.write(f"ferstore: {line}\n")
    return code


if __name__ == "__main__":
    main()
