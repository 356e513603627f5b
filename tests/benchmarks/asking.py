"""What a question costs: SQL over few and many files, neighbours, and an extract that has nothing to do."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ferstore
from ferstore.extract.request import ExtractRequest
from ferstore.query.vectors import Vectors
from ferstore.store.store import Store, init_store
from tests.benchmarks.big_store import add_extractor, add_features, add_images, image_ids
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

IMAGES = 36_000
SHARD = 256  # images, so 141 files
K = 10
BY_CLASS = "select label, count(*) from images group by label order by label"
SMALL = "mixed_7_mean"  # the layer that stands beside pool_3 where only keys matter


def seconds(work: Callable[[], object], turns: int) -> tuple[float, ...]:
    """Of each turn, after one that warms up."""
    work()
    found = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return tuple(found)


def command(*words: str) -> Callable[[], str]:
    """A whole command of ``ferstore``, its interpreter started anew."""

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ferstore.cli", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    return run


def bare_interpreter() -> None:
    """What every Python program takes."""
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def numpy_top(values: npt.NDArray[np.float32], norms: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> Any:
    """The limit of search: one product over all vectors in memory, and the best of it."""
    cosine = (values @ query) / norms
    best = np.argpartition(-cosine, K)[:K]
    return best[np.argsort(-cosine[best])]


def faiss_top(values: npt.NDArray[np.float32], norms: npt.NDArray[np.float32]) -> Callable[[Any], Any] | None:
    """FAISS's flat index of the same vectors, where it is installed (``pip install faiss-cpu``)."""
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatIP(values.shape[1])
    index.add(values / norms[:, np.newaxis])
    return lambda query: index.search((query / np.linalg.norm(query))[np.newaxis], K)


def filled(folder: Path, images: int, *, seed: int | None = 0) -> Store:
    """A store of images with drawn vectors in ``pool_3`` and zeros in a second layer."""
    store = init_store(str(folder))
    add_images(store, images)
    extractor_id = add_extractor(store, ExtractRequest(weights="random", layers=("pool_3", SMALL)))
    ids = image_ids(store)
    add_features(store, "pool_3", ids, SHARD, extractor_id, seed=seed)
    add_features(store, SMALL, ids, SHARD, extractor_id)
    return store


def rows(inputs: Inputs) -> Iterator[Row]:
    """All of it, at the size of FERPLUS, and over five thousand files."""
    folder, full = inputs.folder, inputs.size == "full"
    turns = 5 if full else 3
    store = filled(folder / "ferplus", IMAGES)
    yield from _sql(store, turns)
    yield from _similar(store, turns)
    yield from _nothing_to_do(store, turns)
    shutil.rmtree(folder / "ferplus")
    yield from _many_files(folder / "files", 5000 if full else 1000, turns)
    yield from growth(folder, full=full)


def _sql(store: Store, turns: int) -> Iterator[Row]:
    api = ferstore.FeatureStore(store)

    def ask(session: Any) -> None:
        with session.execute(BY_CLASS) as cursor:
            assert sum(row[1] for row in cursor.rows()) == IMAGES

    with api.session() as session:
        found = tuple(1000 * one for one in seconds(lambda: ask(session), 4 * turns))
    yield Row(
        f"count by class over {IMAGES:,} images, session open", found, (), "ms", 30.0, higher=False,
        note="in the session's own bounded process",
    )  # fmt: skip
    found = seconds(command("--store", store.url, "sql", BY_CLASS), turns)
    yield Row("the same, `ferstore sql`, whole command", found, (), "s", 1.5, higher=False)


