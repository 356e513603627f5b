"""Verify names every file that is not what was committed; doctor says what is amiss and touches nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferstore.errors import CorruptionError
from ferstore.store import doctor as doctor_module
from ferstore.store import exclusive
from ferstore.store.commit import Change, transact
from ferstore.store.doctor import Finding, doctor
from ferstore.store.exclusive import decided_by_server
from ferstore.store.files import StoredFile, recorded_digest, write_file
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, write_rows
from ferstore.store.store import Store, init_store
from ferstore.store.verify import VerifyReport, verify
from ferstore.store.writer import encode

Put = Callable[..., Pin]
TableOf = Callable[..., Any]
VECTOR = np.arange(2048, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return init_store(str(tmp_path_factory.mktemp("verify") / "store"))


@pytest.fixture
def filled(made: Store, put: Put) -> Iterator[Store]:
    """Two files of images (one of an older snapshot only), one of pool_3 and of runs; mended after the test."""
    if not made.pin().data_files("images"):
        put(made, images=[{"item_id": "a"}], pool_3=[{"image_id": "a", "pool_3": VECTOR}])
        put(made, images=[{"item_id": "a", "label": "sad"}], runs=[{"run_id": "r", "state": "done"}])
    before = everything(made)
    yield made
    for path in everything(made).keys() - before.keys():
        path.unlink()
    for path, (_, data) in before.items():
        if path.is_dir():
            path.rmdir()
        path.write_bytes(data)


def path_of(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def everything(store: Store) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path_of(store.url).rglob("*") if p.is_file()}


def file_of(store: Store, table: str) -> Path:
    (found,) = store.pin().data_files(table)
    return path_of(found.file_path)


def old_file(store: Store) -> Path:
    (found,) = {*(path_of(store.url) / "tables/images/data").iterdir()} - {file_of(store, "images")}
    return found


def damage(report: VerifyReport) -> dict[Path, str]:
    return {path_of(url): problem for url, problem in report.damaged}


def test_a_sound_store_is_counted_whole_and_left_as_it_is(filled: Store) -> None:
    before = everything(filled)
    report, findings = verify(filled), doctor(filled)
    sizes = [file.stat().st_size for file in (path_of(filled.url) / "tables").glob("*/data/*")]
    assert (report.sound, report.damaged, report.repeated, report.undigested) == (True, (), {}, 0)
    assert (report.files, report.nbytes) == (len(sizes), sum(sizes))
    assert len(sizes) == 4
    assert {table: rows for table, rows in report.rows.items() if rows} == {"images": 1, "pool_3": 1, "runs": 1}
    assert report.rows.keys() == filled.schemas.keys()
    assert states(findings) == dict.fromkeys(("reachable", "tables", "atomic", "orphans", "runs", "erasures"), "ok")
    assert filled.url in findings[0].detail
    assert everything(filled) == before


def test_one_flipped_bit_anywhere_in_a_file_is_named_with_the_digest_it_has_now(filled: Store) -> None:
    file = file_of(filled, "pool_3")
    data = file.read_bytes()
    chance = random.Random(0)
    for place in (0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(6))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
        report = verify(filled)
        assert damage(report) == {file: f"has digest {hashlib.sha256(flipped).hexdigest()}"}
        assert not report.sound
        assert "pool_3" not in report.rows  # what cannot be trusted is not counted
        assert report.rows["images"] == 1


def test_each_damaged_file_is_named_with_its_own_fault(filled: Store) -> None:
    short, gone, long, folder = (*(file_of(filled, name) for name in ("images", "pool_3", "runs")), old_file(filled))
    sizes = {file: file.stat().st_size for file in (short, long)}
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    long.write_bytes(long.read_bytes() + b"\0")
    folder.unlink()
    folder.mkdir()
    assert damage(verify(filled)) == {
        short: f"has {sizes[short] - 1} bytes, the manifest says {sizes[short]}",
        gone: "missing",
        long: f"has {sizes[long] + 1} bytes, the manifest says {sizes[long]}",
        folder: f"cannot be read: {os.strerror(errno.EISDIR)}",
    }


def test_a_damaged_file_of_an_older_snapshot_is_named_and_spoils_no_count_of_now(filled: Store) -> None:
    old = old_file(filled)
    old.write_bytes(old.read_bytes().swapcase())
    report = verify(filled)
    assert (damage(report).keys(), report.rows["images"], report.sound) == ({old}, 1, False)


def add_again(store: Store, table_of: TableOf, table: str, *rows: dict[str, Any]) -> None:
    """A file beside those there are, as a second writer without our guard would add it."""
    files = write_rows(store, table, table_of(store, table, rows))
    transact(store, lambda pin: [Change(table, files)], {})


def test_rows_beyond_the_first_of_a_key_are_counted_by_table(store: Store, put: Put, table_of: TableOf) -> None:
    put(store, images=[{"item_id": item} for item in "abc"], quarantine=[{"extractor_id": None, "error": "e"}])
    add_again(store, table_of, "images", {"item_id": "a"}, {"item_id": "b", "label": "sad"}, {"item_id": "d"})
    add_again(store, table_of, "images", {"item_id": "a"}, {"dataset": "other", "item_id": "a"})
    add_again(store, table_of, "quarantine", {"extractor_id": None, "error": "other"}, {"extractor_id": "e"})
    report = verify(store)
    assert report.repeated == {"images": 3, "quarantine": 1}  # null is a key of its own
    assert (report.rows["images"], report.rows["quarantine"]) == (8, 3)
    assert (report.sound, report.damaged) == (False, ())


def test_one_image_under_two_extractors_or_views_is_no_repetition(store: Store, table_of: TableOf) -> None:
    for extractor, view in (("e", "identity"), ("e", "hflip"), ("other", "identity")):
        row = {"image_id": "a", "extractor_id": extractor, "view": view, "pool_3": VECTOR}
        add_again(store, table_of, "pool_3", row)
    assert verify(store).sound
    add_again(store, table_of, "pool_3", {**row, "norm": 1.0, "pool_3": VECTOR * 2})
    assert verify(store).repeated == {"pool_3": 1}


def test_a_file_without_a_digest_in_its_name_is_checked_by_size_and_counted(store: Store, table_of: TableOf) -> None:
    data = encode(store.schemas["images"], table_of(store, "images", [{"item_id": "z"}]))
    url = f"{store.data_folder('images')}/part-00000.parquet"
    write_file(url, data)
    transact(store, lambda pin: [Change("images", (StoredFile(url, "", len(data), 1),))], {})
    assert recorded_digest(url) is None
    report = verify(store)
    assert (report.sound, report.undigested, report.rows["images"]) == (True, 1, 1)
    path_of(url).write_bytes(data[:-1])
    assert damage(verify(store)).keys() == {path_of(url)}


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def said(store: Store, check: str) -> list[tuple[str, str]]:
    return [(finding.state, finding.detail) for finding in doctor(store) if finding.check == check]


def test_orphans_are_counted_with_their_bytes_and_left_alone(filled: Store, table_of: TableOf) -> None:
    write_rows(filled, "images", table_of(filled, "images", [{"item_id": "of a killed run"}]))
    (path_of(filled.url) / "tables/images/data/.rows.x.partial").write_bytes(b"0" * 3_400_000)
    write_file(f"{filled.data_folder('mixed_10')}/shard.parquet", b"1" * 100_000)
    before = everything(filled)
    ((state, detail),) = said(filled, "orphans")
    assert state == "warn"
    assert detail.startswith("3 files (3.5 MB) in no snapshot")
    assert everything(filled) == before
    assert verify(filled).sound  # no fault of the store
    assert len(read_rows(filled, filled.pin(), "images")) == 1


BEGAN = datetime(2026, 11, 20, tzinfo=UTC)
RUN = {"state": "running", "command": "extract", "host": socket.gethostname(), "started_at": BEGAN}


def test_runs_whose_process_is_gone_are_named_and_the_others_counted(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, object]] = []

    def alive(host: str, pid: int, started_at: object) -> bool:
        asked.append((host, pid, started_at))
        return pid < 10

    monkeypatch.setattr(doctor_module, "alive", alive)
    dead = [{**RUN, "run_id": "dead-1", "pid": 10}, {**RUN, "run_id": "dead-2", "pid": 13, "command": "train"}]
    put(store, runs=dead[:1])
    assert [state for state, _ in said(store, "runs")] == ["warn"]
    at_work = [{**RUN, "run_id": "mine", "pid": 1}, {**RUN, "run_id": "theirs", "pid": 2}]
    far = {**RUN, "run_id": "far", "pid": 3, "host": "another-machine"}
    ended = [{**RUN, "run_id": state, "pid": 12, "state": state} for state in ("done", "failed", "stopped")]
    put(store, runs=[*dead[1:], *at_work, far, *ended])
    assert sorted(said(store, "runs")) == [
        ("ok", "3 at work (here, or on another machine)"),
        ("warn", "extract dead-1 was killed; run the same command again, it continues"),
        ("warn", "train dead-2 was killed; run the same command again, it continues"),
    ]
    here = socket.gethostname()
    assert {(host, pid) for host, pid, _ in asked} == {(here, 1), (here, 2), (here, 10), (here, 13), (far["host"], 3)}
    assert {started_at for _, _, started_at in asked} == {BEGAN}


def test_a_place_where_a_file_can_be_made_twice_fails_and_keeps_no_probe(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(filled)
    monkeypatch.setattr(exclusive, "write_file", lambda url, data, exclusive: path_of(url).write_bytes(data))
    ((state, detail),) = said(filled, "atomic")
    assert (state, "name another store" in detail) == ("fail", True)
    assert everything(filled) == before


def test_a_table_with_other_columns_than_declared_fails_by_name(filled: Store) -> None:
    with filled.catalog.load_table("ferstore.runs").update_schema() as update:
        update.rename_column("host", "machine")
    ((state, detail),) = said(filled, "tables")
    assert (state, detail.split(";")[0]) == ("fail", "differ from schemas/: runs")


def test_a_lost_manifest_fails_its_check_and_not_the_others(filled: Store) -> None:
    lost = {*(path_of(filled.url) / "tables/images/metadata").glob("*-m0.avro")}
    for manifest in lost:
        manifest.unlink()
    findings = doctor(filled)
    fine = dict.fromkeys(("reachable", "tables", "atomic", "runs", "erasures"), "ok")
    assert states(findings) == {**fine, "orphans": "fail"}
    report = verify(filled)
    assert damage(report) == dict.fromkeys(lost, "missing")
    assert "images" not in report.rows
    assert report.rows["pool_3"] == 1
    with pytest.raises(CorruptionError, match=r"table 'images' cannot be read.*backup"):
        filled.pin().data_files("images")


def test_a_description_worded_better_since_is_no_other_table(store: Store) -> None:
    images = store.schemas["images"]
    columns = tuple(replace(column, description="in better words") for column in images.columns)
    later = replace(store, schemas={**store.schemas, "images": replace(images, columns=columns)})
    assert [finding.state for finding in doctor(later) if finding.check == "tables"] == ["ok"]


def test_a_driver_of_which_nothing_is_known_is_warned_of() -> None:
    """It may look first and write then, which one writer that makes a file twice does not notice."""
    assert all(decided_by_server(f"{scheme}://bucket/x") for scheme in ("s3", "gs", "az", "abfs", "file", "memory"))
    assert not decided_by_server("sftp://host/x")
