"""Batches hold what is stored, in the order asked for, from a bounded part of it at a time."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_store import data_of, layer_of

from ferstore.errors import CorruptionError
from ferstore.train.features import LayerRows
from ferstore.train.order import Order
from ferstore.train.reader import Batch, Reader, VectorFile, ahead
from ferstore.train.row_groups import RowGroups, uses

MAP, VECTOR = (2, 2, 3), (5,)
EXAMPLES = 46


def values(shape: tuple[int, ...], examples: int = EXAMPLES) -> Any:
    """Whole numbers, all different, which float16 keeps."""
    return np.arange(examples * np.prod(shape), dtype=np.float32).reshape(examples, *shape)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[LayerRows, LayerRows]:
    """A map and a vector of the same examples, which lie in other files, row groups and rows."""
    folder = tmp_path_factory.mktemp("layers")
    order = np.random.default_rng(1).permutation(EXAMPLES)
    return (
        layer_of(folder, "mixed_10", values(MAP), group=4, file=10, order=order),
        layer_of(folder, "pool_3", values(VECTOR), group=7, file=19, order=order[::-1]),
    )


@pytest.fixture
def opened(layers: tuple[LayerRows, LayerRows]) -> Iterator[Reader]:
    reader = Reader(layers, np.arange(EXAMPLES))
    yield reader
    reader.close()


def in_order(layer: LayerRows, batch_size: int, *, seed: int = 3, world: int = 1) -> tuple[Order, Any]:
    """An order over all examples as they lie in the layer's files, and those."""
    data = data_of([layer], ["train"] * len(layer.places))
    examples = data.examples("train")
    return Order(data.groups(examples), batch_size, seed, world), examples


def assert_stored(batch: Batch) -> None:
    assert set(batch.features) == {"mixed_10", "pool_3"}
    assert (batch.features["mixed_10"] == values(MAP)[batch.take.examples]).all()
    assert (batch.features["pool_3"] == values(VECTOR)[batch.take.examples]).all()


def taken(stream: Iterator[Batch], number: int) -> list[Batch]:
    """So many batches; the thread that made them has ended, so that no two read for one reader."""
    before = reader_threads()
    batches = list(islice(stream, number))
    threads = reader_threads() - before
    stream.close()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return batches


def reader_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "ferstore-reader"}


# Values.


@pytest.mark.parametrize("batch_size", [1, 4, 10, 46, 100])
def test_a_stream_has_every_example_an_epoch_with_the_values_that_are_stored(
    layers: tuple[LayerRows, LayerRows], opened: Reader, batch_size: int
) -> None:
    order, examples = in_order(layers[0], batch_size)
    for epoch in range(2):
        batches = taken(opened.stream(order, examples, 0, epoch * order.steps), order.steps)
        read = np.concatenate([batch.take.examples for batch in batches])
        assert sorted(read.tolist()) == list(range(EXAMPLES))
        for batch in batches:
            assert_stored(batch)


def test_a_stream_follows_its_order(layers: tuple[LayerRows, LayerRows], opened: Reader) -> None:
    order, examples = in_order(layers[0], 8)
    takes = [take for epoch in range(2) for take in order.epoch(epoch, 0)]
    for take, batch in zip(takes, taken(opened.stream(order, examples, 0, 0), len(takes)), strict=True):
        assert batch.take.examples.tolist() == examples[take.examples].tolist()
        assert (batch.take.positions.tolist(), batch.take.batch) == (take.positions.tolist(), take.batch)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_batches_of_all_workers_together_are_those_of_one(
    layers: tuple[LayerRows, LayerRows], opened: Reader, world: int
) -> None:
    order, examples = in_order(layers[0], 8)
    assert order.lanes == 8
    alone = taken(opened.stream(order, examples, 0, 0), 2 * order.steps)
    shared = [taken(opened.stream(replace(order, world=world), examples, rank, 0), len(alone)) for rank in range(world)]
    for whole, parts in zip(alone, zip(*shared, strict=True), strict=True):
        for name, features in whole.features.items():
            joined = np.full((whole.take.batch, *features.shape[1:]), -1, features.dtype)
            for part in parts:
                joined[part.take.positions] = part.features[name]
            own = np.empty_like(features)
            own[whole.take.positions] = features
            assert np.array_equal(joined, own)


