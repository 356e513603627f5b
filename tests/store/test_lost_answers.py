"""A catalog that is busy, or lands a commit and loses the answer: what was asked for is done once, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_files, sql, write
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from ferstore.errors import ConflictError, CorruptionError, UnavailableError
from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import ingest
from ferstore.store import catalog as catalog_module
from ferstore.store import reach
from ferstore.store.doctor import doctor
from ferstore.store.erase import erase
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import vacuum
from ferstore.store.verify import verify

NONE = timedelta(0)


@pytest.fixture
def store(tmp_path: Path, put: Any) -> Store:
    store = init_store(str(tmp_path / "store"))
    people = [{"item_id": str(n), "image_id": f"{n:064x}", "subject": "ann" if n else "bob"} for n in range(3)]
    for person in people:
        put(store, images=[person])
    return store


@pytest.fixture(params=["busy", "answer lost"])
def trouble(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the n-th commit of the catalog from now on go wrong."""
    original = Session.commit

    def arm(at: int) -> None:
        calls: list[int] = []

        def commit(session: Session) -> None:
            calls.append(1)
            if len(calls) == at and request.param == "busy":
                raise OperationalError("update", {}, Exception("locked"))
            original(session)
            if len(calls) == at and request.param == "answer lost":
                raise OperationalError("update", {}, Exception("connection lost"))

        monkeypatch.setattr(Session, "commit", commit)

    return arm


def test_a_tag_is_made_once(store: Store, trouble: Callable[[int], None]) -> None:
    trouble(1)
    tagged = create_tag(store, "here")
    assert store.pin().tags() == {"here": tagged}


def test_a_vacuum_removes_what_expired(store: Store, trouble: Callable[[int], None]) -> None:
    folder = Path(store.url.removeprefix("file://")) / "tables" / "images" / "metadata"
    lists = set(folder.glob("snap-*"))
    trouble(1)
    report = vacuum(store, keep=NONE)
    assert len(store.pin().tables["images"].metadata.snapshots) == 1
    assert report.files > 0
    assert len(set(folder.glob("snap-*")) & lists) == 1
    assert verify(store).sound


def test_an_erasure_leaves_nothing(store: Store, trouble: Callable[[int], None]) -> None:
    trouble(2)  # the first tells that it is at work
    report = erase(store, subject="ann")
    assert (report.images, report.rows) == (2, {"images": 2})
    assert sql(store, "select subject from images") == [("bob",)]
    assert all(finding.state == "ok" for finding in doctor(store) if finding.check in ("erasures", "runs"))
    assert verify(store).sound


def test_a_reader_asks_a_catalog_again_that_ended_its_session(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = catalog_module.TransactionalCatalog.load_all, []

    def load_all(catalog: catalog_module.TransactionalCatalog) -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("select", {}, Exception("terminating connection due to administrator command"))
        return original(catalog)

    monkeypatch.setattr(catalog_module.TransactionalCatalog, "load_all", load_all)
    assert sql(store, "select count(*) from images") == [(3,)]
    calls[:] = []
    monkeypatch.setattr(reach, "_TRIES", 2)
    with pytest.raises(UnavailableError, match=r"the catalog of the store .* terminating connection"):
        store.pin()


def test_metadata_that_was_cleared_away_while_it_was_asked_for_is_asked_for_again(
    store: Store, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, missed = catalog_module.TransactionalCatalog._convert_orm_to_iceberg, []

    def convert(catalog: catalog_module.TransactionalCatalog, row: Any) -> Any:
        if not missed:
            missed.append(row.metadata_location)
            raise FileNotFoundError(row.metadata_location)
        return original(catalog, row)

    monkeypatch.setattr(catalog_module.TransactionalCatalog, "_convert_orm_to_iceberg", convert)
    assert sql(store, "select count(*) from images") == [(3,)]
    assert missed
    monkeypatch.undo()
    Path(store.pin().tables["images"].metadata_location.removeprefix("file://")).unlink()
    with pytest.raises(CorruptionError, match="restore"):
        store.pin(afresh=True)


def test_an_ingest_that_has_read_a_person_before_the_erasure_stores_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "faces", noise_files(2))
    original = ingest_module._read_all

    def read(*arguments: Any) -> Any:
        found = original(*arguments)
        erase(store, subject="ann")
        return found

    monkeypatch.setattr(ingest_module, "_read_all", read)
    with pytest.raises(ConflictError, match="erased while this ran"):
        ingest(store, "folder", str(folder))
    assert sql(store, "select subject from images") == [("bob",)]
