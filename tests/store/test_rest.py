"""A store whose catalog is a REST server: the line, and commits of several tables that end in the middle.

The server is `tests/support/rest_catalog.py`, which says what it does not prove. Both kinds of server are tried: one
that commits several tables at once, and one that has to be asked for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rest_catalog
from drawn import noise_files, sql, write
from filled import REQUEST, fill
from rest_catalog import RestServer

from ferstore.errors import FerstoreError, StoreError, UnavailableError
from ferstore.extract.request import ExtractRequest
from ferstore.sources.ingest import ingest
from ferstore.store import attempts
from ferstore.store.compact import compact
from ferstore.store.erase import erase
from ferstore.store.references import references
from ferstore.store.rows import read_rows
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import vacuum
from ferstore.store.verify import verify
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

FACES = 10
FEATURES = ("pool_3", "mixed_10")


@pytest.fixture(scope="module", params=[False, True], ids=["each table", "together"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    with rest_catalog.serve(tmp_path_factory.mktemp("rest"), together=request.param) as found:
        yield found


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    """A server that is asked for each table."""
    with rest_catalog.serve(tmp_path_factory.mktemp("each")) as found:
        yield found


@pytest.fixture(scope="module")
def faces(each: RestServer, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with pictures on that server."""
    return made(tmp_path_factory.mktemp("faces"), each)


@pytest.fixture(autouse=True)
def no_fault(each: RestServer) -> Iterator[None]:
    """What a test makes of the server ends with it."""
    yield
    each.fault = lambda method, path: None


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without waiting, and not forty of them."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(attempts, "_ATTEMPTS", 3)


def made(tmp_path: Path, server: RestServer) -> Store:
    store = init_store(str(tmp_path / "store"), catalog=server.url)
    ingest(store, "folder", str(write(tmp_path / "faces", noise_files(FACES))), name="faces")
    return store


def rows_of(store: Store, layer: str, request: ExtractRequest) -> list[str]:
    """Pictures of a layer under the extractor of a request, which its seed tells from those of other tests."""
    query = f"select image_id from {layer} join extractors using (extractor_id) where seed = {request.seed} order by 1"
    return [str(image) for (image,) in sql(store, query)]


def assert_whole(store: Store, request: ExtractRequest = REQUEST) -> None:
    images = [str(image) for (image,) in sql(store, "select distinct image_id from images order by 1")]
    assert len(images) == FACES
    assert [rows_of(store, layer, request) for layer in FEATURES] == [images, images]
    assert verify(store).sound


def commits(server: RestServer) -> list[str]:
    """Tables that were committed to, in turn; several at once as their endpoint."""
    posted = [line.split()[1].removeprefix("/v1/") for line in server.requests if line.startswith("POST ")]
    made = ("namespaces", "namespaces/ferstore/tables")
    return [path.removeprefix("namespaces/ferstore/tables/") for path in posted if path not in made]


def test_the_line_on_a_rest_catalog(tmp_path: Path, server: RestServer) -> None:
    from train_here import train_here

    store = made(tmp_path, server)
    server.requests.clear()
    fill(store)
    features = [*FEATURES, "extractors"]
    posted = commits(server)
    assert ("transactions/commit" in posted) is server.together
    assert (set(features) <= set(posted)) is not server.together
    store = open_store(store.url, catalog=server.url)
    assert_whole(store)
    create_tag(store, "before")
    server.requests.clear()
    split(store, SplitRequest("parts", "faces", protocol="random"))
    tags = store.pin().tags()
    assert set(tags["before"]) >= {"images", *features}
    assert set(tags["training-set parts"]) >= {"images", *features, "training_sets", "training_set_items"}
    if server.together:
        return
    order = commits(server)  # a set and a run count after their rows are there
    assert order.index("images") < order.index("training_set_items") < order.index("training_sets")
    run_id = train_here(store, "deepest", "parts")
    assert sql(store, f"select count(*) > 0 from predictions where run_id = '{run_id}'") == [(True,)]
    assert sql(store, "select experiment from trainings") == [("deepest",)]
    compact(store)
    assert len(read_rows(store, store.pin("before"), "training_sets")) == 0
    [(image,)] = sql(store, "select image_id from images limit 1")
    with pytest.raises(StoreError, match="a SQLite or PostgreSQL catalog"):
        erase(store, image_id=str(image))
    with pytest.raises(StoreError, match="a SQLite or PostgreSQL catalog"):
        vacuum(store, keep=timedelta(0))
    assert_whole(store)


