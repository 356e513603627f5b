"""What a training chooses is recorded, so that continuing it chooses the same again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from drawn import noise_store, sql
from filled import REQUEST, fill
from train_store import training_row

from ferstore.errors import InputError
from ferstore.store.compact import compact
from ferstore.store.pin import Pin
from ferstore.store.store import Store
from ferstore.store.vacuum import vacuum
from ferstore.train.plan import plan_folds
from ferstore.train.recipe import recipe_of
from ferstore.train.request import TrainRequest, request_of
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

ASKED = TrainRequest("deepest", "parts", recipe=recipe_of("paper", steps=3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = noise_store(tmp_path_factory.mktemp("plan"), 30)
    fill(made)
    split(made, SplitRequest("parts", "noise", "random"))
    return made


def test_a_training_goes_on_with_the_features_it_began_with(store: Store) -> None:
    [first] = plan_folds(store, ASKED)
    newer = fill(store, replace(REQUEST, seed=7))
    assert plan_folds(store, ASKED)[0].data.extractor_id == newer != first.data.extractor_id
    [again] = plan_folds(store, request_of(first.request.arguments()))
    assert again.data.extractor_id == first.data.extractor_id
    assert again.request == first.request


def test_a_fusion_has_the_width_of_the_conv4_it_reads(store: Store, put: Callable[..., Pin]) -> None:
    [before] = plan_folds(store, TrainRequest("sub_deep", "parts", width=8))
    assert before.request.width == before.report().width == 8
    images = [str(row[0]) for row in sql(store, "select distinct image_id from images")]
    put(
        store,
        runs=[training_row("narrow", before.request, extractor_id=before.data.extractor_id)],
        conv4=[{"image_id": i, "run_id": "narrow", "view": "identity", "conv4": np.zeros(2048)} for i in images],
    )
    asked = replace(ASKED, experiment="fusion")
    [plan] = plan_folds(store, asked)
    assert (plan.conv4_run, plan.request.width, plan.report().width) == ("narrow", 8, 8)
    assert plan.data.extractor_id == before.data.extractor_id
    with pytest.raises(InputError, match=r"no finished sub_deep training of .* width 2048"):
        plan_folds(store, replace(asked, width=2048))


def test_without_a_width_it_is_the_papers(store: Store) -> None:
    [plan] = plan_folds(store, TrainRequest("sub_deep", "parts"))
    assert plan.request.width == plan.report().width == 2048
    assert plan_folds(store, ASKED)[0].report().width is None


def test_a_compaction_in_between_does_not_change_the_order_of_examples(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 20)
    split(store, SplitRequest("parts", "noise", "random"))  # first: its tag would keep the features for ever
    for limit in (10, 20):
        fill(store, replace(REQUEST, limit=limit))
    [first] = plan_folds(store, ASKED)
    compact(store)
    [again] = plan_folds(store, request_of(first.request.arguments()), began_with=first.snapshots)
    assert again.data.layers[0].files == first.data.layers[0].files
    assert len(first.data.layers[0].files) == 2
    assert again.snapshots == first.snapshots
    vacuum(store, keep=timedelta(0))
    [newest] = plan_folds(store, request_of(first.request.arguments()), began_with=first.snapshots)
    assert len(newest.data.layers[0].files) == 1
    assert sorted(newest.data.item_ids) == sorted(first.data.item_ids)
