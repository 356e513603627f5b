"""``ferstore demo``: the whole line on faces drawn by the program, from every loader to the report, in minutes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from ferstore import api, rendering
from ferstore.cluster import cluster
from ferstore.errors import InputError, WeightsError
from ferstore.extract.request import ExtractRequest
from ferstore.progress import Progress
from ferstore.sources import layouts
from ferstore.terminal import print_table, say
from ferstore.train.recipe import recipe_of
from ferstore.train.request import EXPERIMENTS, TrainRequest
from ferstore.train.split_plan import SplitRequest

_SEED = 20261123
_WRITERS: dict[str, Callable[[Path], object]] = {
    "ferplus": lambda folder: layouts.write_ferplus(folder, seed=_SEED),
    "ckplus": lambda folder: layouts.write_ckplus(folder, seed=_SEED),
    "jaffe": lambda folder: layouts.write_jaffe(folder, seed=_SEED),
}
_QUERIES = (
    (
        "How many images of each class?",
        "select coalesce(label, '(none)') as label, count(*) as items, count(distinct image_id) as images "
        "from images group by all order by items desc",
    ),
    (
        "Which items have features, and from which weights?",
        "select dataset, count(*) as items, count(pool_3) as with_features, any_value(weights_kind) as weights "
        "from features group by all order by dataset",
    ),
    (
        "How much of the sub-deep maps is zero?",
        "select round(avg(zeros), 3) as share_of_zeros, round(avg(norm), 1) as mean_norm from mixed_10",
    ),
    (
        "How far apart are two classes? Cosine of their mean features.",
        """with m as (
             select label, i, avg(v) as v
             from (select label, unnest(pool_3) as v, generate_subscripts(pool_3, 1) as i from features
                   where label in ('happiness', 'surprise', 'neutral') and pool_3 is not null)
             group by all
           ), l as (select label, list(v order by i) as v from m group by label)
           select a.label, b.label as other, round(list_cosine_similarity(a.v, b.v), 4) as cosine
           from l a join l b on a.label < b.label order by all""",
    ),
    ("Is anything wrong with the features?", "select * exclude (extractor_id) from feature_health"),
)
_SET = "demo"  # as in the query
_WIDTH = 32
_EPOCHS = {"deepest": 60, "sub_deep": 6, "fusion": 60}
_TABLE_2 = (
    "select experiment, width, round(accuracy, 1) as accuracy, round(macro_f1, 1) as macro_f1, runs "
    "from table_2 where training_set = 'demo' order by experiment"
)
_NOTICE = "Drawn faces: this shows how ferstore works; its features and its accuracy say nothing about people."


def run_demo(output: Path, *, address: str | None, insecure: bool = False, progress: Progress) -> None:
    """Draw, ingest, extract, ask, train, report; doing it again continues or repeats without harm.

    Args:
        output: a folder that is new, or an earlier demo's.
        address: Ray cluster; None is this machine.
        insecure: use a cluster that answers without a token.
        progress: told of every stage.

    Raises:
        InputError: the folder holds something else.
    """
    faces, url = output / "faces", str(output / "store")
    if output.exists() and any(output.iterdir()) and not (faces.is_dir() or (output / "faces.partial").is_dir()):
        raise InputError(f"{output} is not empty and is no demo", hint="give --output with a new folder")
    _draw(faces, progress)
    store = api.init(url)
    for kind in _WRITERS:
        rendering.show_ingest(store.ingest(kind, str(faces / kind), progress=progress), dry_run=False)
    with cluster(address, insecure=insecure, warn=progress.note):  # one for all that follows
        random = _extract(store, address, progress)
        for question, query in _QUERIES:
            _ask(store, question, query)
        _train(store, address, progress)
    _ask(store, f"How good are the three experiments on the drawn FERPLUS, conv1 to conv3 {_WIDTH} wide?", _TABLE_2)
    page = store.report(output / "report", notice=_NOTICE, progress=progress).page
    say(f"\n{'RANDOM WEIGHTS. ' if random else ''}{_NOTICE}")
    say(f"\nThe report: {page}")
    say(f"Everything is in {output}/: the drawn data sets in faces/, the tables in store/. Next:")
    say(f"  export FERSTORE_STORE={url}")
    say("  ferstore tables")
    say('  ferstore sql "select label, pool_3[1:4] from features limit 5"')
    say(f"  ferstore similar {_some_file(faces)} -k 5")
    say("  ferstore init, ingest and extract with --store for your own faces")


def _draw(faces: Path, progress: Progress) -> None:
    """Draw into a folder of another name first, so that a killed demo leaves no half a data set."""
    if faces.is_dir():
        return
    partial = faces.with_name("faces.partial")
    shutil.rmtree(partial, ignore_errors=True)
    progress.start("draw faces", len(_WRITERS))
    for kind, write in _WRITERS.items():
        write(partial / kind)
        progress.advance(1)
    partial.rename(faces)


def _ask(store: api.FeatureStore, question: str, query: str) -> None:
    say(f"\n{question}")
    result = store.sql(query)
    print_table(result.columns.names, result.rows())


def _train(store: api.FeatureStore, address: str | None, progress: Progress) -> None:
    """The three experiments on the drawn FERPLUS, small; those that an earlier demo made are not made again."""
    rendering.show_split(store.split(SplitRequest(_SET, "ferplus", "official", labels="soft")), dry_run=False)
    known = {row[0] for row in store.sql(_TABLE_2).rows()}
    for experiment in EXPERIMENTS:
        if experiment not in known:
            request = TrainRequest(
                experiment, _SET, recipe=recipe_of("modern", epochs=_EPOCHS[experiment]), width=_WIDTH
            )
            [report] = store.train(request, address=address, progress=progress)
            rendering.show_train(report, dry_run=False)


def _extract(store: api.FeatureStore, address: str | None, progress: Progress) -> bool:
    """Extract with ImageNet weights, or random ones where those cannot be had; returns whether they are."""
    request = ExtractRequest()
    try:
        report = store.extract(request, address=address, progress=progress)
    except WeightsError as error:
        say(f"\nImageNet weights cannot be had ({error.problem}), so they are random here.")
        report = store.extract(dataclasses.replace(request, weights="random"), address=address, progress=progress)
    rendering.show_extract(report, store, dry_run=False)
    return report.extractor.weights_kind == "random"


def _some_file(faces: Path) -> Path:
    return sorted((faces / "jaffe").rglob("*.tiff"))[0]
