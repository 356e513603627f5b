"""The views, on rows made by hand: what each counts, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest

from ferstore.api import FeatureStore
from ferstore.store.pin import Pin
from ferstore.store.store import Store, init_store
from ferstore.train.recipe import MODERN, PAPER
from ferstore.train.request import TrainRequest

Put = Callable[..., Pin]
Row = dict[str, Any]
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all: each test has images, extractors and training sets of its own."""
    return init_store(str(tmp_path_factory.mktemp("views") / "store"))


def ask(store: Store, query: str) -> list[Row]:
    return list(FeatureStore(store).sql(query).arrow().to_pylist())


def vector(image: str, extractor: str, value: float = 1.0, view: str = "identity", later: int = 0) -> Row:
    """A row of pool_3: all values ``value``; ``later`` in seconds."""
    named = {"image_id": image, "extractor_id": extractor, "view": view, "extracted_at": NOW + timedelta(seconds=later)}
    return {**named, "pool_3": np.full(2048, value, np.float32)}


def test_features_are_those_of_the_newest_extractor_whatever_its_id(store: Store, put: Put) -> None:
    rows = [vector("n1", "zzz", 1), vector("n1", "aaa", 2, later=5), vector("n2", "zzz", 3, later=9)]
    rows += [vector("n3", "aaa", 4), vector("n3", "zzz", 5)]  # at the same moment: the same one every time
    put(store, pool_3=rows, images=[{"dataset": "newest", "item_id": i, "image_id": i} for i in ("n1", "n2", "n3")])
    found = ask(store, "select extractor_id, pool_3[1] v, norm from features where dataset = 'newest' order by item_id")
    assert [(row["extractor_id"], row["v"]) for row in found] == [("aaa", 2), ("zzz", 3), ("zzz", 5)]
    assert found[0]["norm"] == pytest.approx(2 * 2048**0.5)


def test_features_have_every_item_once_and_nulls_where_there_is_no_identity_view(store: Store, put: Put) -> None:
    items = [("mirrored", "m"), ("twice-1", "t"), ("twice-2", "t"), ("unknown", "u"), ("without", "w")]
    rows = [vector("t", "once-e"), vector("t", "once-old", later=-5), vector("u", "once-nosuch")]
    rows += [vector(i, e, 7, "hflip", 9) for i, e in (("t", "once-e"), ("t", "once-new"), ("m", "once-e"))]
    images = [{"dataset": "once", "item_id": i, "image_id": image, "label": i[:1]} for i, image in items]
    kinds = [{"extractor_id": "once-e", "weights": "random", "weights_kind": "random"}]
    put(store, images=images, pool_3=rows, extractors=kinds)
    shown = "item_id, label, extractor_id, weights, weights_kind, pool_3[2048] v, extracted_at is null n"
    found = ask(store, f"select {shown} from features where dataset = 'once' order by item_id")
    assert [tuple(row.values()) for row in found] == [
        ("mirrored", "m", None, None, None, None, True),
        ("twice-1", "t", "once-e", "random", "random", 1, False),
        ("twice-2", "t", "once-e", "random", "random", 1, False),
        ("unknown", "u", "once-nosuch", None, None, 1, False),
        ("without", "w", None, None, None, None, True),
    ]  # fmt: skip


def health(store: Store, extractor: str, view: str = "identity") -> Row:
    (row,) = ask(store, f"from feature_health where extractor_id = '{extractor}' and view = '{view}'")
    return row


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_health_counts_an_image_with_values_that_are_not_finite_once(store: Store, put: Put, bad: float) -> None:
    name = f"finite{bad}"
    rows = [vector(f"{name}{n}", name, n + 1) for n in range(4)]
    rows[1]["pool_3"][[5, 9]] = rows[3]["pool_3"][0] = bad
    put(store, pool_3=rows)
    assert (health(store, name)["images"], health(store, name)["not_finite"]) == (4, 2)


