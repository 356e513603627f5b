"""Files on S3: made once, written in parts, tried again; what a query may read of it. The server is moto.

`tests/support/s3.py` says what moto does not prove.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import fsspec
import pytest
import s3 as s3_server
from drawn import picture, sql
from s3 import Kind, Request, Server, lasting, objects, once

from ferstore.errors import QueryError, StoreError, UnavailableError
from ferstore.image.fetch import Fetcher
from ferstore.query.engine import lock
from ferstore.query.limits import Limits
from ferstore.query.session import Session
from ferstore.store import reach
from ferstore.store.doctor import doctor
from ferstore.store.files import file_digest, write_data_file, write_file
from ferstore.store.store import Store, init_store, open_store

MIB = 1 << 20


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """ferstore's own waits between tries are left out, and botocore tries once."""
    monkeypatch.setattr(reach, "pause", lambda *_: None)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def made(bucket: str, tmp_path: Path) -> Store:
    return init_store(f"{bucket}/store", catalog=f"sqlite:///{tmp_path}/catalog.db")


def puts(request: Request) -> bool:
    return request.method == "PUT"


def ends_parts(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


# Conditional creation


def test_an_object_is_made_once(s3: Server, bucket: str) -> None:
    with s3.watch() as requests:
        write_file(f"{bucket}/a", b"first", exclusive=True)
    assert [(request.method, request.conditional) for request in requests] == [("PUT", True)]  # nothing looks first
    write_file(f"{bucket}/a", b"first", exclusive=True)  # a try whose answer was lost
    with pytest.raises(FileExistsError):
        write_file(f"{bucket}/a", b"second", exclusive=True)
    assert objects(bucket) == {"/a": b"first"}


def test_one_of_many_writers_makes_it(s3: Server, bucket: str) -> None:
    """All have asked before any is answered; a driver that looks first would let several through."""
    ready = threading.Barrier(6)

    def make(number: int) -> bool:
        ready.wait(20)
        try:
            write_file(f"{bucket}/a", b"%d" % number, exclusive=True)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(make, range(6)))
    assert made.count(True) == 1
    assert objects(bucket) == {"/a": b"%d" % made.index(True)}


@pytest.mark.parametrize("kind", [Kind.BROKEN, Kind.LOST, Kind.CONFLICT, Kind.RESET, Kind.BUSY], ids=str)
def test_what_passes_is_tried_again_and_makes_it_once(s3: Server, bucket: str, hurried: None, kind: Kind) -> None:
    with s3.watch(once(kind, 1, puts)) as requests:
        write_file(f"{bucket}/a", b"mine", exclusive=True)
    assert sum(map(puts, requests)) == 2
    assert objects(bucket) == {"/a": b"mine"}


def test_a_412_that_names_no_condition_is_one_too(s3: Server, bucket: str, hurried: None) -> None:
    """As MinIO answers; s3fs makes an error of it that has no type of its own."""
    write_file(f"{bucket}/a", b"theirs")
    with s3.watch(lasting(Kind.TAKEN, 1, puts)), pytest.raises(FileExistsError):
        write_file(f"{bucket}/a", b"mine", exclusive=True)
    assert objects(bucket) == {"/a": b"theirs"}


def test_a_store_that_ignores_conditions_is_refused_and_left_as_it_was(
    s3: Server, bucket: str, tmp_path: Path, made: Store
) -> None:
    with mock.patch.object(s3, "ignores_conditions", True):
        with pytest.raises(StoreError, match="ignores conditional writes") as refused:
            init_store(f"{bucket}/other", catalog=f"sqlite:///{tmp_path}/other.db")
        assert "If-None-Match" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not objects(f"{bucket}/other")
        assert not (tmp_path / "other.db").exists()
        found = {finding.check: finding for finding in doctor(made)}
        assert found["atomic"].state == "fail"
        assert "ignores conditional writes" in found["atomic"].detail
    assert {finding.check: finding.state for finding in doctor(made)}["atomic"] == "ok"
    assert not [key for key in objects(made.url) if "probe" in key]