def test_a_worker_without_an_example_in_a_batch_has_empty_features(
    tmp_path: Path, layers: tuple[LayerRows, LayerRows]
) -> None:
    layer = layer_of(tmp_path, "mixed_10", values(MAP, 3))
    order, examples = in_order(layer, 4, world=4)
    reader = Reader([layer], examples)
    batches = [taken(reader.stream(order, examples, rank, 0), 1)[0] for rank in range(4)]
    assert sorted(len(batch.take.examples) for batch in batches) == [0, 1, 1, 1]
    shapes = [batch.features["mixed_10"].shape for batch in batches]
    assert sorted(shapes) == [(0, *MAP), (1, *MAP), (1, *MAP), (1, *MAP)]
    assert {batch.features["mixed_10"].dtype for batch in batches} == {np.dtype(np.float16)}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_maps_keep_the_precision_they_are_stored_in(tmp_path: Path, dtype: str) -> None:
    layer = layer_of(tmp_path, "mixed_10", values(MAP, 4) / 3, dtype=dtype)
    (batch,) = Reader([layer], np.arange(4)).once(np.arange(4), 4)
    assert batch.features["mixed_10"].dtype == dtype
    assert (batch.features["mixed_10"] == (values(MAP, 4) / 3).astype(dtype)).all()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, EXAMPLES - 1), max_size=30), st.integers(1, 12))
