"""One worker without Ray: what it writes, and what it does with pictures it cannot read."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import noise_files, picture, write
from stub_network import stub_factory

from ferstore.errors import UnavailableError
from ferstore.extract.calls import Pixels
from ferstore.extract.plan import Shard, WorkItem
from ferstore.extract.worker import ShardResult, ShardWorker, Target
from ferstore.image.decode import pixels
from ferstore.store.files import StoredFile, file_digest
from ferstore.store.schema import declared_schemas
from ferstore.store.writer import feature_values

LAYERS = ("pool_3", "mixed_10")


def make_worker(folder: Path, batch_size: int = 4) -> ShardWorker:
    targets = {layer: Target(declared_schemas()[layer], f"file://{folder}/{layer}") for layer in LAYERS}
    return ShardWorker(
        stub_factory()(), targets, extractor_id="e1", run_id="r1", batch_size=batch_size, decode_threads=2
    )


def work(data: bytes, *urls: str, view: str = "identity") -> WorkItem:
    return WorkItem(hashlib.sha256(data).hexdigest(), view, urls, "d", urls[0] if urls else "none")


def work_of(folder: Path, files: dict[str, bytes], view: str = "identity") -> list[WorkItem]:
    write(folder, files)
    return [work(data, f"file://{folder}/{name}", view=view) for name, data in files.items()]


def run(folder: Path, items: Sequence[WorkItem], batch_size: int = 4) -> ShardResult:
    return make_worker(folder / "out", batch_size).run(Shard(tuple(items), LAYERS))


def features(result: ShardResult, layer: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    file = result.files[result.layers.index(layer)]
    rows = pq.read_table(file.url.removeprefix("file://"))
    return np.asarray(feature_values(declared_schemas()[layer], rows[layer].combine_chunks()), np.float32)


def column(file: StoredFile, name: str) -> list[object]:
    found: list[object] = pq.read_table(file.url.removeprefix("file://"), columns=[name])[name].to_pylist()
    return found


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_every_picture_has_its_own_features_in_shard_order_whatever_the_last_batch_holds(
    tmp_path: Path, count: int
) -> None:
    files = noise_files(count)
    items = work_of(tmp_path, files)
    result = run(tmp_path, items)
    assert (result.done, result.failures, result.layers) == (tuple(items), (), LAYERS)
    network = stub_factory()()
    expected = [network(pixels(data)[np.newaxis]) for data in files.values()]
    for layer, file in zip(result.layers, result.files, strict=True):
        assert file.rows == count
        assert column(file, "image_id") == [item.image_id for item in items]
        assert set(column(file, "extractor_id")) == {"e1"}
        wanted = np.concatenate([one[layer] for one in expected])
        np.testing.assert_allclose(features(result, layer), wanted, rtol=1e-3)


def test_files_conform_to_their_tables_and_are_named_by_their_digest(tmp_path: Path) -> None:
    result = run(tmp_path, work_of(tmp_path, noise_files(3)))
    for layer, file in zip(result.layers, result.files, strict=True):
        assert pq.read_schema(file.url.removeprefix("file://")).remove_metadata() == declared_schemas()[layer].arrow()
        assert file_digest(file.url) == (file.sha256, file.nbytes)
        assert file.url.startswith(f"file://{tmp_path}/out/{layer}/r1-")


def test_the_columns_beside_a_map_are_those_of_the_map(tmp_path: Path) -> None:
    result = run(tmp_path, work_of(tmp_path, noise_files(2)))
    maps = features(result, "mixed_10").reshape(2, -1)
    file = result.files[1]
    for name, expected in {
        "mean": maps.mean(axis=1),
        "maximum": maps.max(axis=1),
        "zeros": (maps == 0).mean(axis=1),
        "norm": np.linalg.norm(maps, axis=1),
    }.items():
        np.testing.assert_allclose(np.array(column(file, name), np.float32), expected, rtol=1e-3)


def test_the_mirrored_view_is_the_features_of_the_mirrored_picture(tmp_path: Path) -> None:
    data = picture(1)
    (item,) = work_of(tmp_path, {"a.png": data}, view="hflip")
    result = run(tmp_path, [item])
    mirrored = stub_factory()()(np.ascontiguousarray(pixels(data)[np.newaxis, :, ::-1]))["mixed_10"]
    np.testing.assert_allclose(features(result, "mixed_10"), mirrored, rtol=1e-3)
    assert column(result.files[0], "view") == ["hflip"]
    assert not np.allclose(mirrored, stub_factory()()(pixels(data)[np.newaxis])["mixed_10"])


def test_a_broken_picture_fails_alone(tmp_path: Path) -> None:
    files = {**noise_files(5), "broken.png": b"no picture", "cut.png": picture(9)[:60], **noise_files(4, first=5)}
    items = work_of(tmp_path, files)
    result = run(tmp_path, items)
    assert [failure.item.item_id.rsplit("/", 1)[1] for failure in result.failures] == ["broken.png", "cut.png"]
    assert "not an image of a known format" in result.failures[0].error
    assert len(result.done) == 9
    assert column(result.files[0], "image_id") == [item.image_id for item in result.done]


def test_a_shard_of_broken_pictures_only_writes_no_file(tmp_path: Path) -> None:
    result = run(tmp_path, work_of(tmp_path, {"a.png": b"1", "b.png": b"2"}))
    assert (result.files, result.done, len(result.failures)) == ((), (), 2)
    assert not (tmp_path / "out").exists()


def test_a_file_that_changed_since_ingest_is_never_computed_under_its_old_identity(tmp_path: Path) -> None:
    (item,) = work_of(tmp_path, {"a.png": picture(1)})
    write(tmp_path, {"a.png": picture(2)})
    result = run(tmp_path, [item])
    assert [failure.error for failure in result.failures] == [
        "the file changed since it was ingested; ingest the data set again"
    ]


@pytest.mark.parametrize("first", ["missing", "changed"])
def test_a_picture_is_read_from_the_next_place_where_the_first_has_it_no_longer(tmp_path: Path, first: str) -> None:
    data = picture(1)
    write(tmp_path, {"b/there.png": data, "a/changed.png": picture(2)})
    item = work(data, f"file://{tmp_path}/a/{first}.png", f"file://{tmp_path}/b/there.png")
    result = run(tmp_path, [item])
    assert (result.done, result.failures) == ((item,), ())


def test_a_picture_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path) -> None:
    result = run(tmp_path, [work(b"x", f"file://{tmp_path}/gone.png")])
    assert "gone.png" in result.failures[0].error


def test_a_disk_that_cannot_be_written_ends_the_shard_not_the_items(tmp_path: Path) -> None:
    items = work_of(tmp_path, noise_files(2))
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(UnavailableError, match="out"):
        run(tmp_path, items)


def test_an_error_of_the_network_ends_the_shard(tmp_path: Path) -> None:
    def network(pictures: object) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        raise RuntimeError("out of memory")

    targets = {layer: Target(declared_schemas()[layer], f"file://{tmp_path}/out/{layer}") for layer in LAYERS}
    worker = ShardWorker(network, targets, extractor_id="e", run_id="r", batch_size=2, decode_threads=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        worker.run(Shard(tuple(work_of(tmp_path, noise_files(3))), LAYERS))
    assert not (tmp_path / "out").exists()


def test_the_next_shard_is_computed_while_the_last_batch_of_one_is_encoded(tmp_path: Path) -> None:
    computed = threading.Event()
    files = noise_files(4)
    items = work_of(tmp_path, files)
    worker = make_worker(tmp_path / "out")
    plain_network, plain_append = worker._calls._network, worker._append
    calls = []

    def network(pictures: Pixels) -> Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        calls.append(len(pictures))
        if len(calls) == 2:
            computed.set()
        return plain_network(pictures)

    def append(buffers: Any, some: Sequence[WorkItem], *rest: Any) -> None:
        assert computed.wait(20), "the network waited for the encoder"
        plain_append(buffers, some, *rest)

    worker._calls._network = network
    worker._append = append  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(worker.run, Shard(tuple(items[:2]), LAYERS))
        other = threads.submit(worker.run, Shard(tuple(items[2:]), LAYERS))
        assert [len(shard.result(60).done) for shard in (first, other)] == [2, 2]


def test_rows_stay_in_order_where_a_later_batch_is_done_first(tmp_path: Path) -> None:
    later = threading.Event()
    stub = stub_factory()()
    calls = []

    def network(pictures: Pixels) -> Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        calls.append(len(pictures))
        if len(calls) == 2:  # the first runs alone
            assert later.wait(20), "no third batch came while the second was in the network"
        elif len(calls) == 3:
            later.set()
        return stub(pictures)

    targets = {layer: Target(declared_schemas()[layer], f"file://{tmp_path}/out/{layer}") for layer in LAYERS}
    items = work_of(tmp_path, noise_files(7))
    worker = ShardWorker(
        network, targets, extractor_id="e1", run_id="r1", batch_size=2, decode_threads=2, calls_at_once=2
    )
    result = worker.run(Shard(tuple(items), LAYERS))
    assert list(result.done) == items
    alone = run(tmp_path / "alone", items, batch_size=2)
    for layer in LAYERS:
        np.testing.assert_array_equal(features(result, layer), features(alone, layer))
        assert column(result.files[LAYERS.index(layer)], "image_id") == [item.image_id for item in items]


def test_so_many_shards_as_may_give_the_network_their_batches_in_turn(tmp_path: Path) -> None:
    stub = stub_factory()()
    shards = [work_of(tmp_path, noise_files(8, first=8 * one)) for one in range(3)]
    of_shard = {
        pixels(Path(item.urls[0][7:]).read_bytes()).tobytes(): n for n, one in enumerate(shards) for item in one
    }
    given: set[int] = set()
    all_in = threading.Event()

    def network(pictures: Pixels) -> Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        assert all_in.wait(20), f"no shard came beside {given}"
        return stub(pictures)

    targets = {layer: Target(declared_schemas()[layer], f"file://{tmp_path}/out/{layer}") for layer in LAYERS}
    worker = ShardWorker(
        network, targets, extractor_id="e1", run_id="r1", batch_size=1, decode_threads=2, shards_at_once=len(shards)
    )
    submit = worker._calls.submit

    def noted(pictures: Pixels) -> Any:
        given.add(of_shard[pictures[0].tobytes()])
        if len(given) == len(shards):
            all_in.set()
        return submit(pictures)

    worker._calls.submit = noted  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(len(shards)) as threads:
        running = [threads.submit(worker.run, Shard(tuple(items), LAYERS)) for items in shards]
        results = [one.result(60) for one in running]
    for result, items in zip(results, shards, strict=True):
        assert list(result.done) == items
        alone = run(tmp_path / "alone", items, batch_size=1)
        np.testing.assert_array_equal(features(result, "mixed_10"), features(alone, "mixed_10"))


def test_pictures_wait_for_a_slow_network_and_do_not_pile_up_in_it(tmp_path: Path) -> None:
    go, began = threading.Event(), threading.Event()
    stub = stub_factory()()

    def network(pictures: Pixels) -> Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        began.set()
        assert go.wait(20)
        return stub(pictures)

    targets = {layer: Target(declared_schemas()[layer], f"file://{tmp_path}/out/{layer}") for layer in LAYERS}
    worker = ShardWorker(network, targets, extractor_id="e", run_id="r", batch_size=1, decode_threads=1)
    given: list[int] = []
    submit = worker._calls.submit

    def counted(pictures: Pixels) -> Any:
        given.append(len(pictures))
        return submit(pictures)

    worker._calls.submit = counted  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(1) as thread:
        shard = thread.submit(worker.run, Shard(tuple(work_of(tmp_path, noise_files(8))), LAYERS))
        assert began.wait(20)
        assert not wait([shard], 0.3).done
        assert len(given) == worker._calls.depth == 2
        go.set()
        assert len(shard.result(20).done) == 8


def test_what_the_network_waited_for_each_batch_is_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(tmp_path / "out", batch_size=2)
    waits = iter([4.0, 2.0, 1.0])
    monkeypatch.setattr(worker._calls, "idle", lambda since: next(waits))
    assert worker.run(Shard(tuple(work_of(tmp_path, noise_files(5))), LAYERS)).waited == 7.0
