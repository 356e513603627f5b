"""A fold with the features of its items: checked before anything is started, read in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_store import Fold, data_of, layer_of

from ferstore.errors import InputError
from ferstore.store.pin import Pin
from ferstore.store.store import Store, init_store
from ferstore.train.data import ASIDE, TrainingData, load_training_data

Put = Callable[..., Pin]
BOTH = ("identity", "hflip")
PARTS = ("train", "test", "train", "validation")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def pool_3(images: Sequence[str], views: Sequence[str] = ("identity",), extractor: str = "e") -> list[dict[str, Any]]:
    return [
        {"image_id": image, "extractor_id": extractor, "view": view, "pool_3": np.zeros(2048, np.float32)}
        for view in views
        for image in images
    ]


def load(store: Store, pin: Pin, fold: Any, **other: Any) -> TrainingData:
    return load_training_data(store, pin, fold, **{"fold": 0, "layers": ("pool_3",), "views": ("identity",), **other})


def fold(**other: Any) -> Fold:
    given = {"images": ["i0", "i1", "i2", "i3"], "parts": PARTS, "labels": ["a", "a", "b", "b"]}
    return Fold(**{**given, **other})


def test_a_fold_is_loaded_with_its_items_labels_and_features(store: Store, put: Put) -> None:
    pin = put(store, pool_3=pool_3(["i3", "i2", "i1", "i0"], BOTH))
    soft = [[0.75, 0.25], [1, 0], [0.5, 0.5], [0, 1]]
    data = load(store, pin, fold(soft=soft), views=BOTH)
    assert (data.items, data.image_ids, data.item_ids[2]) == (4, ("i0", "i1", "i2", "i3"), "002.png")
    assert (data.parts.tolist(), data.labels.tolist()) == (list(PARTS), [0, 0, 1, 1])
    assert (data.classes, data.views, data.extractor_id) == (("a", "b"), BOTH, "e")
    assert data.soft_labels.dtype == np.float32
    assert data.soft_labels.tolist() == soft
    assert data.shapes == {"pool_3": (2048,)}
    assert len(data.layers[0].places) == 8
    assert data.class_counts().tolist() == [1, 1]


def test_images_that_several_items_share_are_loaded_for_each(store: Store, put: Put) -> None:
    pin = put(store, pool_3=[*pool_3(["i0", "i1"], extractor="e"), *pool_3(["i0"], extractor="f")])
    data = load(store, pin, fold(images=["i1", "i0", "i1", "i0"]))
    places = data.layers[0].places.tolist()
    assert (places[0], places[1]) == (places[2], places[3])
    assert places[0] != places[1]
    assert data.extractor_id == "e"  # complete, though it has fewer rows than there are items


def test_the_extractor_given_is_read_though_another_would_be_chosen(store: Store, put: Put) -> None:
    images = ["i0", "i1", "i2", "i3"]
    pin = put(store, pool_3=[*pool_3(images, extractor="e"), *pool_3(images, extractor="f")])
    assert load(store, pin, fold()).extractor_id == "f"
    assert load(store, pin, fold(), extractor="e").extractor_id == "e"
    with pytest.raises(InputError, match=r"4 images of the training set have no pool_3 .* of extractor g"):
        load(store, pin, fold(), extractor="g")


def test_conv4_is_read_of_its_run_beside_the_features_of_the_extractor(store: Store, put: Put) -> None:
    images = ["i0", "i1", "i2", "i3"]
    conv4 = [{"image_id": image, "run_id": run, "view": "identity", "conv4": [0.0] * 2048} for image in images
             for run in ("r1", "r2")]  # fmt: skip
    pin = put(store, pool_3=pool_3(images), conv4=conv4)
    data = load(store, pin, fold(), layers=("conv4", "pool_3"), conv4_run="r2")
    assert list(data.shapes) == ["conv4", "pool_3"]
    alone = load(store, pin, fold(), layers=("conv4",), conv4_run="r2")
    assert alone.extractor_id is None
    with pytest.raises(InputError, match=r"4 images .* no conv4 .* of run r3"):
        load(store, pin, fold(), layers=("conv4",), conv4_run="r3")


def test_a_store_without_any_features_says_which_command_computes_them(store: Store) -> None:
    with pytest.raises(
        InputError, match=r"4 images .* no pool_3 \(hflip,identity\), the first is i0….*ferstore extract"
    ):
        load(store, store.pin(), fold(), views=BOTH)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"parts": ["train"] * 4}, "fold 0 of training set 'parts' has no test items; make another one"),
        ({"parts": ["test"] * 4}, "fold 0 of training set 'parts' has no train items"),
        ({"parts": ["train", "test", "validation", "test"]}, "has no train item of class b; .*ferstore split"),
        ({"classes": ("a", "b", "c", "d")}, "has no train item of class c, d"),
    ],
)
def test_a_fold_that_cannot_be_trained_on_is_refused_before_any_feature_is_looked_for(
    store: Store, other: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        load(store, store.pin(), fold(**other))


def test_a_fold_without_validation_can_be_loaded(store: Store, put: Put) -> None:
    pin = put(store, pool_3=pool_3(["i0", "i1", "i2", "i3"]))
    data = load(store, pin, fold(parts=["train", "test", "train", "test"]))
    assert data.examples("validation").tolist() == []


def test_hard_targets_are_the_labels_and_soft_ones_those_of_the_training_set() -> None:
    data = data_of([], PARTS, labels=[0, 1, 1, 0])
    assert data.targets("hard").tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert data.targets("soft") is data.soft_labels
    assert data.targets("hard").dtype == data.targets("soft").dtype == np.float32


def test_class_counts_are_of_train_items_and_zero_where_there_are_none() -> None:
    data = data_of([], PARTS, labels=[1, 0, 1, 0], classes=("a", "b", "c"), views=BOTH)
    assert data.class_counts().tolist() == [0, 2, 0]


def test_examples_without_maps_come_by_item_with_its_views_together() -> None:
    data = data_of([], PARTS, views=BOTH)
    assert data.examples("train").tolist() == [0, 4, 2, 6]
    assert data.examples("test").tolist() == [1, 5]
    assert data.examples().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert data.groups(data.examples("train")).tolist() == [0, 0, 0, 0]


def test_examples_with_a_map_come_as_they_lie_in_the_files(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(24)
    maps = layer_of(tmp_path, "mixed_10", np.zeros((24, 2, 2, 3), np.float32), group=4, file=10, order=order)
    vectors = layer_of(tmp_path, "pool_3", np.zeros((24, 5), np.float32))
    data = data_of([vectors, maps], ["train", "test", "validation"] * 4, views=BOTH)
    assert data.examples().tolist() == order.tolist()
    assert data.groups(data.examples()).tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 4 + [5] * 2 + [6] * 4
    train = data.examples("train")
    assert train.tolist() == [example for example in order if example % 12 % 3 == 0]
    groups = data.groups(train)
    assert (np.diff(groups) >= 0).all()
    assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))  # none is left out, whatever files hold
    own = maps.groups[train]
    assert all((own[1:] == own[:-1]) == (groups[1:] == groups[:-1]))


def test_the_examples_of_the_parts_are_all_examples_once(tmp_path: Path) -> None:
    maps = layer_of(tmp_path, "mixed_10", np.zeros((24, 2, 2, 3), np.float32))
    data = data_of([maps], ["train", "test", "validation"] * 4, views=BOTH)
    found = np.concatenate([data.examples(part) for part in ("train", "validation", "test")])
    assert sorted(found.tolist()) == list(range(24))


def test_items_that_the_training_set_leaves_out_come_too_where_they_have_all_features(store: Store, put: Put) -> None:
    rows = [{"dataset": "set", "item_id": f"{n:03}.png", "image_id": f"i{n}"} for n in range(7)]
    put(store, images=[*rows, {"dataset": "other", "item_id": "x.png", "image_id": "i7"}])
    features = [
        *pool_3([f"i{n}" for n in range(8) if n != 5], BOTH[:1]),
        *pool_3(["i0", "i1", "i2", "i3", "i4"], BOTH[1:]),
    ]
    pin = put(store, pool_3=features)
    plain, more = (load(store, pin, fold(pin=pin), aside=aside) for aside in (False, True))
    assert more.image_ids == ("i0", "i1", "i2", "i3", "i4", "i6")  # not i5, which has no feature, nor another set's i7
    assert more.parts.tolist() == [*PARTS, ASIDE, ASIDE]
    assert load(store, pin, fold(pin=pin), aside=True, views=BOTH).image_ids == ("i0", "i1", "i2", "i3", "i4")
    assert more.examples("train").tolist() == plain.examples("train").tolist()
    assert more.class_counts().tolist() == plain.class_counts().tolist()
    assert more.targets("hard").tolist()[:4] == plain.targets("hard").tolist()