def test_examples_read_once_keep_their_order_and_may_repeat(
    layers: tuple[LayerRows, LayerRows], examples: list[int], batch_size: int
) -> None:
    chosen = np.asarray(examples, np.int64)
    reader = Reader(layers, chosen)
    batches = list(reader.once(chosen, batch_size))
    reader.close()
    assert [number for batch in batches for number in batch.take.examples.tolist()] == examples
    assert [len(batch.take.examples) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch in batches:
        assert_stored(batch)
        assert batch.take.positions.tolist() == list(range(batch.take.batch))


def test_examples_of_more_files_than_are_kept_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    plain = RowGroups._read

    def counted(groups: RowGroups, *place: Any) -> Any:
        block = plain(groups, *place)
        kept.append(len(groups._mine.files))
        return block

    monkeypatch.setattr(RowGroups, "_read", counted)
    layer = layer_of(tmp_path, "mixed_10", values(MAP, 80), group=1, file=2)
    reader = Reader([layer], np.arange(80))
    backwards = np.concatenate([np.arange(80)[::-1], np.arange(80)])
    for batch in reader.once(backwards, 7):
        assert (batch.features["mixed_10"] == values(MAP, 80)[batch.take.examples]).all()
    assert max(kept) == 32


# Where a stream starts.


@pytest.mark.parametrize("start", [1, 5, 6, 7, 13, 20])
def test_a_stream_from_a_later_batch_is_the_same_as_skipping_to_it(
    layers: tuple[LayerRows, LayerRows], opened: Reader, start: int
) -> None:
    order, examples = in_order(layers[0], 8)
    assert order.steps == 6
    skipped = taken(opened.stream(order, examples, 0, 0), start + 8)[start:]
    for one, other in zip(taken(opened.stream(order, examples, 0, start), 8), skipped, strict=True):
        assert one.take.examples.tolist() == other.take.examples.tolist()
        assert one.take.positions.tolist() == other.take.positions.tolist()
        assert all(np.array_equal(one.features[name], other.features[name]) for name in ("mixed_10", "pool_3"))


def test_batches_that_are_left_out_are_not_read(
    layers: tuple[LayerRows, LayerRows], opened: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    plain = VectorFile.read
    monkeypatch.setattr(VectorFile, "read", lambda self, some: (read.append(some.tolist()), plain(self, some))[1])
    order, examples = in_order(layers[0], 8)
    (batch,) = taken(opened.stream(order, examples, 0, 10), 1)
    assert read[0] == batch.take.examples.tolist()


# What is held.


class Blocks:
    """Counts row groups of maps that are read, and those still in memory before the next is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[tuple[int, int]] = []
        self.held: list[int] = []
        self._live: list[weakref.ref[Any]] = []
        self._one = threading.Lock()
        plain = RowGroups._read

        def counted(groups: RowGroups, file: int, group: int) -> Any:
            with self._one:
                self.held.append(sum(block() is not None for block in self._live))
                self.read.append((file, group))
                block = plain(groups, file, group).copy()
                self._live.append(weakref.ref(block))
            return block

        monkeypatch.setattr(RowGroups, "_read", counted)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_reader_holds_a_row_group_a_lane_and_those_that_come_next(
    layers: tuple[LayerRows, LayerRows], opened: Reader, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    order, examples = in_order(layers[0], batch_size)
    blocks = Blocks(monkeypatch)
    taken(opened.stream(order, examples, 0, 0), 2 * order.steps)
    assert max(blocks.held) <= order.lanes + 2


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lane_that_ends_its_row_group_with_a_batch_leaves_it_before_it_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    layer = layer_of(tmp_path, "mixed_10", values(MAP), group=1)
    order, examples = in_order(layer, lanes)
    held = []
    blocks = Blocks(monkeypatch)
    plain = RowGroups.take

    def counted(groups: RowGroups) -> Any:
        wait([*groups._coming])
        held.append(sum(block() is not None for block in blocks._live) - len(groups._coming))
        return plain(groups)

    monkeypatch.setattr(RowGroups, "take", counted)
    for _ in Reader([layer], examples)._batches(iter(opened_parts(order, examples)), order.lanes):
        pass
    assert len(held) == EXAMPLES
    assert max(held) == order.lanes - 1 == lanes - 1


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_lane_reads_each_of_its_row_groups_at_most_once_an_epoch(
    layers: tuple[LayerRows, LayerRows], opened: Reader, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    order, examples = in_order(layers[0], batch_size)
    bounds = np.arange(order.lanes + 1) * EXAMPLES // order.lanes
    parts = [layers[0].groups[examples[first:last]] for first, last in pairwise(bounds)]
    blocks = Blocks(monkeypatch)
    for _ in opened._batches(iter(opened_parts(order, examples)), order.lanes):
        pass
    assert sum(layers[0].row_groups) <= len(blocks.read) <= sum(len(set(groups.tolist())) for groups in parts)


def test_no_more_row_groups_than_lanes_are_read_once_for_all_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(tmp_path, "mixed_10", values(MAP), group=6, file=EXAMPLES)
    order, examples = in_order(layer, 8)
    assert sum(layer.row_groups) == order.lanes == 8
    blocks = Blocks(monkeypatch)
    takes = [take for epoch in range(9) for take in order.epoch(epoch, 0)]
    for take, batch in zip(takes, taken(Reader([layer], examples).stream(order, examples, 0, 0), 54), strict=True):
        assert (batch.features["mixed_10"] == values(MAP)[examples[take.examples]]).all()
    assert sorted(blocks.read) == [(0, group) for group in range(8)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 16), st.integers(1, 4), st.data())
def test_no_more_row_groups_are_held_than_there_is_room_for(
    sizes: list[int], batch_size: int, world: int, data: st.DataObject
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    places = np.stack([np.zeros_like(groups), groups, np.concatenate([np.arange(n) for n in sizes])], axis=1)
    order = Order(groups, batch_size, 0, world)
    rank = data.draw(st.integers(0, world - 1))
    room = len(range(rank, order.lanes, world))
    parts = [part for epoch in range(3) for part in opened_parts(order, np.arange(len(groups)), epoch, rank)]
    held: set[Any] = set()
    reads = 0
    for (take, lanes), (planned, batch) in zip(parts, uses(places, iter(parts), room), strict=True):
        assert planned is take
        taken_rows = [(use.group[1], row) for use in batch for row in use.rows.tolist()]
        assert taken_rows == [tuple(places[example, 1:]) for chosen in lanes.values() for example in chosen]
        for use in batch:
            held -= {use.drop}
            assert use.read == (use.group not in held)
            held.add(use.group)
            assert len(held) <= room
            reads += use.read
    needed = {places[example, 1] for _, lanes in parts for chosen in lanes.values() for example in chosen}
    assert reads >= len(needed)
    if len(needed) <= room:
        assert reads == len(needed)


def opened_parts(order: Order, examples: Any, epoch: int = 0, rank: int = 0) -> list[Any]:
    """One epoch as `Reader.stream` hands it on."""
    bounds = np.arange(order.lanes + 1) * len(examples) // order.lanes
    parts = []
    for take in order.epoch(epoch, rank):
        lanes = np.searchsorted(bounds, take.examples, side="right")
        chosen = examples[take.examples]
        parts.append((replace(take, examples=chosen), {lane: chosen[lanes == lane] for lane in np.unique(lanes)}))
    return parts


def test_reading_once_in_the_order_of_the_files_reads_each_row_group_once(
    layers: tuple[LayerRows, LayerRows], opened: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, examples = in_order(layers[0], 1)
    blocks = Blocks(monkeypatch)
    list(opened.once(examples, 3))
    assert len(blocks.read) == sum(layers[0].row_groups)
    assert max(blocks.held) <= 1 + 2


# Vectors.


def test_vectors_are_gathered_of_the_examples_asked_for_only(layers: tuple[LayerRows, LayerRows]) -> None:
    vectors = VectorFile(layers[1])
    vectors.gather(np.array([5, 40, 5]))
    assert vectors.read(np.array([40, 5, 5])).tolist() == values(VECTOR)[[40, 5, 5]].tolist()
    assert vectors._file.seek(0, 2) == 2 * 5 * 4
    with pytest.raises(IndexError, match="out of bounds"):
        vectors.read(np.array([6]))  # and not the vector of another
    vectors.close()


def test_no_vector_is_read_as_none(layers: tuple[LayerRows, LayerRows]) -> None:
    vectors = VectorFile(layers[1])
    vectors.gather(np.array([], np.int64))
    assert vectors.read(np.array([], np.int64)).shape == (0, 5)
    vectors.close()


def test_closing_a_reader_removes_its_scratch_files(layers: tuple[LayerRows, LayerRows]) -> None:
    reader = Reader(layers, np.arange(EXAMPLES))
    reader.close()
    assert all(vectors._file.closed for vectors in reader._vectors.values())


# Damage.


def removed(layer: LayerRows, file: int) -> str:
    path = layer.files[file].removeprefix("file://")
    Path(path).unlink()
    return path


def test_a_removed_file_of_maps_is_told_to_the_one_who_reads(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "mixed_10", values(MAP))
    path = removed(layer, 2)
    order, examples = in_order(layer, 8)
    reader = Reader([layer], examples)
    for stream in (reader.stream(order, examples, 0, 0), reader.once(examples, 8)):
        with pytest.raises(CorruptionError, match=f"{path} cannot be read: .*; see what is damaged: ferstore verify"):
            list(stream)


def test_a_row_group_with_fewer_rows_than_it_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other row is given for one that is not there."""
    layer = layer_of(tmp_path, "mixed_10", values(MAP, 8), group=4)
    plain = RowGroups._read
    monkeypatch.setattr(RowGroups, "_read", lambda *place: plain(*place)[:-1])
    with pytest.raises(CorruptionError, match="row group 0 has too few rows"):
        list(Reader([layer], np.arange(8)).once(np.arange(8), 4))


def test_what_lies_before_a_removed_file_is_still_read(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "mixed_10", values(MAP))
    removed(layer, 2)
    stream = Reader([layer], np.arange(EXAMPLES)).once(np.arange(EXAMPLES), 10)
    assert [next(stream).take.examples[0] for _ in range(2)] == [0, 10]
    with pytest.raises(CorruptionError):
        next(stream)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its scratch file is left to the gc
def test_a_removed_file_of_vectors_is_told_before_anything_is_read(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "pool_3", values(VECTOR))
    path = removed(layer, 1)
    with pytest.raises(CorruptionError, match=f"{path} cannot be read"):
        Reader([layer], np.arange(EXAMPLES))
    Reader([layer], np.arange(10)).close()  # whose vectors lie in the first file
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "shape"), [("mixed_10", MAP), ("pool_3", VECTOR)])
def test_overwritten_data_is_told_with_its_file(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(tmp_path, name, values(shape))
    path = Path(layer.files[0].removeprefix("file://"))
    good = path.read_bytes()
    footer = int.from_bytes(good[-8:-4], "little") + 8
    path.write_bytes(good[:4] + b"\xff" * (len(good) - 4 - footer) + good[-footer:])
    with pytest.raises(CorruptionError, match=f"{path} cannot be read"):
        list(Reader([layer], np.arange(EXAMPLES)).once(np.arange(EXAMPLES), 8))
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize(("name", "shape"), [("mixed_10", MAP), ("pool_3", VECTOR)])
def test_a_file_that_was_cut_off_is_told(tmp_path: Path, name: str, shape: tuple[int, ...], share: float) -> None:
    layer = layer_of(tmp_path, name, values(shape))
    path = Path(layer.files[0].removeprefix("file://"))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CorruptionError, match=f"{path} cannot be read"):
        list(Reader([layer], np.arange(EXAMPLES)).once(np.arange(EXAMPLES), 8))
    gc.collect()