def test_a_channel_is_dead_when_it_is_zero_for_every_image_of_one_extractor_and_view(store: Store, put: Put) -> None:
    rows = [vector(f"d{n}", name) for n in range(3) for name in ("dead", "alive")]
    for row in rows:
        row["pool_3"][[0, 7]] = 0
    rows[0]["pool_3"][7], rows[1]["pool_3"][[0, 7]] = -0.5, 1  # below zero is life too
    put(store, pool_3=[*rows, vector("d0", "dead", 0, "hflip")])
    put(store, extractors=[{"extractor_id": "dead", "weights_kind": "random"}])
    found = [health(store, *which) for which in (("dead",), ("alive",), ("dead", "hflip"))]
    assert [(r["dead_channels"], r["weights_kind"]) for r in found] == [(1, "random"), (0, None), (2048, "random")]


def test_norms_beyond_four_standard_deviations_are_outliers(store: Store, put: Put) -> None:
    values = np.r_[np.linspace(9, 11, 80), 20, 1, 17]
    norms = values * 2048**0.5
    away = np.abs(norms - norms.mean()) / norms.std(ddof=1)
    assert (sum(away > 3), sum(away > 4)) == (3, 2)
    put(store, pool_3=[vector(f"o{n}", "far", value) for n, value in enumerate(values)])
    put(store, pool_3=[vector("o0", "single"), *(vector(f"o{n}", "equal") for n in range(5))])
    assert [health(store, name)["norm_outliers"] for name in ("far", "single", "equal")] == [2, 0, 0]
    found = [health(store, "far")[which] for which in ("min_norm", "mean_norm", "max_norm")]
    assert found == pytest.approx([norms.min(), norms.mean(), norms.max()])


def test_leaks_of_a_set_that_dropped_them_are_not_leakage(store: Store, put: Put) -> None:
    sets = {"L-report": "report", "L-drop": "drop", "L-refuse": "refuse"}
    own = {"dataset": "d", "protocol": "random", "classes": []}
    leak = {"fold": 1, "kind": "near_duplicate", "item_id": "i", "part": "test", "counterpart_item_id": "j"}
    leaks = [{**leak, "training_set": name, "distance": 2} for name in (*sets, "L-of-no-set")]
    put(store, training_sets=[{"name": n, "leaks": how, **own} for n, how in sets.items()], training_set_leaks=leaks)
    shown = "training_set, dataset, protocol, fold, kind, part, item_id, counterpart_item_id, distance"
    found = ask(store, f"select {shown} from leakage where training_set like 'L-%' order by all")
    both = [(name, "d", "random", 1, "near_duplicate", "test", "i", "j", 2) for name in ("L-refuse", "L-report")]
    assert [tuple(row.values()) for row in found] == both


def training(name: str, run: str, *, state: str = "done", later: int = 0, **asked: Any) -> Row:
    details = {"conv4_run": asked.pop("conv4_run", None)}
    request = TrainRequest(asked.pop("experiment", "deepest"), name, **{"fold": 0, "width": 2048, **asked})
    named = {"run_id": f"{name}-{run}", "command": "train", "state": state, "extractor_id": request.extractor or "e"}
    started = NOW + timedelta(seconds=later)
    arguments = json.dumps(request.arguments(), sort_keys=True)
    return {**named, "arguments": arguments, "details": json.dumps(details), "started_at": started}


def predicted(run: Row, pairs: str, part: str = "test") -> list[Row]:
    """Rows of predictions: "ab" is an item of class a that was taken for b."""
    named = {"run_id": run["run_id"], "part": part, "probabilities": [1.0]}
    return [{**named, "item_id": f"{n}", "label": p[0], "predicted": p[1]} for n, p in enumerate(pairs.split())]


