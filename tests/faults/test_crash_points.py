"""A crash at the writes of an ingest and an extract, one after another: nothing in part, nothing twice.

``FERSTORE_CRASH_STEP=1`` crashes at every single one; every sixth is what a normal run has time for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_files, sql, write
from filled import fill
from sqlalchemy.orm import Session

from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import ingest
from ferstore.store import files
from ferstore.store.doctor import doctor
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.verify import verify

STEP = int(os.environ.get("FERSTORE_CRASH_STEP", "6"))
LAYERS = ("pool_3", "mixed_10")


class Crash(BaseException):
    """The end of the process: no ``except Exception`` sees it."""


class Countdown:
    """Lets a crash happen before or after the n-th write of a file or commit of the catalog."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        monkeypatch.setattr(files, "write_file", self._around(files.write_file))
        monkeypatch.setattr(Session, "commit", self._around(Session.commit))

    def _around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._tick()
            result = step(*arguments, **options)
            self._tick()
            return result

        return counted

    def _tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash

    def crashes(self, at: int, work: Callable[[], object]) -> bool:
        """Work with a crash at this step; False when the work has fewer steps."""
        self.left = at
        try:
            work()
        except Crash:
            return True
        finally:
            self.left = -1
        return False


@pytest.fixture
def countdown(monkeypatch: pytest.MonkeyPatch) -> Countdown:
    monkeypatch.setattr(ingest_module, "_READERS", 1)
    return Countdown(monkeypatch)


def one(store: Store, query: str) -> object:
    return sql(store, query)[0][0]


def check(store: Store, images: int) -> None:
    """Both layers hold the same keys, each once, for all images or for none."""
    found = {int(str(one(store, f"select count(*) from {layer}"))) for layer in LAYERS}
    assert found in ({0}, {images})
    joined = "select count(*) from pool_3 join mixed_10 using (image_id, extractor_id, view)"
    assert {one(store, joined)} == found
    assert one(store, "select count(*) from pool_3 anti join extractors using (extractor_id)") == 0
    assert verify(store).sound
    assert [finding for finding in doctor(store) if finding.state == "fail"] == []


def test_an_extract_that_crashes_at_any_write_is_finished_by_the_next(tmp_path: Path, countdown: Countdown) -> None:
    store = init_store(str(tmp_path / "store"))
    faces = {**noise_files(3), "sad/vanishing.png": noise_files(1, first=9)["happy/00009.png"]}
    ingest(store, "folder", str(write(tmp_path / "faces", faces)))
    (tmp_path / "faces/sad/vanishing.png").unlink()
    shutil.copytree(tmp_path / "store", tmp_path / "kept")
    landed = []
    for at in range(1, 200, STEP):
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "kept", tmp_path / "store")
        store = open_store(store.url)
        crashed = countdown.crashes(at, lambda store=store: fill(store))  # type: ignore[misc]
        check(store, 3)
        landed.append(one(store, "select count(*) from pool_3") == 3)
        fill(store)
        check(store, 3)
        assert one(store, "select count(*) from pool_3") == 3
        assert one(store, "select count(*) from quarantine") == 1
        if not crashed:
            break
    assert len(landed) > 40 // STEP
    assert landed == sorted(landed), "a later crash lost what an earlier one had kept"
    assert not landed[0]


def test_an_ingest_that_crashes_at_any_write_is_finished_by_the_next(tmp_path: Path, countdown: Countdown) -> None:
    store = init_store(str(tmp_path / "store"))
    folder = write(tmp_path / "faces", noise_files(2))
    ingest(store, "folder", str(folder))
    write(folder, {**noise_files(2, first=2), "sad/00000.png": noise_files(1, first=8)["sad/00008.png"]})
    write(folder, {"sad/broken.png": b"no picture"})
    shutil.copytree(tmp_path / "store", tmp_path / "kept")
    for at in range(1, 200, STEP):
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "kept", tmp_path / "store")
        store = open_store(store.url)
        crashed = countdown.crashes(at, lambda store=store: ingest(store, "folder", str(folder)))  # type: ignore[misc]
        assert (one(store, "select count(*) from images"), one(store, "select count(*) from quarantine")) in (
            (2, 0),
            (4, 1),
        )
        report = ingest(store, "folder", str(folder))
        assert report.added + report.changed + report.unchanged == 4
        assert one(store, "select count(*) from images") == 4
        assert one(store, "select count(*) from quarantine") == 1
        assert verify(store).sound
        if not crashed:
            break
    assert at > 15
