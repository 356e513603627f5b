"""``ferstore demo``: the whole line on faces drawn by the program, with every loader, in minutes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from ferstore import api, rendering
from ferstore.errors import InputError, WeightsError
from ferstore.extract.request import ExtractRequest
from ferstore.progress import Progress
from ferstore.sources import layouts
from ferstore.terminal import print_table, say

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


def run_demo(output: Path, *, address: str | None, progress: Progress) -> None:
    """Draw, ingest, extract, ask; doing it again continues or repeats without harm.

    Args:
        output: a folder that is new, or an earlier demo's.
        address: Ray cluster; None is this machine.
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
    random = _extract(store, address, progress)
    for question, query in _QUERIES:
        say(f"\n{question}")
        result = store.sql(query)
        print_table(result.columns.names, result.rows())
    _say_random(random)
    say(f"\nEverything is in {output}/: the drawn data sets in faces/, the tables in store/. Next:")
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


def _extract(store: api.FeatureStore, address: str | None, progress: Progress) -> bool:
    """Extract with ImageNet weights, or random ones where those cannot be had; say which."""
    request = ExtractRequest()
    try:
        report = store.extract(request, address=address, progress=progress)
    except WeightsError as error:
        say(f"\nImageNet weights cannot be had ({error.problem}).")
        _say_random(True)
        report = store.extract(dataclasses.replace(request, weights="random"), address=address, progress=progress)
    rendering.show_extract(report, store, dry_run=False)
    return report.extractor.weights_kind == "random"


def _say_random(random: bool) -> None:
    if random:
        say("RANDOM WEIGHTS, DRAWN FACES: this shows how ferstore works; its features say nothing about people.")
    else:
        say("DRAWN FACES: this shows how ferstore works; its features say nothing about people.")


def _some_file(faces: Path) -> Path:
    return sorted((faces / "jaffe").rglob("*.tiff"))[0]