def put_trainings(store: Store, put: Put, name: str, runs: Sequence[tuple[Row, str]], /, **more: list[Row]) -> None:
    """A training set of classes a to e, and its trainings with what they make of test; ``more`` rows beside."""
    own = {"name": name, "dataset": f"data-{name}", "protocol": "random", "classes": list("abcde")}
    rows = {"runs": [run for run, _ in runs], "predictions": [row for run in runs for row in predicted(*run)]}
    put(store, training_sets=[own], **more | {table: rows[table] + more.get(table, []) for table in rows})


def table_2(store: Store, name: str) -> list[Row]:
    return ask(store, f"from table_2 where training_set = '{name}'")


QUARTERS = ["aa aa aa aa", "aa aa aa ab", "aa aa ab ab", "aa ab ab ab", "ab ab ab ab"]  # 100, 75, 50, 25, 0 % right


def test_scores_of_a_small_confusion_are_those_counted_by_hand(store: Store, put: Put) -> None:
    # a: 3 of 4 found, 5 predicted. b: 1 of 3, 2 predicted. c: none there, 1 predicted. d: 0 of 1. e: neither.
    run = training("hand", "r")
    put_trainings(
        store, put, "hand", [(run, "aa aa aa ab bb ba ba dc")], predictions=predicted(run, "aa", "validation")
    )
    (row,) = table_2(store, "hand")
    assert row["accuracy"] == pytest.approx(100 * 4 / 8)
    assert row["macro_f1"] == pytest.approx(100 * (6 / 9 + 2 / 5 + 0 + 0 + 0) / 5)
    assert row["balanced_accuracy"] == pytest.approx(100 * (3 / 4 + 1 / 3 + 0) / 3)
    assert (row["accuracy_sd"], row["macro_f1_sd"], row["balanced_accuracy_sd"]) == (None, None, None)
    assert [row[name] for name in ("runs", "seeds", "folds", "dataset", "protocol")] == [1, 1, 1, "data-hand", "random"]


def test_scores_of_any_confusion_are_those_of_a_plain_count(store: Store, put: Put) -> None:
    chance = np.random.default_rng(6)
    drawn = [chance.integers(0, n % 5 + 1, size=(chance.integers(1, 30), 2)) for n in range(20)]
    widths = range(1, len(drawn) + 1)  # each a row of its own
    runs = [training("drawn", f"{w}", experiment="sub_deep", width=w) for w in widths]
    texts = [" ".join("abcde"[label] + "abcde"[taken] for label, taken in pairs) for pairs in drawn]
    put_trainings(store, put, "drawn", list(zip(runs, texts, strict=True)))
    found = {row["width"]: row for row in table_2(store, "drawn")}
    for width, pairs in zip(widths, drawn, strict=True):
        hits = [int((pairs == c).all(axis=1).sum()) for c in range(5)]
        labelled, taken = ([int((pairs[:, side] == c).sum()) for c in range(5)] for side in (0, 1))
        f1 = [2 * h / (n + t) if n + t else 0 for h, n, t in zip(hits, labelled, taken, strict=True)]
        recalls = [h / n for h, n in zip(hits, labelled, strict=True) if n]
        scores = [found[width][name] for name in ("accuracy", "macro_f1", "balanced_accuracy")]
        assert scores == pytest.approx([100 * sum(hits) / len(pairs), 100 * mean(f1), 100 * mean(recalls)])


def test_mean_and_sample_deviation_are_over_the_folds(store: Store, put: Put) -> None:
    put_trainings(store, put, "folds", [(training("folds", f"{n}", fold=n), QUARTERS[n]) for n in (0, 1, 3)])
    (row,) = table_2(store, "folds")
    assert (row["runs"], row["seeds"], row["folds"]) == (3, 1, 3)
    f1 = [100 / 5 * 2 * hits / (4 + hits) for hits in (4, 3, 1)]
    for name, values in (("accuracy", [100, 75, 25]), ("balanced_accuracy", [100, 75, 25]), ("macro_f1", f1)):
        assert (row[name], row[f"{name}_sd"]) == pytest.approx((mean(values), stdev(values)))


