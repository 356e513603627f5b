"""Iceberg's metadata under a digest: what readers of the formats see is unchanged, and what is damaged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pyiceberg.io.fsspec import FsspecFileIO
from pyiceberg.manifest import read_manifest_list

from ferstore.errors import CorruptionError
from ferstore.store import files
from ferstore.store import seal as module
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.seal import check_seal, seal
from ferstore.store.store import Store, init_store
from ferstore.store.verify import verify


@pytest.fixture
def store(tmp_path: Path, put: Callable[..., Pin]) -> Store:
    made = init_store(str(tmp_path / "store"))
    for number in range(3):
        put(made, runs=[{"run_id": str(number)}])
    return made


def metadata(store: Store) -> list[Path]:
    root = Path(store.url.removeprefix("file://"))
    return sorted(path for path in root.rglob("metadata/*") if path.suffix in (".json", ".avro"))


def test_sealed_files_are_what_pyiceberg_reads_on_its_own(store: Store) -> None:
    table = store.pin().tables["runs"]
    plain = FsspecFileIO({})
    listed = [
        entry.data_file.file_path
        for manifest in read_manifest_list(plain.new_input(table.metadata.snapshots[-1].manifest_list))
        for entry in manifest.fetch_manifest_entry(plain)
    ]
    assert sorted(listed) == sorted(file.file_path for file in store.pin().data_files("runs"))
    assert "ferstore-sha256" in json.loads(plain.new_input(table.metadata_location).open().read())


def test_every_metadata_file_of_a_store_is_sealed(store: Store) -> None:
    for path in metadata(store):
        data = path.read_bytes()
        assert seal(str(path), data) != data or path.suffix == ".avro"
        assert b"ferst" in data
        check_seal(str(path), data)
        for bad in (data[:-1], data + b"x", data[:50] + b"\xff" + data[51:]):
            with pytest.raises(CorruptionError, match=f"metadata {path} cannot be read.*backup"):
                check_seal(str(path), bad)


def test_a_store_from_before_there_were_seals_is_read(
    tmp_path: Path, put: Callable[..., Pin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "seal", lambda location, data: data)
    old = init_store(str(tmp_path / "old"))
    put(old, runs=[{"run_id": "a"}])
    assert not any(module._MARK in path.read_bytes() or module._KEY in path.read_bytes() for path in metadata(old))
    monkeypatch.undo()
    put(old, runs=[{"run_id": "b"}])
    assert sorted(read_rows(old, old.pin(), "runs")["run_id"].to_pylist()) == ["a", "b"]
    assert verify(old).sound


def test_an_unsealed_file_that_was_cut_is_refused(
    tmp_path: Path, put: Callable[..., Pin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut after the header would read as a manifest of no files."""
    monkeypatch.setattr(files, "seal", lambda location, data: data)
    old = init_store(str(tmp_path / "old"))
    put(old, runs=[{"run_id": "a"}])
    for path in (path for path in metadata(old) if path.parts[-3] == "runs"):
        data = path.read_bytes()
        check_seal(str(path), data)
        header = data.find(data[-16:]) + 16
        for length in range(len(data)):
            if path.suffix != ".avro" or length != header:
                with pytest.raises(CorruptionError):
                    check_seal(str(path), data[:length])


@pytest.mark.parametrize("name", ["x.parquet", "x.avro.txt", "ferstore.json"])
def test_other_files_are_left_as_they_are(name: str) -> None:
    assert seal(name, b"{}") == b"{}"
    check_seal(name, b"whatever")


@pytest.mark.parametrize("data", [b"", b"Obj\x01", b"Obj\x01" + b"\xff" * 20, b"{}", bytes(64)])
def test_what_is_no_avro_file_is_refused_and_not_walked_for_ever(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        check_seal("x.avro", data)
