"""Requests to S3 that fail, at every commit of ingest, extract and compact: nothing in part, nothing twice.

Not the calls of the filesystem, as in `test_every_call.py`, but the requests below it: botocore and s3fs try again
before ferstore does, so a condition may meet the effect of its own first try. The catalog is SQLite outside the store.
Each operation runs undisturbed first, and its requests that change something are counted. Then it runs again from the
same beginning with one fault at one of them: once, so that it must not be seen, or lasting, so that it ends in an error
and the same operation, run once more, must come to the same end. At no time does a reader see a state that no commit
made. A sample is run with all tests; ``python -m tests.faults`` runs more.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from drawn import noise_files
from filled import fill
from parsed_once import remember_schemas
from s3 import Kind, Request, Rule, Server, lasting, objects, once

from ferstore.errors import FerstoreError
from ferstore.query.session import Session
from ferstore.sources.ingest import ingest
from ferstore.store import attempts, reach
from ferstore.store.compact import compact
from ferstore.store.files import write_file
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.verify import verify

FACES = 4
QUERIES = (
    "select item_id, image_id, label from images order by all",
    "select image_id, view, pool_3 from pool_3 order by all",
    "select image_id, view, norm from mixed_10 order by all",
    "select extractor_id from extractors order by all",
    "select item, error from quarantine order by all",
)
SAMPLE = {"ci": 1, "full": 4, "night": 200}
"""Faults of each operation."""


@dataclass(frozen=True)
class Place:
    """A store on S3, and what it starts from."""

    url: str
    catalog: Path
    faces: str

    def open(self) -> Store:
        return open_store(self.url, catalog=f"sqlite:///{self.catalog}")

    def save(self) -> Callable[[], None]:
        kept = objects(self.url)
        shutil.copy(self.catalog, f"{self.catalog}.kept")

        def restore() -> None:
            fs = fsspec.filesystem("s3")
            for key in objects(self.url).keys() - kept.keys():
                fs.rm_file(self.url + key)
            for key, data in kept.items():
                if not fs.exists(self.url + key):
                    fs.pipe_file(self.url + key, data)
            shutil.copy(f"{self.catalog}.kept", self.catalog)

        return restore


def taken_in(store: Store, place: Place) -> None:
    ingest(store, "folder", place.faces, name="faces")


def computed(store: Store, place: Place) -> None:
    fill(store)


def merged(store: Store, place: Place) -> None:
    compact(store)


OPERATIONS = [taken_in, computed, merged]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once, and a lasting fault ends soon."""
    remember_schemas(monkeypatch)
    monkeypatch.setattr(reach, "pause", lambda *_: None)
    monkeypatch.setattr(attempts, "pause", lambda *_: None)
    monkeypatch.setattr(attempts, "_ATTEMPTS", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")


@pytest.fixture
def place(s3: Server, bucket: str, tmp_path: Path, hurried: None) -> Place:
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    found = Place(f"{bucket}/store", tmp_path / "catalog.db", f"{bucket}/faces")
    for name, data in noise_files(FACES).items():
        write_file(f"{found.faces}/{name}", data)
    init_store(found.url, catalog=f"sqlite:///{found.catalog}")
    return found


def state(store: Store) -> list[Any]:
    session = Session(store, store.pin())
    return [list(session.execute(query).rows()) for query in QUERIES]


def changing(place: Place) -> Callable[[Request], bool]:
    """Whether a request may leave something behind in the store."""
    below = "/" + place.url.removeprefix("s3://")
    return lambda request: request.changes and request.path.startswith(below)


def faults(count: int, seed: int, number: int) -> Iterator[tuple[Kind, int, Callable[..., Rule]]]:
    """A sample of (kind, request, once or lasting), the same in every process."""
    drawn = random.Random(seed)
    kinds = [Kind.BUSY, Kind.RESET, Kind.LOST, Kind.BROKEN, Kind.CONFLICT, Kind.TAKEN, Kind.EXPIRED]
    for turn in range(count):
        yield kinds[(seed + turn) % len(kinds)], drawn.randint(1, number), (once, lasting)[turn % 2]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_request_that_fails(
    s3: Server, place: Place, operation: Callable[[Store, Place], None], level: str, tally: Callable[[str, int], None]
) -> None:
    if operation is merged and level == "ci":
        pytest.skip("takes long: FERSTORE_FAULTS=full has it")
    store = place.open()
    for before in OPERATIONS[: OPERATIONS.index(operation)]:
        before(store, place)
    if operation is merged:
        fill_twice(store)
    begin, restore = state(store), place.save()
    with s3.watch() as requests:
        operation(place.open(), place)
    number = sum(map(changing(place), requests))
    end = state(place.open())
    seed = OPERATIONS.index(operation) * 3
    for kind, at, rule in faults(SAMPLE[level], seed, number):
        restore()
        failed = None
        with s3.watch(rule(kind, at, changing(place))):
            try:
                operation(place.open(), place)
            except FerstoreError as error:
                failed = error
        what = f"{operation.__name__}: {kind} at change {at} of {number}, {rule.__name__}: {failed}"
        found = state(place.open())
        assert found in (begin, end), what
        assert failed or found == end, what
        assert verify(place.open()).sound, what
        operation(place.open(), place)
        assert state(place.open()) == end, what
        tally("requests to S3 that failed", 1)


def fill_twice(store: Store) -> None:
    """A second file of features to merge."""
    from dataclasses import replace

    from filled import REQUEST

    fill(store, replace(REQUEST, views=("identity", "hflip")))