def test_of_the_same_training_again_the_newest_that_is_done_counts(store: Store, put: Put) -> None:
    again = [("first", "done"), ("newest", "done"), ("failed", "failed"), ("running", "running"), ("x", "stopped")]
    runs = [(training("again", run, state=s, later=n), QUARTERS[n]) for n, (run, s) in enumerate(again)]
    put_trainings(store, put, "again", [*runs, (training("again", "stopped", state="stopped", fold=1), QUARTERS[4])])
    put_trainings(store, put, "never", [(training("never", s, state=s), QUARTERS[0]) for s in ("failed", "running")])
    assert [(row["runs"], row["folds"], row["accuracy"]) for row in table_2(store, "again")] == [(1, 1, 75)]
    assert table_2(store, "never") == []


def test_what_changes_a_result_makes_a_row_of_its_own_and_nothing_else_does(store: Store, put: Put) -> None:
    asked: dict[tuple[Any, ...], Row] = {
        ("sub_deep", "paper", 2048, "", "e", None): {"experiment": "sub_deep"},
        ("sub_deep", "paper", 64, "", "e", None): {"experiment": "sub_deep", "width": 64},
        ("fusion", "paper", 2048, "", "e", None): {"experiment": "fusion"},
        ("deepest", "modern", None, "", "e", None): {"recipe": MODERN},
        ("deepest", "paper", None, "learning_rate=0.001", "e", None): {"recipe": replace(PAPER, learning_rate=0.001)},
        ("deepest", "paper", None, "views=identity+hflip", "e", None): {"views": ("identity", "hflip")},
        ("deepest", "paper", None, "layers=mixed_9_mean", "e", None): {"layers": ("mixed_9_mean",)},
        ("deepest", "paper", None, "", "own-random", "random"): {"extractor": "own-random"},
        ("deepest", "paper", None, "", "own-real", "file"): {"extractor": "own-real"},
        ("deepest", "paper", None, "", "e", None): {},
    }
    same: list[Row] = [{"width": 64}, {"workers": 4}, {"checkpoint_seconds": 60.0}]  # softmax on vectors has no width
    runs = [(training("own", f"{n}", later=n, **a), QUARTERS[n % 5]) for n, a in enumerate([*asked.values(), *same])]
    kinds = [{"extractor_id": f"own-{n}", "weights_kind": kind} for n, kind in (("random", "random"), ("real", "file"))]
    put_trainings(store, put, "own", runs, extractors=kinds)
    put_trainings(store, put, "own-again", [(training("own-again", "r"), QUARTERS[0])])
    shown = itemgetter("experiment", "recipe", "width", "settings", "extractor_id", "weights_kind")
    found = {shown(row): row for row in table_2(store, "own")}
    assert found.keys() == asked.keys()
    assert [row["runs"] for row in (*found.values(), *table_2(store, "own-again"))] == [1] * (len(asked) + 1)


def test_a_fusion_says_whose_conv4_it_read_where_that_is_another_recipe_or_seed(store: Store, put: Put) -> None:
    longer = replace(MODERN, epochs=90)
    before = [
        training("read", "c0", experiment="sub_deep", recipe=MODERN),
        training("read", "c1", experiment="sub_deep", recipe=longer, seed=1),
    ]
    cases: dict[str, Row] = {
        "": {"recipe": MODERN, "conv4_run": "read-c0"},
        "epochs=90": {"recipe": longer, "seed": 1, "conv4_run": "read-c1"},
        "(conv4: modern)": {"recipe": PAPER, "conv4_run": "read-c0"},
        "hidden=9 (conv4: modern epochs=90)": {"recipe": replace(MODERN, hidden=9), "seed": 1, "conv4_run": "read-c1"},
        "(conv4: modern epochs=90 seed=1)": {"recipe": PAPER, "conv4_run": "read-c1"},
    }
    fusions = [training("read", f"f{n}", experiment="fusion", **case) for n, case in enumerate(cases.values())]
    put_trainings(store, put, "read", [(run, QUARTERS[1]) for run in (*before, *fusions)])
    found = [row["settings"] for row in table_2(store, "read") if row["experiment"] == "fusion"]
    assert sorted(found) == sorted(cases)


