"""Every byte of what a store reads flipped in turn, and cut at every length: told with the file, and never used.

The files are small on purpose: four rows of ``pool_3`` and four of ``mixed_10``, almost all zeros, which compression
leaves a few KiB of, and Iceberg's own metadata beside them. At level ``ci`` every byte of the two goes through the
check that the commands make, and one in `_WHOLE` through the commands themselves; of other files, and of cuts, some.
``full`` and ``night`` send more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import sql
from train_job import MemoryLink

from ferstore.errors import CorruptionError, FerstoreError
from ferstore.store import digests
from ferstore.store.catalog import open_catalog
from ferstore.store.commit import Change, transact
from ferstore.store.doctor import doctor
from ferstore.store.files import StoredFile
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.verify import _check, verify
from ferstore.train import run as run_module
from ferstore.train.plan import described, plan_folds
from ferstore.train.recipe import recipe_of
from ferstore.train.request import TrainRequest
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split
from ferstore.train.worker import work

_WHOLE = {"ci": 599, "full": 97, "night": 1}
ITEMS = 12
ASKED = {
    "pool_3": TrainRequest("deepest", "parts", fold=0, recipe=recipe_of("paper", steps=1)),
    "mixed_10": TrainRequest("sub_deep", "parts", fold=0, width=1, recipe=recipe_of("paper", steps=1)),
}
SHAPES = {"pool_3": (2048,), "mixed_10": (8, 8, 2048)}
TABLES = ("pool_3", "mixed_10", "images", "training_set_items")


@dataclass(frozen=True)
class Scene:
    """A store with a training set over three files a layer, four images each."""

    store: Store

    def files(self, table: str) -> list[Path]:
        return sorted(path_of(file.file_path) for file in self.store.pin().data_files(table))

    def metadata(self, table: str) -> list[Path]:
        """The current ``metadata.json``; every kept list of manifests and manifest."""
        table_ = self.store.pin().tables[table]
        found = [path_of(table_.metadata_location)]
        return found + sorted(found[0].parent.glob("*.avro"))


def path_of(url: str) -> Path:
    return Path(url.removeprefix("file://"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, put: Callable[..., Pin]) -> Scene:
    store = init_store(str(tmp_path_factory.mktemp("flipped") / "store"))
    names = [f"{number:064x}" for number in range(ITEMS)]
    images = [
        {"dataset": "set", "item_id": f"{n}.png", "image_id": name, "label": "ab"[n % 2], "perceptual_hash": name[:16]}
        for n, name in enumerate(names)
    ]
    put(store, images=images)
    for start in range(0, ITEMS, 4):
        rows: dict[str, list[dict[str, Any]]] = {layer: [] for layer in SHAPES}
        for number in range(start, start + 4):
            for layer, shape in SHAPES.items():
                values = np.zeros(shape, np.float32)
                values.reshape(-1)[:3] = [number + 1, 2, 3]
                rows[layer].append({"image_id": names[number], "extractor_id": "e", "view": "identity", layer: values})
        put(store, **rows)
    split(store, SplitRequest("parts", "set", "random", seed=1))
    for request in ASKED.values():
        plan_folds(store, request)
    assert verify(store).sound
    return Scene(store)


@pytest.fixture
def mended(scene: Scene) -> Iterator[Scene]:
    """The scene, as it was after the test."""
    kept = {path: path.read_bytes() for path in path_of(scene.store.url).rglob("*") if path.is_file()}
    yield scene
    for path, data in kept.items():
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)  # in its place: the catalog's connection stays on this file


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """Each byte with one bit of it turned, a different one from byte to byte."""
    for at in range(0, len(data), step):
        yield at, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def cuts(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    for length in range(0, len(data), step):
        yield length, data[:length]


def noticed(path: Path, act: Callable[[], object], at: int) -> None:
    with pytest.raises(CorruptionError) as caught:
        act()
    assert path.name in str(caught.value), f"byte {at}: {caught.value}"
    assert caught.value.exit_code == 1
    assert caught.value.hint


@pytest.mark.parametrize("table", TABLES)
def test_every_byte_of_a_data_file_counts(table: str, mended: Scene, level: str, tally: Any) -> None:
    store, path = mended.store, mended.files(table)[-1]
    good, url = path.read_bytes(), f"file://{path}"
    assert len(good) < 16 << 10
    feature = table in ASKED
    changed = 0
    for way in (flips, cuts):
        for at, bad in way(good, 1 if level != "ci" or (feature and way is flips) else 7):
            path.write_bytes(bad)
            assert _check((url, len(good))), f"verify misses {way.__name__} at {at}"
            noticed(path, lambda: digests.check_digests([url]) if feature else digests.read_checked(url), at)
            changed += 1
        for at, bad in way(good, _WHOLE[level]):
            path.write_bytes(bad)
            assert [path_of(found) for found, _ in verify(store).damaged] == [path]
            request = ASKED[table if feature else "pool_3"]
            if feature or table == "training_set_items":
                noticed(path, lambda request=request: plan_folds(store, request), at)
            if not feature:
                noticed(path, lambda: read_rows(store, store.pin(), table), at)
    path.write_bytes(good)
    assert verify(store).sound
    tally("flipped bytes", changed)


@pytest.mark.parametrize("layer", sorted(ASKED))
def test_a_worker_looks_again_before_it_reads(layer: str, mended: Scene, level: str, tally: Any) -> None:
    store = mended.store
    (plan,) = plan_folds(store, ASKED[layer])
    job = run_module._job(store, plan, Named(), {})  # type: ignore[arg-type]
    changed = 0
    for path in mended.files(layer):
        good = path.read_bytes()
        for at, bad in [*flips(good, 173), *cuts(good, 331)]:
            path.write_bytes(bad)
            noticed(path, lambda: work(job, MemoryLink()), at)
            changed += 1
        path.write_bytes(good)
    tally("flipped bytes", changed)


class Named:
    """A run, as far as a job knows it."""

    run_id = "r"


@pytest.mark.parametrize("table", ["pool_3", "training_set_items"])
def test_every_byte_of_icebergs_metadata_counts(table: str, mended: Scene, level: str, tally: Any) -> None:
    changed = 0
    for path in mended.metadata(table):
        good = path.read_bytes()
        io = mended.store.pin().tables[table].io
        for way in (flips, cuts):
            for at, bad in way(good, 23 if level == "ci" else 1):
                path.write_bytes(bad)
                noticed(path, lambda path=path, io=io: io.new_input(f"file://{path}").open(), at)
                changed += 1
        for at, bad in flips(good, 10 * _WHOLE[level]):
            path.write_bytes(bad)
            if path.suffix == ".json":
                noticed(path, lambda: open_store(mended.store.url).pin(), at)
            else:
                assert path in {path_of(found) for found, _ in verify(mended.store).damaged}
                assert "fail" in {finding.state for finding in doctor(mended.store)}
        path.write_bytes(good)
    tally("flipped bytes", changed)


def test_reading_at_damaged_metadata_is_told_with_the_file(mended: Scene) -> None:
    store = mended.store
    table = store.pin().tables["pool_3"]
    snapshot = table.metadata.current_snapshot()
    assert snapshot
    for url in (snapshot.manifest_list, snapshot.manifests(table.io)[0].manifest_path):
        path = path_of(url)
        good = path.read_bytes()
        for bad in (good[: len(good) // 2], b"", good[:-1] + b"!", good[:99] + b"!" + good[100:]):
            path.write_bytes(bad)
            noticed(path, lambda: sql(store, "select count(*) from pool_3"), 0)
            noticed(path, lambda: plan_folds(store, ASKED["pool_3"]), 0)
        path.unlink()
        noticed(path, lambda: sql(store, "select count(*) from pool_3"), 0)
        path.write_bytes(good)


def test_files_of_one_table_that_change_places_are_told(mended: Scene) -> None:
    for layer, request in ASKED.items():
        one, other, _ = mended.files(layer)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        assert {path_of(url) for url, _ in verify(mended.store).damaged} == {one, other}
        noticed(one, lambda request=request: plan_folds(mended.store, request), 0)
        one.write_bytes(first)
        noticed(other, lambda request=request: plan_folds(mended.store, request), 0)
        other.write_bytes(second)


def test_a_file_that_is_gone_or_empty_is_told(mended: Scene) -> None:
    for table in TABLES:
        path = mended.files(table)[0]
        good = path.read_bytes()
        for spoil in (path.unlink, lambda path=path: path.write_bytes(b"")):
            spoil()
            assert [path_of(url) for url, _ in verify(mended.store).damaged] == [path]
            noticed(path, lambda table=table: read_everything(mended.store, table), 0)
        path.write_bytes(good)


def read_everything(store: Store, table: str) -> object:
    if table in ASKED:
        return plan_folds(store, ASKED[table])
    return read_rows(store, store.pin(), table)


def test_a_damaged_catalog_is_told_in_a_line(scene: Scene, tmp_path: Path, level: str, tally: Any) -> None:
    """SQLite has no checksums: a flipped byte may be harmless, but what is told is an error of ours, and no less.

    Each damage is a file of its own: this process still holds connections to those before.
    """
    good = (path_of(scene.store.url) / "catalog.db").read_bytes()
    whole = {name: table.metadata_location for name, table in scene.store.pin().tables.items()}
    changed = 0
    for at, bad in [*flips(good, 8 * _WHOLE[level] + 1), *cuts(good, 8 * _WHOLE[level] + 1)]:
        path = tmp_path / f"{changed}.db"
        path.write_bytes(bad)
        try:
            damaged = replace(scene.store, catalog=open_catalog(f"sqlite:///{path}", scene.store.url))
            tables = damaged.pin().tables
            assert {name: table.metadata_location for name, table in tables.items()} == whole, f"byte {at}"
        except FerstoreError as error:
            assert scene.store.url in str(error), f"byte {at}"  # noqa: PT017  either is right
        changed += 1
    tally("flipped bytes", changed)


def test_a_file_of_another_engine_is_said_to_have_no_digest(scene: Scene) -> None:
    """Nothing but its pages' checksums vouches for it, as the plan of a training says. It changes the store: last."""
    store = scene.store
    path = scene.files("pool_3")[0]
    stranger = path.with_name("part-00000.parquet")
    stranger.write_bytes(path.read_bytes())
    old = [file for file in store.pin().data_files("pool_3") if path_of(file.file_path) == path]
    file = StoredFile(f"file://{stranger}", "", stranger.stat().st_size, 4)
    transact(store, lambda pin: [Change("pool_3", (file,), tuple(old))], {})
    (plan,) = plan_folds(store, ASKED["pool_3"])
    assert plan.undigested == verify(store).undigested == 1
    assert described(plan).count(", 1 files without a digest") == 1
