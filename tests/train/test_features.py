"""Every example's features are found under one extractor, or it is said which are missing and how to get them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_store import layer_of

from ferstore.errors import InputError
from ferstore.store.pin import Pin
from ferstore.store.rows import read_file
from ferstore.store.store import Store, init_store
from ferstore.store.writer import feature_values
from ferstore.train.features import LayerRows, choose_extractor, locate

Put = Callable[..., Pin]
BOTH = ("identity", "hflip")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def rows(
    layer: str, images: Sequence[str], extractor: str = "e", views: Sequence[str] = ("identity",), *, hour: int = 0
) -> list[dict[str, Any]]:
    """Features whose first value is `value`."""
    maker = "run_id" if layer == "conv4" else "extractor_id"
    shape = {"mixed_10": (8, 8, 2048), "mixed_8_mean": (1280,)}.get(layer, (2048,))
    return [
        {
            "image_id": image,
            maker: extractor,
            "view": view,
            layer: np.full(shape, value(image, extractor, view), np.float32),
            "extracted_at": datetime(2026, 11, 24, hour, tzinfo=UTC),
        }
        for view in views
        for image in images
    ]


def value(image: str, extractor: str, view: str) -> float:
    """A number that float16 keeps and that tells image, extractor and view."""
    return float(1000 * (view == "hflip") + 200 * "efg".index(extractor[0]) + int(image[1:]))


def images(count: int) -> list[str]:
    return [f"i{number}" for number in range(count)]


def stored(layer: LayerRows) -> list[float]:
    """First value of each example, read from where it is said to lie."""
    found = []
    for file, group, row in layer.places.tolist():
        assert group == 0  # files of vectors in these tests have one row group
        column = read_file(layer.files[file])[layer.schema.name]
        found.append(float(np.asarray(column[row].as_py())[0]))
    return found


# Which extractor.


def chosen(
    store: Store,
    pin: Pin,
    layers: Sequence[str] = ("pool_3",),
    wanted: Sequence[str] = ("i0", "i1"),
    views: Sequence[str] = ("identity",),
    extractor: str | None = None,
) -> str | None:
    return choose_extractor(store, pin, layers, wanted, views, extractor)


def test_the_newest_extractor_is_chosen_of_those_that_have_every_image(store: Store, put: Put) -> None:
    pin = put(
        store,
        pool_3=[
            *rows("pool_3", images(3), "e1", hour=1),
            *rows("pool_3", images(2), "e2", hour=2),
            *rows("pool_3", images(1), "e3", hour=3),
        ],
    )
    assert chosen(store, pin) == "e2"
    assert chosen(store, pin, wanted=images(3)) == "e1"
    assert chosen(store, pin, wanted=images(1)) == "e3"


def test_an_extractor_is_complete_only_with_every_layer(store: Store, put: Put) -> None:
    pin = put(
        store,
        pool_3=[*rows("pool_3", images(2), "e1", hour=1), *rows("pool_3", images(2), "e2", hour=2)],
        mixed_8_mean=[
            *rows("mixed_8_mean", images(2), "e1", hour=3),
            *rows("mixed_8_mean", images(1), "e2", hour=4),
        ],
    )
    assert chosen(store, pin) == "e2"
    assert chosen(store, pin, ("pool_3", "mixed_8_mean")) == "e1"


def test_an_extractor_is_complete_only_with_every_view(store: Store, put: Put) -> None:
    pin = put(store, pool_3=[*rows("pool_3", images(2), "e1", BOTH, hour=1), *rows("pool_3", images(2), "e2", hour=2)])
    assert chosen(store, pin) == "e2"
    assert chosen(store, pin, views=BOTH) == "e1"
    assert chosen(store, pin, views=("hflip",)) == "e1"


def test_features_of_images_that_are_not_asked_for_do_not_make_an_extractor_complete(store: Store, put: Put) -> None:
    pin = put(
        store,
        pool_3=[*rows("pool_3", images(2), "e1", hour=1), *rows("pool_3", ["i1", "i2"], "e2", hour=2)],
    )
    assert chosen(store, pin) == "e1"


def test_where_none_is_complete_the_newest_is_chosen_so_that_what_it_lacks_can_be_told(store: Store, put: Put) -> None:
    pin = put(store, pool_3=[*rows("pool_3", images(1), "e1", hour=2), *rows("pool_3", images(1), "e2", hour=1)])
    assert chosen(store, pin) == "e1"


def test_of_two_extractors_of_the_same_time_always_the_same_is_chosen(store: Store, put: Put) -> None:
    pin = put(store, pool_3=[*rows("pool_3", images(2), "e2"), *rows("pool_3", images(2), "e1")])
    assert chosen(store, pin) == "e2"


def test_without_features_there_is_no_extractor(store: Store) -> None:
    assert chosen(store, store.pin()) is None


def test_an_extractor_that_is_given_is_taken_as_it_is(store: Store, put: Put) -> None:
    pin = put(store, pool_3=rows("pool_3", images(2), "e1"))
    assert chosen(store, pin, extractor="mine") == "mine"
    assert chosen(store, pin, layers=()) is None


# Which row.


def test_every_example_is_found_view_by_view_whatever_order_the_rows_are_in(store: Store, put: Put) -> None:
    wanted = images(6)
    put(store, pool_3=rows("pool_3", wanted[::-2], views=("hflip",)))
    put(store, pool_3=rows("pool_3", wanted[::-1]))
    pin = put(store, pool_3=rows("pool_3", wanted[-2::-2], views=("hflip",)))
    found = locate(store, pin, "pool_3", wanted, BOTH, maker="e")
    assert stored(found) == [value(image, "e", view) for view in BOTH for image in wanted]
    assert len(found.files) == len(found.row_groups) == 3
    assert (found.shape, found.is_map, found.places.dtype) == ((2048,), False, np.int32)


def test_files_are_numbered_by_the_images_and_views_in_them_and_not_by_their_names(store: Store, put: Put) -> None:
    # Names differ from store to store, and the order of the files decides the order of training.
    for image, view in (("i3", "identity"), ("i1", "identity"), ("i4", "identity"), ("i2", "hflip")):
        put(store, pool_3=rows("pool_3", [image], views=[view]))
    pin = put(store, pool_3=rows("pool_3", ["i2"]))
    found = locate(store, pin, "pool_3", ["i1", "i3", "i4", "i2"], ("identity",), maker="e")
    assert found.places[:, 0].tolist() == [0, 3, 4, 2]
    assert found.files == locate(store, pin, "pool_3", ["i2"], ("hflip",), maker="e").files


def test_an_image_of_several_items_is_found_for_each(store: Store, put: Put) -> None:
    pin = put(store, pool_3=rows("pool_3", images(3), views=BOTH))
    wanted = ["i2", "i0", "i2", "i2", "i1"]
    found = locate(store, pin, "pool_3", wanted, BOTH, maker="e")
    assert stored(found) == [value(image, "e", view) for view in BOTH for image in wanted]


def test_examples_keep_their_order_however_many_there_are(store: Store, put: Put) -> None:
    wanted = [f"i{number}" for number in range(100_000)]  # beyond what one batch of a join holds
    pin = put(store, conv4=[{"image_id": i, "run_id": "e", "view": "identity", "conv4": []} for i in wanted[::-1]])
    found = locate(store, pin, "conv4", wanted, ("identity",), maker="e")
    assert (found.places[:, 2] == np.arange(len(wanted))[::-1]).all()


def test_rows_of_other_extractors_and_views_are_never_taken(store: Store, put: Put) -> None:
    put(store, pool_3=rows("pool_3", images(4), "f", BOTH))
    put(store, pool_3=[*rows("pool_3", images(4), "e", BOTH), *rows("pool_3", images(4), "g", BOTH)])
    pin = put(store, pool_3=rows("pool_3", images(5)[4:], "f", BOTH))
    for maker in "ef":
        found = locate(store, pin, "pool_3", images(4), ("hflip",), maker=maker)
        assert stored(found) == [value(image, maker, "hflip") for image in images(4)]
    with pytest.raises(InputError, match="1 images"):
        locate(store, pin, "pool_3", images(5), ("identity",), maker="e")


def test_conv4_is_found_by_the_run_that_wrote_it(store: Store, put: Put, table_of: Callable[..., Any]) -> None:
    conv4 = [{**row, "conv4": row["conv4"].tolist()} for run in "ef" for row in rows("conv4", images(2), run)]
    pin = put(store, conv4=conv4)
    found = locate(store, pin, "conv4", ["i1", "i0"], ("identity",), maker="f")
    assert stored(found) == [value("i1", "f", "identity"), value("i0", "f", "identity")]
    assert found.shape == (2048,)


def test_the_state_of_the_pin_is_read_and_nothing_later(store: Store, put: Put) -> None:
    before = put(store, pool_3=rows("pool_3", images(1)))
    put(store, pool_3=rows("pool_3", images(2)))
    with pytest.raises(InputError, match="1 images of the training set have no pool_3"):
        locate(store, before, "pool_3", images(2), ("identity",), maker="e")


def test_maps_are_found_in_the_row_groups_of_their_file(store: Store, put: Put) -> None:
    count = 70  # of 64 in a row group
    pin = put(store, mixed_10=rows("mixed_10", images(count)))
    found = locate(store, pin, "mixed_10", images(count), ("identity",), maker="e")
    assert (found.row_groups, found.is_map, found.shape) == ((2,), True, (8, 8, 2048))
    assert np.bincount(found.places[:, 1]).tolist() == [64, 6]
    column = read_file(found.files[0], ["mixed_10"])["mixed_10"].combine_chunks()
    values = feature_values(store.schemas["mixed_10"], column)[:, 0, 0, 0]
    at = found.places[:, 1] * 64 + found.places[:, 2]
    assert values[at].tolist() == [value(image, "e", "identity") for image in images(count)]


# What is missing.


@pytest.mark.parametrize("others", [[], [("pool_3", ["i0"], "f", BOTH)]], ids=["none at all", "another extractor's"])
def test_a_table_without_the_features_names_the_command_that_computes_them(
    store: Store, put: Put, others: list[Any]
) -> None:
    pin = put(store, pool_3=[row for other in others for row in rows(*other)]) if others else store.pin()
    with pytest.raises(InputError) as caught:
        locate(store, pin, "pool_3", images(3), BOTH, maker="e")
    assert str(caught.value) == (
        "3 images of the training set have no pool_3 (hflip,identity) of extractor e, the first is i0…; "
        "compute them first: ferstore extract --layers pool_3 --views hflip,identity"
    )


def test_missing_features_are_counted_by_image_and_named_by_view(store: Store, put: Put) -> None:
    pin = put(store, pool_3=[*rows("pool_3", images(3)), *rows("pool_3", images(2), views=("hflip",))])
    wanted = ["i2", "i0", "i3", "i2", "i3"]
    with pytest.raises(InputError, match=r"1 images .* no pool_3 \(identity\) of extractor e, the first is i3…"):
        locate(store, pin, "pool_3", wanted, ("identity",), maker="e")
    with pytest.raises(InputError, match=r"2 images .* no pool_3 \(hflip,identity\).*extract --layers pool_3 --views"):
        locate(store, pin, "pool_3", wanted, BOTH, maker="e")


def test_missing_conv4_names_the_training_that_makes_it(store: Store) -> None:
    with pytest.raises(InputError, match=r"2 images .* no conv4 \(identity\) of run r1.*: ferstore train sub_deep"):
        locate(store, store.pin(), "conv4", images(2), ("identity",), maker="r1")


# Numbers of row groups.


def test_row_groups_are_numbered_over_all_files(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "mixed_10", np.zeros((23, 2, 2, 3), np.float32), group=4, file=10)
    assert layer.row_groups == (3, 3, 1)
    assert layer.groups.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 4 + [5] * 2 + [6] * 3
    some = layer.take(np.array([22, 0, 22, 9]))
    assert some.groups.tolist() == [6, 0, 6, 2]
    assert some.files == layer.files