def test_a_bucket_that_is_not_there_is_not_made(s3: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot make a store at s3://no-such-bucket/store"):
        init_store("s3://no-such-bucket/store", catalog=f"sqlite:///{tmp_path}/catalog.db")
    assert not fsspec.filesystem("s3").exists("no-such-bucket")


# Configuration


def test_fsspecs_configuration_reaches_metadata_and_data(
    s3: Server, bucket: str, tmp_path: Path, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from ``FSSPEC_S3_…`` or its files; boto's variables lead nowhere. PyIceberg has a driver with its own."""
    given = {"key": "of-fsspec", "secret": "not-a-secret-of-anyone", "client_kwargs": {"endpoint_url": s3.url}}
    monkeypatch.setitem(fsspec.config.conf, "s3", given)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = init_store(f"{bucket}/store", catalog=f"sqlite:///{tmp_path}/catalog.db")
    put(store, images=[{"item_id": "a"}])
    assert sql(store, "select item_id from images") == [("a",)]


# Requests


def test_a_state_is_read_with_one_request_a_table(s3: Server, made: Store) -> None:
    with s3.watch() as requests:
        made.pin()
    assert [request.method for request in requests] == ["GET"] * len(made.schemas)


# Retries


def test_a_store_that_stays_busy_is_asked_a_bounded_number_of_times(s3: Server, bucket: str, hurried: None) -> None:
    with s3.watch(lasting(Kind.BUSY, 1, puts)) as requests, pytest.raises(OSError, match="reduce your request rate"):
        write_file(f"{bucket}/a", b"mine")
    assert sum(map(puts, requests)) == 10  # five of ours, and of each of them two of s3fs's
    assert not objects(bucket)


def test_a_token_that_has_expired_is_told_at_once(s3: Server, bucket: str, hurried: None) -> None:
    with (
        s3.watch(lasting(Kind.EXPIRED, 1, puts)) as requests,
        pytest.raises(PermissionError, match="token has expired"),
    ):
        write_file(f"{bucket}/a", b"mine")
    assert sum(map(puts, requests)) == 1


def test_a_server_that_is_away_is_told_in_one_line(
    made: Store, hurried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's error for that is no OSError."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UnavailableError, match="EndpointConnectionError") as told:
        made.pin()
    assert "\n" not in str(told.value)
    with pytest.raises(StoreError, match=f"cannot read {made.url}"):
        open_store(made.url, catalog=f"sqlite:///{tmp_path}/catalog.db")


def test_without_credentials_it_is_said_in_one_line(
    made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match=r"cannot read s3://.*NoCredentialsError"):
        open_store(made.url, catalog=f"sqlite:///{tmp_path}/catalog.db")


def test_a_picture_is_read_again_after_what_passes(s3: Server, bucket: str, hurried: None) -> None:
    write_file(f"{bucket}/a.png", picture(1))
    for kind in (Kind.RESET, Kind.BUSY, Kind.BROKEN):
        with s3.watch(once(kind, 1, lambda request: request.method == "GET")), Fetcher() as fetcher:
            assert fetcher.read(f"{bucket}/a.png") == picture(1)


# Large objects


@pytest.fixture(scope="module")
def large() -> bytes:
    return os.urandom(MIB) * 101  # s3fs writes parts from 100 MiB


def parts_left() -> list[Any]:
    found: list[Any] = fsspec.filesystem("s3").list_multipart_uploads(s3_server.BUCKET)
    return found


def test_a_large_file_is_written_in_parts_and_read_back(s3: Server, bucket: str, large: bytes) -> None:
    with s3.watch() as requests:
        file = write_data_file(f"{bucket}/data", "rows", large, 1)
    assert sorted(request.nbytes // MIB for request in requests if puts(request)) == [1, 50, 50]
    assert file_digest(file.url) == (hashlib.sha256(large).hexdigest(), len(large))


def test_a_condition_holds_for_an_object_in_parts(s3: Server, bucket: str, large: bytes) -> None:
    write_file(f"{bucket}/a", b"theirs")
    with s3.watch() as requests, pytest.raises(FileExistsError):
        write_file(f"{bucket}/a", large, exclusive=True)
    assert [request.conditional for request in requests if ends_parts(request)] == [True]
    assert objects(bucket) == {"/a": b"theirs"}
    assert not parts_left()


def test_parts_are_no_object_until_all_are_there(s3: Server, bucket: str, large: bytes, hurried: None) -> None:
    """One part cannot be written: nothing is seen, and nothing stays."""
    part = lasting(Kind.EXPIRED, 1, lambda request: "partNumber=2" in request.path)
    with s3.watch(part) as requests, pytest.raises(UnavailableError, match="token has expired"):
        write_data_file(f"{bucket}/data", "rows", large, 1)
    assert any(request.method == "DELETE" and "uploadId" in request.path for request in requests)
    assert not objects(bucket)
    assert not parts_left()


# Queries


@pytest.fixture
def foreign(bucket: str) -> str:
    """A key beside the store."""
    write_file(f"{bucket}/secret.csv", b"a\n1\n")
    return f"{bucket}/secret.csv"


def test_a_query_reads_the_store_from_a_process_of_its_own(made: Store, put: Any, foreign: str) -> None:
    put(made, images=[{"item_id": "a", "dataset": "d"}, {"item_id": "b", "dataset": "d"}])
    limits = Limits(seconds=60)
    with Session(made, made.pin(), limits).execute("select count(*) from images") as cursor:
        assert list(cursor.rows()) == [(2,)]
    for query in (f"from read_csv('{foreign}')", f"select * from '{foreign}'", f"from glob('{made.url}/**')"):
        with pytest.raises(QueryError):
            Session(made, made.pin(), limits).execute(query)


def test_the_connection_itself_reaches_no_other_key(made: Store, put: Any, foreign: str) -> None:
    """Behind the parser that refuses such statements."""
    put(made, images=[{"item_id": "a"}])
    job = Session(made, made.pin())._job("select * from images")
    theirs = f"{made.url}/ferstore.json"
    with duckdb.connect() as connection:
        lock(connection, job, frozenset(), fsspec.filesystem("s3"))
        assert connection.sql("select item_id from images").fetchall() == [("a",)]
        for query in (
            f"from read_csv('{foreign}')",
            f"from read_text('{theirs}')",
            f"from read_text('{foreign.replace('s3://', 's3a://')}')",
            f"from glob('{made.url}/*')",
            f"copy (select 1) to '{made.url}/mine.csv'",
            "from read_text('/etc/hostname')",
            "load httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.sql(query).fetchall()


# Processes


def _write_after_fork(url: str) -> None:
    write_file(url, b"child", exclusive=True)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_writes_through_connections_of_its_own(bucket: str) -> None:
    """As after ``os.fork`` in a library: fsspec's event loop does not live on in the child."""
    write_file(f"{bucket}/parent", b"parent")
    child = os.fork()
    if not child:
        try:
            _write_after_fork(f"{bucket}/child")
        finally:
            os._exit(0 if fsspec.filesystem("s3").exists(f"{bucket}/child") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert objects(bucket) == {"/parent": b"parent", "/child": b"child"}


def test_threads_write_at_once(s3: Server, bucket: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: write_file(f"{bucket}/{n}", b"%d" % n), range(32)))
    assert objects(bucket) == {f"/{n}": b"%d" % n for n in range(32)}