def _similar(store: Store, turns: int) -> Iterator[Row]:
    api = ferstore.FeatureStore(store)
    [block] = Vectors(store).blocks(store.pin(), "pool_3")
    chance = np.random.default_rng(1)
    asked = chance.choice(IMAGES, 4 * turns, replace=False)
    names = [block.ids[int(row)].as_py() for row in asked]
    api.similar(names[0], k=K)
    ours, other, flat = [], [], []
    search = faiss_top(block.values, block.norms)
    for row, name in zip(asked, names, strict=True):
        query = block.values[row].copy()
        ours.append(_timed(lambda name=name: api.similar(name, k=K - 1)))
        other.append(_timed(lambda query=query: numpy_top(block.values, block.norms, query)))
        if search:
            flat.append(_timed(lambda query=query: search(query)))
        found = [one.image_id for one in api.similar(name, k=K - 1)]
        if found != [block.ids[int(i)].as_py() for i in numpy_top(block.values, block.norms, query)][1:]:
            raise AssertionError("the neighbours are not those of NumPy")
    what = f"`similar` over {IMAGES:,} vectors, warm"
    note = "ours by image_id, with labels of the neighbours; all vectors in memory, twenty questions, turn by turn"
    yield Row(f"{what}, against one NumPy product and its top {K}", tuple(ours), tuple(other), "ms", 1.5, False, note)
    missing = None if flat else "faiss-cpu is not installed"
    yield Row(f"{what}, against FAISS flat", tuple(ours) if flat else (), tuple(flat), "ms", None, False, note, missing)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _nothing_to_do(store: Store, turns: int) -> Iterator[Row]:
    words = ["--store", store.url, "extract", "--weights", "random", "--layers", f"pool_3,{SMALL}"]
    assert "nothing to compute" in command(*words)()
    whole, bare = seconds(command(*words), turns), seconds(bare_interpreter, turns)
    yield Row(
        f"`ferstore extract` with nothing to do, {IMAGES:,} images, two layers, beyond interpreter start",
        tuple(ours - other for ours, other in zip(whole, bare, strict=True)), (), "s", 2.0, higher=False,
        note=f"keys in {2 * -(-IMAGES // SHARD)} files; interpreter {statistics.median(bare):.2f} s",
    )  # fmt: skip


def _many_files(folder: Path, files: int, turns: int) -> Iterator[Row]:
    rows_a_file = 8  # how long a query takes to start depends on files, not on rows
    store = init_store(str(folder))
    add_images(store, files * rows_a_file)
    extractor_id = add_extractor(store, ExtractRequest(weights="random"))
    add_features(store, "pool_3", image_ids(store), rows_a_file, extractor_id)
    api = ferstore.FeatureStore(store)

    def ask(query: str) -> Callable[[], object]:
        def run() -> object:
            with api.session() as session, session.execute(query) as cursor:
                return list(cursor.rows())

        return run

    count, few = "select count(*) from pool_3", "select image_id, norm from pool_3 limit 5"
    for query, name in ((count, "count(*)"), (few, "5 rows")):
        found = seconds(ask(query), turns)
        yield Row(f"{name} over {files:,} files, new session, to its last row", found, (), "s", 2.0, higher=False)
    found = seconds(command("--store", store.url, "sql", count), turns)
    yield Row(f"count(*) over {files:,} files, whole command", found, (), "s", 2.0, higher=False)
    shutil.rmtree(folder)


def growth(folder: Path, *, full: bool) -> Iterator[Row]:
    """Querying and reading at 1, 4 and 16 times the data."""
    for times in (1, 4, 16):
        images = (IMAGES if full else IMAGES // 9) * times // 16
        store = filled(folder / f"growth-{times}", images, seed=None)
        yield from _growth(store, images)
        shutil.rmtree(folder / f"growth-{times}")


def _growth(store: Store, images: int) -> Iterator[Row]:
    api = ferstore.FeatureStore(store)

    def asked(query: str) -> Sequence[float]:
        with api.session() as session:

            def run() -> None:
                with session.execute(query) as cursor:
                    cursor.arrow()

            return seconds(run, 3)

    for query, what in (
        ("select label, avg(norm) from images join pool_3 using (image_id) group by label", "join and group by"),
        ("select sum(list_sum(pool_3)) from pool_3", "all values of pool_3"),
    ):
        found = tuple(1e6 * one / images for one in asked(query))
        yield Row(f"{what}, {images:,} images", found, (), "µs an image", None, higher=False)
