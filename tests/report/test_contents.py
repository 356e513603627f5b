"""What the page says, against SQL and counts by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import sql
from reported import CLASSES, HOSTILE, RANDOM, REAL, Filled

from ferstore.api import FeatureStore
from ferstore.errors import InputError
from ferstore.report.contents import Contents, Detail, Head, HeadLayer, gather
from ferstore.report.csvs import csv_files
from ferstore.report.entries import EXPERIMENTS, Entry, Training, line_up
from ferstore.report.missing import find_missing
from ferstore.store.store import init_store


def head_of(classes: int) -> Head:
    return Head(classes, (HeadLayer("conv7", (1, 1, 512), classes, 1, (1, 1, classes), 513 * classes),))


def contents_of(api: FeatureStore, **asked: Any) -> Contents:
    return gather(api.session(), head_of, store=api.url, map_dtype="float16", **asked)


@pytest.fixture(scope="module")
def contents(filled: Filled) -> Contents:
    return contents_of(filled.api)


def detail_of(contents: Contents, training_set: str) -> Detail:
    return next(detail for detail in contents.details if detail.lineup.training_set == training_set)


def test_rows_of_table_2_are_those_of_sql_with_the_runs_behind_them(contents: Contents, filled: Filled) -> None:
    shown = "training_set, experiment, settings, runs, accuracy, accuracy_sd, macro_f1, paper_accuracy"
    found = [tuple(getattr(entry, name) for name in shown.split(", ")) for entry in contents.entries]
    rows = sql(filled.api.store, f"select {shown} from table_2")
    sets = ["parts", "folded"]  # the random protocol, then the one by subject
    assert found == sorted(rows, key=lambda r: (sets.index(str(r[0])), EXPERIMENTS.index(str(r[1])), str(r[2])))
    runs = {run for entry in contents.entries for run in entry.run_ids}
    assert "parts-older" not in runs  # trained again since
    assert "parts-diverged" not in runs
    assert runs == {row[0] for row in sql(filled.api.store, "select run_id from trainings")}
    deepest = next(e for e in contents.entries if (e.training_set, e.settings) == ("parts", "") and e.runs == 2)
    assert deepest.accuracy == pytest.approx(100 * (3 / 6 + 4 / 6) / 2)


def test_gains_are_those_of_the_means_and_the_papers_of_its_own(contents: Contents) -> None:
    lineup = detail_of(contents, "parts").lineup
    deepest, sub_deep, fusion = (lineup.entry(name) for name in ("deepest", "sub_deep", "fusion"))
    assert deepest is not None
    assert sub_deep is not None
    assert fusion is not None
    over = {gain.over: gain for gain in lineup.gains}
    assert over["deepest"].own == pytest.approx(100 * (fusion.accuracy / deepest.accuracy - 1))
    assert over["sub_deep"].own == pytest.approx(100 * (fusion.accuracy / sub_deep.accuracy - 1))
    assert [round(over[name].paper or 0, 1) for name in ("sub_deep", "deepest")] == [4.4, 22.0]  # jaffe


def test_several_seeds_count_each_item_once(contents: Contents) -> None:
    deepest, _, fusion = detail_of(contents, "parts").results
    assert deepest.confusion == ((1.5, 1.5, 0), (1, 2, 0), (0, 0, 0))
    assert sum(map(sum, fusion.confusion)) == pytest.approx(6)  # of three seeds
    assert fusion.confusion[1] == pytest.approx((1 / 3, 7 / 3, 1 / 3))
    a, b, c = deepest.scores
    assert (a.label, a.items, a.recall, a.precision) == (CLASSES[0], 3, 0.5, 0.6)
    assert (c.items, c.recall, c.precision, c.f1) == (0, None, None, None)
    assert (deepest.whole, b.recall) == (False, 2 / 3)
    assert deepest.accuracy == pytest.approx(3.5 / 6)


def test_folds_test_different_items_whose_counts_add_up(contents: Contents) -> None:
    [sub_deep] = detail_of(contents, "folded").results
    assert sub_deep.confusion == ((1, 1, 0), (1, 2, 0), (0, 0, 0))
    assert sub_deep.accuracy == 3 / 5
    assert sub_deep.entry.accuracy == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)  # over runs, as in Table 2
    # All answers are sure to 0.75: one bin, right 3 times of 5.
    assert sub_deep.calibration.error == pytest.approx(0.75 - 0.6)
    assert [b.items for b in sub_deep.calibration.bins] == [0, 0, 0, 0, 0, 0, 0, 5, 0, 0]


def test_curves_are_means_over_runs_of_the_view(contents: Contents, filled: Filled) -> None:
    result = detail_of(contents, "parts").results[0]
    [first] = [point for point in result.curve if (point.part, point.epoch) == ("train", 1)]
    ids = ", ".join(f"'{run}'" for run in result.entry.run_ids)
    which = f"run_id in ({ids}) and part = 'train' and epoch = 1"
    query = f"select avg(loss), avg(accuracy), count(*) from curves where {which}"
    assert sql(filled.api.store, query) == [(pytest.approx(first.loss), pytest.approx(first.accuracy), first.runs)]
    assert first.runs == 2


def test_fusion_is_compared_with_the_deepest_of_the_same_seed(contents: Contents) -> None:
    versus = detail_of(contents, "parts").versus
    assert versus is not None
    assert [(s.seed, s.both, s.fixed, s.broken, s.neither, s.items) for s in versus.seeds] == [
        (0, 2, 2, 1, 1, 6),
        (1, 3, 2, 1, 0, 6),
    ]
    assert versus.seeds[0].p == 1
    assert versus.seeds[0].difference == pytest.approx(100 / 6)
    assert versus.unpaired == 1  # seed 2 of fusion
    assert [(c.fixed, c.broken) for c in versus.classes] == [(1, 0), (1, 1), (0, 0)]
    fixed = [(i.item_id, i.seeds, i.of, i.wrong) for i in versus.items if i.change == "fixed"]
    assert fixed == [
        (HOSTILE, 2, 2, (CLASSES[0],)),
        ("001.png", 1, 2, (CLASSES[1],)),
        ("002.png", 1, 2, (CLASSES[1],)),
    ]
    broken = [(i.item_id, i.wrong) for i in versus.items if i.change == "broken"]
    assert sorted(broken) == [("003.png", (CLASSES[0],)), ("005.png", (CLASSES[2],))]


def entry(
    experiment: str, run: str, settings: str = "", width: int | None = None, runs: int = 1, reads: str | None = None
) -> Entry:
    """A row whose runs are called ``run`` and their seed; those of ``reads`` are read by the run of the same seed."""
    trained = tuple(Training(f"{run}{n}", n, 0, 50.0, n, reads and f"{reads}{n}") for n in range(runs))
    scores = dict.fromkeys(("accuracy", "macro_f1", "balanced_accuracy"), 50.0)
    none = dict.fromkeys(("accuracy_sd", "macro_f1_sd", "balanced_accuracy_sd", "paper_accuracy", "weights_kind"))
    return Entry(
        dataset="d", protocol="random", experiment=experiment, recipe="paper", width=width, settings=settings,
        training_set="t", runs=runs, seeds=runs, folds=1, extractor_id="e", trainings=trained, classes=("a",),
        **scores, **none,
    )  # fmt: skip


def test_a_fusion_stands_beside_what_it_reads_and_the_deepest_on_the_same_inputs() -> None:
    plain, mirrored = entry("deepest", "plain", runs=9), entry("deepest", "mirrored", "views=identity+hflip")
    wide, narrow = entry("sub_deep", "wide", width=2048), entry("sub_deep", "narrow", "epochs=6", width=64, runs=2)
    of_wide = entry("fusion", "w", "views=identity+hflip", 2048, reads="wide")
    of_narrow = entry("fusion", "n", "(conv4: paper epochs=6)", 64, reads="narrow")
    joint = entry("fusion", "j", "joint", 2048)
    found = line_up([joint, mirrored, plain, narrow, of_wide, wide, of_narrow])
    assert [(lineup.main, lineup.entries) for lineup in found] == [
        (True, (plain, narrow, of_narrow)),
        (False, (mirrored, wide, of_wide)),
        (False, (joint,)),
    ]
    assert [(lineup.deepest, lineup.sub_deep) for lineup in found] == [(plain, narrow), (mirrored, wide), (plain, wide)]
    assert [[gain.over for gain in lineup.gains] for lineup in found] == [["sub_deep", "deepest"]] * 3


def test_a_fusion_of_a_run_that_no_longer_counts_has_no_sub_deep_beside_it() -> None:
    [lineup, rest] = line_up([entry("sub_deep", "newer", width=64), entry("fusion", "f", width=64, reads="older")])
    assert (lineup.sub_deep, lineup.missing) == (None, ("deepest", "sub_deep"))
    assert lineup.gains == rest.gains == ()


def test_what_departs_least_from_the_recipe_comes_first_and_nothing_is_left_out() -> None:
    plain, changed = entry("deepest", "plain"), entry("deepest", "changed", "steps=5", runs=9)
    wide, narrow = entry("sub_deep", "wide", width=2048), entry("sub_deep", "narrow", width=64, runs=9)
    also = entry("sub_deep", "also", "steps=5", 64)
    found = line_up([changed, plain, also, narrow, wide])
    assert [(lineup.main, lineup.entries) for lineup in found] == [
        (True, (plain, wide)),
        (False, (changed, also)),
        (False, (narrow,)),
    ]
    few, many = entry("fusion", "few", "steps=5 joint", 64), entry("fusion", "many", "steps=9", 64, runs=2)
    found = line_up([plain, few, many])
    assert [lineup.entries for lineup in found] == [(plain, many), (few,)]
    assert [lineup.deepest for lineup in found] == [plain, plain]
    assert found[0].missing == ("sub_deep",)


def test_one_training_set_brings_its_own_and_no_other(filled: Filled, contents: Contents) -> None:
    one = contents_of(filled.api, training_set="folded")
    assert {e.training_set for e in one.entries} == {run.training_set for run in one.lineage.runs} == {"folded"}
    assert [split.name for split in one.splits] == ["folded"]
    assert [found.extractor_id for found in one.lineage.extractors] == [RANDOM]
    assert {found.extractor_id for found in contents.lineage.extractors} == {REAL, RANDOM}
    with pytest.raises(InputError, match=r"no training set 'nowhere'.*allowed: bare, folded, parts"):
        contents_of(filled.api, training_set="nowhere")


def test_an_earlier_state_is_shown_as_it_was(filled: Filled) -> None:
    session = filled.api.session("2026-01-01T00:00:00Z")
    found = gather(session, head_of, store="s", map_dtype="float16")
    assert (found.entries, found.splits, found.data_sets, found.lineage.snapshots) == ((), (), (), {})


def test_splits_have_their_sizes_leaks_and_the_score_of_one_answer(contents: Contents) -> None:
    parts, folded = contents.split("parts"), contents.split("folded")
    assert {part: str(span) for part, span in parts.sizes.items()} == {"train": "4", "validation": "2", "test": "6"}
    assert [[str(span) for span in parts.by_class[label].values()] for label in CLASSES] == [
        ["0", "0", "3"],
        ["4", "2", "3"],
        ["0", "0", "0"],
    ]
    assert [(leak.kind, leak.part, leak.found, leak.left) for leak in parts.leaks] == [("same_subject", "test", 1, 1)]
    assert (parts.commonest, parts.commonest_share) == (CLASSES[0], 0.5)
    assert folded.leaks == ()
    assert contents.split("bare").commonest_share is None
    [faces] = contents.data_sets
    assert (faces.kind, faces.items, faces.images, faces.classes, faces.subjects) == ("jaffe", 12, 12, 3, 2)


def test_what_is_missing_comes_with_the_command_that_adds_it(contents: Contents) -> None:
    said = {one.what: one.command for one in find_missing(contents)}
    assert said["Training set bare has no finished training."] == "ferstore train deepest --training-set bare"
    assert said["folded, recipe modern: no fusion, so no comparison with it."] == (
        "ferstore train fusion --training-set folded --recipe modern"
    )
    assert any("parts-diverged (sub_deep) diverged" in what for what in said)
    assert any(f"Class {CLASSES[2]} has no test item in training set parts" in what for what in said)
    assert any(
        "parts has the same people on both sides" in what and "read the split by person" in what for what in said
    )
    [partner] = [command for what, command in said.items() if "1 run of deepest or fusion has no partner" in what]
    assert partner == "ferstore train deepest --training-set parts --recipe paper --seed 2"


@pytest.mark.parametrize("filling", ["nothing", "images", "split"])
def test_a_store_with_little_has_contents_and_says_what_is_next(
    tmp_path: Path, put: Callable[..., Any], filling: str
) -> None:
    store = init_store(str(tmp_path / "store"))
    if filling != "nothing":
        put(store, images=[{"dataset": "my faces", "item_id": "a", "image_id": "b"}])
    if filling == "split":
        put(store, training_sets=[{"name": "p", "classes": [], "folds": 1, "counts": "{}", "dataset": "my faces"}])
    commands = [one.command for one in find_missing(contents_of(FeatureStore(store)))]
    assert commands == {
        "nothing": ["ferstore ingest folder ./faces --name mine"],
        "images": [
            "ferstore extract --dataset 'my faces'",
            "ferstore split parts --dataset 'my faces' --protocol random",
        ],
        "split": ["ferstore extract --dataset 'my faces'", "ferstore train deepest --training-set p"],
    }[filling]  # fmt: skip


def test_csv_files_have_every_row_in_full(contents: Contents, filled: Filled) -> None:
    files = {name: list(csv.DictReader(io.StringIO(data.decode()))) for name, data in csv_files(contents).items()}
    table_2 = sql(filled.api.store, "select training_set, experiment, accuracy from table_2")
    found = [(row["training_set"], row["experiment"], float(row["accuracy"])) for row in files["table-2.csv"]]
    assert sorted(found) == [(*names, pytest.approx(accuracy)) for *names, accuracy in sorted(table_2)]
    assert len(files["confusion.csv"]) == 9 * len(contents.entries)
    assert len(files["fusion-against-deepest.csv"]) == 5
    assert {row["run_id"] for row in files["trainings.csv"]} >= {"parts-older", "parts-diverged"}
    assert [row["left"] for row in files["leakage.csv"]] == ["1"]
