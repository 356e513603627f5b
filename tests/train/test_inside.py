"""The heads are drawn as they are built, and a trained head's maps are those of the weights that its training left."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from drawn import noise_store
from filled import fill
from train_here import TWO_STEPS, train_here

from ferstore.errors import CorruptionError, InputError
from ferstore.store.rows import read_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store
from ferstore.store.writer import feature_values
from ferstore.train.heads import build
from ferstore.train.inside import head_maps, heads_like
from ferstore.train.past import PastRun, find_run, map_layer, run_with_maps
from ferstore.train.predict import spec_of
from ferstore.train.request import TrainRequest
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

WITH_NORM = replace(TWO_STEPS, batch_norm=True, standardise=True, hidden=8, fusion="concat")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = noise_store(tmp_path_factory.mktemp("inside"), 30)
    fill(store)
    split(store, SplitRequest("parts", "noise", "random"))
    return store


@pytest.fixture(scope="module")
def runs(store: Store) -> dict[str, str]:
    """Trainings, oldest first: without convolutions, plain, with batch normalisation, and joint."""
    return {
        "deepest": train_here(store, "deepest", "parts"),
        "plain": train_here(store, "sub_deep", "parts", width=3),
        "norm": train_here(store, "sub_deep", "parts", width=2, recipe=WITH_NORM),
        "joint": train_here(store, "fusion", "parts", width=2, joint=True),
        "fusion": train_here(store, "fusion", "parts", conv4=None),
    }


@pytest.mark.parametrize(("classes", "count"), [(7, 132_658_183), (8, 132_658_696), (10, 132_659_722)])
def test_the_paper_s_head_is_counted_without_memory_for_it(classes: int, count: int) -> None:
    import keras

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heads = heads_like(None, classes=classes)
    with keras.StatelessScope():  # at its end Keras gives values to all that have none yet
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; its weights are 500 MiB
    assert sum(node.parameters for node in heads.sub_deep) == count
    assert sum(node.parameters for node in heads.deepest) == 2048 * classes + classes
    shapes = {node.name: node.shape for node in heads.sub_deep if node.name.startswith("conv")}
    assert [shapes[f"conv{n}"] for n in range(1, 8)] == [
        (6, 6, 2048),
        (4, 4, 2048),
        (2, 2, 2048),
        (1, 1, 2048),
        (1, 1, 1024),
        (1, 1, 512),
        (1, 1, classes),
    ]


@pytest.mark.parametrize("name", ["plain", "norm", "joint"])
def test_a_trained_head_is_drawn_as_it_was_built(name: str, store: Store, runs: dict[str, str]) -> None:
    run = find_run(store, runs[name])
    spec = spec_of(run)
    shapes = {"mixed_10": spec.shapes["mixed_10"]}
    built = build(replace(spec, experiment="sub_deep", shapes=shapes))
    nodes = {node.name: node for node in heads_like(run, classes=99).sub_deep}
    assert list(nodes) == [layer.name for layer in built.layers]
    assert {name: node.parameters for name, node in nodes.items()} == {x.name: x.count_params() for x in built.layers}
    assert {name: node.shape for name, node in nodes.items()} == {x.name: x.output.shape[1:] for x in built.layers}
    assert nodes["conv1"].shape[-1] == spec.width
    assert nodes["logits"].shape == (2,)


def example(store: Store, run: PastRun) -> tuple[str, dict[str, Any]]:
    rows = read_rows(store, store.pin(), "mixed_10", ["image_id", "mixed_10"])
    values = feature_values(store.schemas["mixed_10"], rows["mixed_10"].combine_chunks())
    return rows["image_id"][0].as_py(), {"mixed_10": np.asarray(values[0], np.float32)}


@pytest.mark.parametrize("name", ["plain", "norm"])
def test_conv4_is_the_one_that_the_training_stored(name: str, store: Store, runs: dict[str, str]) -> None:
    run = find_run(store, runs[name])
    image_id, maps = example(store, run)
    found = head_maps(store, run, maps)
    assert [fused.name for fused in found] == ["conv1", "conv2", "conv3", "conv4"]
    width = spec_of(run).width
    assert [fused.shape for fused in found] == [(6, 6, width), (4, 4, width), (2, 2, width), (1, 1, 2048)]
    assert [fused.values.shape for fused in found] == [(6, 6), (4, 4), (2, 2), (1, 1)]
    assert all(fused.values.min() >= 0 for fused in found)
    where = (pc.field("run_id") == run.run_id) & (pc.field("image_id") == image_id)
    [row] = read_rows(store, store.pin(), "conv4", ["conv4"], where).to_pylist()
    assert sum(row["conv4"]) > 0
    np.testing.assert_allclose(found[-1].values[0, 0], sum(row["conv4"]), rtol=1e-3)


def test_a_map_is_the_sum_over_the_channels_of_what_the_next_convolution_reads(
    store: Store, runs: dict[str, str]
) -> None:
    from ferstore.train.predict import load_head

    run = find_run(store, runs["norm"])
    _, maps = example(store, run)
    head = load_head(run)
    value = maps["mixed_10"][np.newaxis]
    for name in ("mixed_10_standardised", "conv1", "conv1_norm", "conv1_relu"):
        value = head.get_layer(name)(value)
    found = head_maps(store, run, maps)[0].values
    np.testing.assert_allclose(found, np.asarray(value)[0].sum(axis=-1), rtol=1e-4, atol=1e-5)


def test_the_newest_training_with_convolutions_is_taken(store: Store, runs: dict[str, str]) -> None:
    newest = run_with_maps(store, None, None)
    assert newest is not None
    assert newest.run_id == runs["joint"]
    assert map_layer(newest) == "mixed_10"
    assert run_with_maps(store, None, newest.extractor_id) == newest
    assert run_with_maps(store, None, "another") is None
    for name in ("plain", "norm", "joint"):
        found = run_with_maps(store, runs[name], newest.extractor_id)
        assert found is not None
        assert found.run_id == runs[name]


def test_what_has_no_convolutions_or_is_not_done_is_refused(store: Store, runs: dict[str, str]) -> None:
    running = new_run("train", TrainRequest("sub_deep", "parts", fold=0).arguments(), dataset="noise")
    record_run(store, running, "running", details={})
    for run_id, said in (
        (
            runs["deepest"],
            r"\(deepest\) is no finished training whose head has conv1 to conv4; allowed: one of sub_deep",
        ),
        (runs["fusion"], r"\(fusion\) is no finished .* fusion with --joint: " + runs["joint"]),
        (running.run_id, r"\(sub_deep, running\) is no finished"),
        ("nothing", "no training 'nothing'"),
    ):
        with pytest.raises(InputError, match=said):
            run_with_maps(store, run_id, None)
    with pytest.raises(InputError, match="no finished training of extractor another"):
        run_with_maps(store, runs["plain"], "another")


def test_weights_that_changed_since_are_not_shown(store: Store, runs: dict[str, str]) -> None:
    run = find_run(store, runs["plain"])
    path = Path(run.details["weights"].removeprefix("file://"))
    data = path.read_bytes()
    path.write_bytes(data + b" ")
    try:
        with pytest.raises(CorruptionError, match="differs from its digest"):
            head_maps(store, run, example(store, run)[1])
    finally:
        path.write_bytes(data)