@pytest.mark.parametrize("status", [503, -500], ids=["not done", "done, and answered with an error"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_commit_cut_between_its_tables_is_completed_by_the_next_run(
    faces: Store, each: RestServer, hurried: None, number: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away at the first, second or third table of extract's commit, and is there again later."""
    monkeypatch.setattr(attempts, "_ATTEMPTS", 1)
    request = replace(REQUEST, seed=10 * number + (status < 0))
    each.fault = from_the(number, {*FEATURES, "extractors"}, status)
    with pytest.raises(UnavailableError):
        fill(faces, request)
    each.fault = lambda method, path: None
    landed = number - 1 + (status < 0)  # tables: extractors, then the layers
    expected = [FACES] * max(0, landed - 1) + [0] * min(2, 3 - landed)
    assert [len(rows_of(faces, layer, request)) for layer in FEATURES] == expected
    assert verify(faces).sound  # no key twice
    fill(open_store(faces.url, catalog=each.url), request)
    assert_whole(faces, request)


def from_the(number: int, tables: set[str], status: int) -> Callable[[str, str], int | None]:
    """From the n-th commit of these tables on, every request of the kind fails."""
    seen = 0

    def fault(method: str, path: str) -> int | None:
        nonlocal seen
        if method != "POST" or path.rsplit("/", 1)[-1] not in tables:
            return None
        seen += 1
        return status if seen >= number else None

    return fault


def once(number: int, tables: set[str], status: int) -> Callable[[str, str], int | None]:
    """Only the n-th commit of these tables fails."""
    lasting, failed = from_the(number, tables, status), []

    def fault(method: str, path: str) -> int | None:
        if failed or (found := lasting(method, path)) is None:
            return None
        failed.append(path)
        return found

    return fault


@pytest.mark.parametrize("status", [503, -504, 409], ids=str)
def test_a_fault_that_passes_is_not_seen(faces: Store, each: RestServer, hurried: None, status: int) -> None:
    request = replace(REQUEST, seed=abs(status))
    each.fault = once(2, {*FEATURES, "extractors"}, status)
    fill(faces, request)
    each.fault = once(1, {"runs"}, status)
    fill(faces, request)
    assert_whole(faces, request)


def test_a_tag_is_on_all_tables_though_a_commit_failed_between_them(
    faces: Store, each: RestServer, hurried: None
) -> None:
    """Else a state would be read in which a table that was tagged late is empty."""
    fill(faces)
    tagged = {"images", *FEATURES, "extractors", "training_sets", "training_set_items"}
    for number in (2, 5):
        each.fault = once(number, tagged, 503)
        split(faces, SplitRequest(f"parts-{number}", "faces", protocol="random"))
        assert set(faces.pin().tags()[f"training-set parts-{number}"]) >= tagged
        assert len(sql(faces, f"from training_set_items where training_set = 'parts-{number}'")) == FACES


def test_several_tables_land_together_or_not_at_all(tmp_path: Path, put: Any, table_of: Any) -> None:
    """Another writer moves the second table after the commit was planned: neither lands, then both."""
    with rest_catalog.serve(tmp_path, together=True) as server:
        store = init_store(str(tmp_path / "store"), catalog=server.url)
        seen = []

        def intrude(method: str, path: str) -> None:
            if path.endswith("transactions/commit") and not seen:
                seen.append(path)
                server.catalog.load_table(("ferstore", "quarantine"))
                put(open_store(store.url, catalog=server.url), quarantine=[{"item": "theirs"}])
                assert len(read_rows(store, store.pin(), "images")) == 0

        server.fault = intrude
        put(store, images=[{"item_id": "a"}], quarantine=[{"item": "ours"}])
        assert [line for line in server.requests if "transactions" in line] == ["POST /v1/transactions/commit"] * 2
        assert len(read_rows(store, store.pin(), "images")) == 1
        items = read_rows(store, store.pin(), "quarantine")["item"].to_pylist()
        assert sorted(items) == ["ours", "theirs"]
        written = {path.name for path in (tmp_path / "store" / "tables").glob("*/metadata/*.avro")}
        named = {url.rsplit("/", 1)[-1] for url in references(store.pin()).metadata if url.endswith(".avro")}
        assert written == named  # nothing is left of the try that failed


def test_a_token_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rest_catalog.serve(tmp_path, token="of-the-test") as server:
        with pytest.raises(FerstoreError, match=r"cannot open the http catalog.*UnauthorizedError") as refused:
            init_store(str(tmp_path / "store"), catalog=server.url)
        assert "\n" not in str(refused.value)
        monkeypatch.setenv("PYICEBERG_CATALOG__FERSTORE__TOKEN", "of-the-test")
        store = init_store(str(tmp_path / "store"), catalog=server.url)
        assert "of-the-test" not in (tmp_path / "store" / "ferstore.json").read_text()
        assert store.pin().tables


def test_a_server_that_is_away_is_no_damage(faces: Store, each: RestServer, hurried: None) -> None:
    each.fault = lambda method, path: 503
    with pytest.raises(UnavailableError, match="ServiceUnavailableError"):
        faces.pin()
    each.fault = lambda method, path: None
    faces.pin()
