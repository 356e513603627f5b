"""What passes is tried again, what stays is told; an outcome nobody knows is looked up, not guessed."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.exceptions import CommitFailedException
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError

from ferstore.errors import CorruptionError, UnavailableError
from ferstore.store import attempts as attempts_module
from ferstore.store import catalog as catalog_module
from ferstore.store import commit as commit_module
from ferstore.store.catalog import TransactionalCatalog
from ferstore.store.doctor import doctor
from ferstore.store.files import StoreFileIO, filesystem, write_file
from ferstore.store.pin import Pin
from ferstore.store.reach import passes, patiently, reaching
from ferstore.store.rows import read_rows, write_rows
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.verify import verify

Put = Callable[..., Pin]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


class HttpError(Exception):
    """As gcsfs has it."""

    def __init__(self, code: int) -> None:
        self.code = code


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(errno.EBUSY, "SlowDown"), True),  # s3fs's 503
        (HttpError(503), True),
        (HttpError(429), True),
        (OperationalError("update", {}, Exception("locked")), True),
        (InterfaceError("update", {}, Exception("closed")), True),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EIO, "broken"), False),
        (PermissionError(), False),
        (FileNotFoundError(), False),
        (FileExistsError(), False),
        (HttpError(403), False),
        (IntegrityError("insert", {}, Exception("twice")), False),
        (KeyError("code"), False),
    ],
    ids=repr,
)
def test_only_what_passes_by_itself_is_tried_again(error: Exception, passing: bool) -> None:
    assert passes(error) is passing
    tried = []

    def work() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise error
        return 7

    if passing:
        assert patiently(work) == 7
    else:
        with pytest.raises(type(error)):
            patiently(work)
    assert len(tried) == 1 + passing


def test_patience_ends() -> None:
    tried = []

    def work() -> None:
        tried.append(1)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        patiently(work)
    assert len(tried) == 5


def test_an_error_that_stays_is_told_in_one_line_without_a_password() -> None:
    secret = OperationalError("select", {}, Exception("postgresql://me:secret@host refused"))
    with pytest.raises(UnavailableError, match=r"catalog does not answer \(OperationalError\)") as told, reaching("it"):
        raise secret
    assert "secret" not in str(told.value)
    assert told.value.exit_code == 1
    with pytest.raises(UnavailableError, match="No space left on device"), reaching("the store"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_busy_store_is_no_damaged_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> bytes:
        raise OSError(errno.EBUSY, "SlowDown")

    monkeypatch.setattr(type(filesystem(store.url)), "cat_file", busy)
    with pytest.raises(UnavailableError, match="SlowDown"):
        store.pin()


def test_a_missing_file_of_metadata_is_damage(store: Store) -> None:
    Path(store.pin().tables["images"].metadata_location.removeprefix("file://")).unlink()
    for look in (open_store(store.url).pin, lambda: verify(store), lambda: doctor(store)):
        with pytest.raises(CorruptionError):
            look()


def test_a_commit_that_a_busy_sqlite_refused_is_not_taken_for_landed(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses a COMMIT while somebody reads, and keeps the transaction: its connection still sees the rows."""
    monkeypatch.setattr(catalog_module, "_SQLITE_WAIT", 0)
    store = init_store(str(tmp_path / "store"))
    reader = sqlite3.connect(tmp_path / "store" / "catalog.db", isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from iceberg_tables").fetchone()
    refused = []
    original = commit_module.commit_transactions

    def commit(*arguments: Any, **options: Any) -> None:
        try:
            original(*arguments, **options)
        except OperationalError as error:
            refused.append(str(error.orig))
            if reader.in_transaction:
                reader.execute("rollback")
            raise

    monkeypatch.setattr(commit_module, "commit_transactions", commit)
    put(store, images=[{"item_id": "a"}])
    assert refused == ["database is locked"]
    fresh = init_store(store.url)
    assert len(read_rows(fresh, fresh.pin(), "images")) == 1
    reader.close()


def test_a_table_that_moves_while_it_is_loaded_is_loaded_again(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits remove metadata files of long ago, which a slow reader may just have been told of."""
    put(store, images=[{"item_id": "a"}])
    original, asked = TransactionalCatalog._convert_orm_to_iceberg, []

    def convert(catalog: TransactionalCatalog, row: Any) -> Any:
        asked.append(row.table_name)
        if len(asked) == 1:
            raise FileNotFoundError(row.metadata_location)
        return original(catalog, row)

    monkeypatch.setattr(TransactionalCatalog, "_convert_orm_to_iceberg", convert)
    assert len(read_rows(store, store.pin(), "images")) == 1


def test_what_cannot_be_cleaned_up_after_a_lost_race_does_not_hide_it(
    store: Store, put: Put, table_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def plan(pin: Pin) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            put(store, images=[{"item_id": "theirs"}])
        return [commit_module.Change("images", write(store, table_of))]

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(StoreFileIO, "delete", refuse)
    commit_module.transact(store, plan, {})
    assert len(attempts) == 2
    assert len(read_rows(store, store.pin(), "images")) == 2


def write(store: Store, table_of: Any) -> Any:
    return write_rows(store, "images", table_of(store, "images", [{"item_id": "ours"}]))


def test_an_object_whose_reply_was_lost_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{tmp_path.name}/object"
    kind = type(filesystem(url))
    original, tried = kind.pipe_file, []

    def lose(fs: Any, path: str, value: bytes, **how: Any) -> None:
        original(fs, path, value, **how)
        tried.append(path)
        if len(tried) == 1:
            raise TimeoutError

    monkeypatch.setattr(kind, "pipe_file", lose)
    write_file(url, b"mine", exclusive=True)
    assert filesystem(url).cat_file(url) == b"mine"
    with pytest.raises(FileExistsError):
        write_file(url, b"other", exclusive=True)
    assert filesystem(url).cat_file(url) == b"mine"


def test_a_file_torn_by_an_error_is_never_stored(tmp_path: Path) -> None:
    io = StoreFileIO({})
    location = f"file://{tmp_path}/torn"
    with contextlib.suppress(KeyError), io.new_output(location).create() as stream:
        stream.write(b"half")
        raise KeyError
    left = io.new_output(location).create()
    left.write(b"half")
    del left
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_listings_are_not_remembered() -> None:
    """Files that other processes write meanwhile must be seen."""
    assert not filesystem("memory://x").dircache.use_listings_cache


def test_a_conflict_is_still_one(store: Store, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CommitFailedException("moved")

    monkeypatch.setattr(commit_module, "commit_transactions", refuse)
    monkeypatch.setattr(attempts_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(attempts_module, "_ATTEMPTS", 3)
    with pytest.raises(commit_module.ConflictError):
        put(store, images=[{}])