# Reading ahead.


def test_items_made_ahead_are_the_same() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter([]))) == []
    assert list(ahead(iter([None, 0, False]))) == [None, 0, False]


def test_an_error_of_the_thread_is_raised_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    items = ahead(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)


def test_no_more_than_a_few_items_are_made_ahead_and_closing_stops_the_thread() -> None:
    made, enough = [], threading.Event()

    def endless() -> Iterator[int]:
        for number in count():
            made.append(number)
            if number == 3:  # one used, two ready, one in hand
                enough.set()
            yield number

    before = reader_threads()
    items = ahead(endless())
    assert next(items) == 0
    (thread,) = reader_threads() - before
    assert enough.wait(30)
    items.close()  # type: ignore[attr-defined]
    thread.join(30)
    assert not thread.is_alive()
    assert made == [0, 1, 2, 3]


def test_a_stream_that_is_dropped_stops_its_thread(layers: tuple[LayerRows, LayerRows], opened: Reader) -> None:
    order, examples = in_order(layers[0], 8)
    before = reader_threads()
    stream = opened.stream(order, examples, 0, 0)
    next(stream)
    threads = reader_threads() - before
    assert len(threads) == 1
    del stream
    gc.collect()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_closing_waits_for_what_the_thread_is_at() -> None:
    """A thread in the middle of it as Python ends would abort the process."""
    before = reader_threads()
    ended = threading.Event()

    def slow() -> Iterator[int]:
        for number in count():
            threading.Event().wait(0.2)
            yield number
            if number > 3:
                ended.wait(20)

    items = ahead(slow())
    assert next(items) == 0
    assert reader_threads() - before
    items.close()  # type: ignore[attr-defined]
    assert not reader_threads() - before
    ended.set()


def test_a_thread_ends_with_its_items_and_after_an_error() -> None:
    before = reader_threads()
    list(ahead(iter([1])))
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // n for n in [0]))
    for thread in reader_threads() - before:
        thread.join(30)
        assert not thread.is_alive()