PUBLISHED = {"ferplus": (47.7, 59.4, 63.6), "ckplus": (97.2, 98.9, 99.4), "jaffe": (61.9, 72.3, 75.5)}


@pytest.mark.parametrize("kind", [*PUBLISHED, "folder", None])
def test_the_papers_accuracy_follows_the_kind_of_data_set(store: Store, put: Put, kind: str | None) -> None:
    name = f"kind-{kind}"
    commands = [("ingest", "ferplus"), ("ingest", kind)] if kind else []  # the last ingest says what it is now
    runs = [
        {"command": command, "state": "done", "dataset": f"data-{name}", "run_id": f"{name}{n}"}
        | {"arguments": json.dumps({"kind": k, "name": "jaffe"}), "started_at": NOW + timedelta(days=n)}
        for n, (command, k) in enumerate([*commands, ("extract", "jaffe")])
    ]
    experiments = ("deepest", "sub_deep", "fusion")
    put_trainings(store, put, name, [(training(name, e, experiment=e), "aa") for e in experiments], runs=runs)
    found = {row["experiment"]: row["paper_accuracy"] for row in table_2(store, name)}
    assert tuple(found[e] for e in experiments) == PUBLISHED.get(kind or "", (None, None, None))


def test_curves_are_means_of_each_pass_by_part(store: Store, put: Put) -> None:
    steps = [("train", 1, 1, 4, 0), ("train", 2, 1, 2, 0.5), ("train", 3, 2, 1, 1), ("validation", 2, 1, 3, 0.25)]
    names = ("run_id", "part", "step", "epoch", "loss", "accuracy")
    rows = [dict(zip(names, (f"curve-{run}", *step), strict=True)) for run in "12" for step in steps]
    runs = [training("curve", "1", experiment="fusion", recipe=MODERN), training("curve", "2", state="running")]
    put(store, runs=runs, metrics=[*rows[:-1], {**rows[0], "run_id": "curve-of-no-run"}])
    one, two = ("curve-1", "fusion", "curve", "modern", None), ("curve-2", "deepest", "curve", "paper", None)
    train = [(1, "train", 2, 3, 0.25), (2, "train", 3, 1, 1)]
    expected = [(*one, *train[0]), (*one, *train[1]), (*one, 1, "validation", 2, 3, 0.25), *((*two, *t) for t in train)]
    found = ask(store, "from curves where run_id like 'curve-%' order by run_id, part, epoch")
    assert [tuple(row.values()) for row in found] == expected


def test_mean_and_sample_deviation_are_over_seeds_and_folds(store: Store, put: Put) -> None:
    asked = [(0, 0), (0, 1), (3, 0), (3, 1)]  # seed, fold
    runs = [(training("seeds", f"{n}", seed=s, fold=f), QUARTERS[n]) for n, (s, f) in enumerate(asked)]
    put_trainings(store, put, "seeds", runs)
    (row,) = table_2(store, "seeds")
    assert (row["runs"], row["seeds"], row["folds"]) == (4, 2, 2)
    assert (row["accuracy"], row["accuracy_sd"]) == pytest.approx((mean([100, 75, 50, 25]), stdev([100, 75, 50, 25])))


def test_one_image_that_is_not_finite_hides_no_outlier(store: Store, put: Put) -> None:
    values = np.ones((40, 2048), np.float32)
    values[3] *= 50
    values[5, 0] = np.nan
    put(store, pool_3=[vector(f"{n}", "e") | {"pool_3": v} for n, v in enumerate(values)])
    row = health(store, "e")
    assert (row["not_finite"], row["norm_outliers"]) == (1, 1)
