"""Files appear whole, under a name that holds their digest."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from ferstore.errors import StoreError
from ferstore.store import files
from ferstore.store.files import (
    StoreFileIO,
    file_digest,
    filesystem,
    local_path,
    normalise,
    recorded_digest,
    write_data_file,
    write_file,
)


@pytest.fixture(params=["file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/f" if request.param == "file" else f"memory://{uuid.uuid4().hex}/f"


def read(url: str) -> bytes:
    data: bytes = filesystem(url).cat_file(url)
    return data


def test_a_file_is_read_back_and_replaced(folder: str) -> None:
    write_file(f"{folder}/a b", b"first")
    write_file(f"{folder}/a b", b"second")
    assert read(f"{folder}/a b") == b"second"


def test_an_exclusive_file_is_not_replaced(folder: str) -> None:
    write_file(f"{folder}/a", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(f"{folder}/a", b"second", exclusive=True)
    assert read(f"{folder}/a") == b"first"


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_crash_before_the_name_is_given_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    target = tmp_path / "file"
    if not exclusive:
        target.write_bytes(b"old")

    def crash(*_: object, **__: object) -> None:
        raise OSError("power is gone")

    monkeypatch.setattr(Path, "replace", crash)
    monkeypatch.setattr(os, "link", crash)
    with pytest.raises(OSError, match="power is gone"):
        write_file(str(target), b"new", exclusive=exclusive)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if exclusive else {"file": b"old"})


def test_bytes_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(target.exists()))
    write_file(str(target), b"data")
    assert seen == [False, True]  # the file, then the folder that names it


def test_a_data_file_is_named_by_its_digest(folder: str) -> None:
    stored = write_data_file(folder, "rows", b"bytes", 3)
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert re.fullmatch(rf"{re.escape(folder)}/rows-[0-9a-f]{{8}}-{digest}\.parquet", stored.url)
    assert (stored.sha256, stored.nbytes, stored.rows) == (digest, 5, 3)
    assert recorded_digest(stored.url) == digest
    assert file_digest(stored.url) == (digest, 5)


def test_no_name_of_a_data_file_is_used_twice(folder: str) -> None:
    """A vacuum that removes the first must not remove what another writer has just written again."""
    assert write_data_file(folder, "rows", b"bytes", 1).url != write_data_file(folder, "rows", b"bytes", 1).url
    assert len(filesystem(folder).ls(folder)) == 2


def test_another_engines_file_has_no_recorded_digest() -> None:
    assert recorded_digest("file:///t/data/00000-0-abc.parquet") is None


def test_a_digest_of_many_pieces_is_that_of_the_whole(folder: str) -> None:
    data = os.urandom(9 << 20)
    write_file(f"{folder}/big", data)
    assert file_digest(f"{folder}/big") == (hashlib.sha256(data).hexdigest(), 9 << 20)


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").touch()
    assert list(files.files_below(str(tmp_path))) == [str(tmp_path / "inner" / "file")]
    assert files.files_below(str(tmp_path / "none")) == {}
    original = LocalFileSystem.ls

    def ls(fs: LocalFileSystem, path: str, **options: Any) -> Any:
        if path.endswith("inner"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(fs, path, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    with pytest.raises(PermissionError):
        files.files_below(str(tmp_path))


def test_a_missing_file_has_no_digest(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        file_digest(f"{folder}/nothing")


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "nosuch+sub://x"])
def test_an_unknown_protocol_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"cannot use nosuch.*pip install"):
        filesystem(url)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/a/b/", "file:///a/b"),
        ("file:///a/b/", "file:///a/b"),
        ("/a/../b", "file:///b"),
        ("s3://bucket/p/", "s3://bucket/p"),
        ("/a b/ü#?%20", "file:///a b/ü#?%20"),
    ],
)
def test_a_url_has_one_spelling(given: str, meant: str) -> None:
    assert normalise(given) == meant


def test_only_local_urls_have_a_path() -> None:
    assert local_path("file:///a/b") == Path("/a/b")
    assert local_path("/a/b") == Path("/a/b")
    assert local_path("s3://a/b") is None


def test_metadata_appears_on_close_and_is_never_replaced(folder: str) -> None:
    io = StoreFileIO({})
    stream = io.new_output(f"{folder}/m.json").create()
    stream.write(b"{}")
    assert not filesystem(folder).exists(f"{folder}/m.json")
    stream.close()
    stream.close()
    assert io.new_input(f"{folder}/m.json").open().read() == b"{}"
    second = io.new_output(f"{folder}/m.json").create()
    second.write(b"other")
    with pytest.raises(FileExistsError):
        second.close()
    assert read(f"{folder}/m.json") == b"{}"


def test_metadata_goes_through_the_durable_writer(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(files, "write_file", lambda url, data, exclusive: written.append((url, data, exclusive)))
    with StoreFileIO({}).new_output(f"{folder}/m").create() as stream:
        stream.write(b"x")
    assert written == [(f"{folder}/m", b"x", True)]
