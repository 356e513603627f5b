"""A store's life: made, opened, pinned, tagged, read back, damaged, looked after."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ferstore.errors import InputError, StoreError
from ferstore.query.session import Session
from ferstore.store.doctor import doctor
from ferstore.store.files import write_data_file, write_file
from ferstore.store.rows import read_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def files_of(store: Store, table: str) -> list[Path]:
    return [Path(f.file_path.removeprefix("file://")) for f in store.pin().data_files(table)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(store: Store, at: str | None = None) -> list[str]:
    return sorted(read_rows(store, store.pin(at), "runs")["command"].to_pylist())


def test_init_again_changes_nothing(store: Store) -> None:
    root = Path(store.url.removeprefix("file://"))
    before = tree(root)
    init_store(store.url)
    assert tree(root) == before


def test_init_finishes_what_was_cut_short_and_adds_missing_tables(store: Store) -> None:
    root = Path(store.url.removeprefix("file://"))
    (root / "ferstore.json").unlink()
    init_store(str(root))
    store.catalog.drop_table(("ferstore", "mixed_7"))
    with pytest.raises(StoreError, match=r"lacks tables .*mixed_7.*ferstore init"):
        store.pin()
    init_store(str(root))
    assert "mixed_7" in store.pin().tables


def test_a_folder_with_other_things_is_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"holds 'holiday.jpg'"):
        init_store(str(tmp_path))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ({"format": 2, "created_by": "ferstore 9"}, r"format 2 \(made by ferstore 9\).*format 1"),
        ({"format": 1}, "damaged"),
        ("nonsense", "damaged"),
    ],
)
def test_a_store_of_another_version_or_a_damaged_one_is_refused(store: Store, marker: object, message: str) -> None:
    path = Path(store.url.removeprefix("file://")) / "ferstore.json"
    path.write_text(marker if isinstance(marker, str) else json.dumps(marker))
    with pytest.raises(StoreError, match=message):
        open_store(store.url)


def test_a_moved_store_is_refused(store: Store, tmp_path: Path) -> None:
    Path(store.url.removeprefix("file://")).rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="was made at"):
        open_store(str(tmp_path / "moved"))


def test_a_store_that_is_no_folder_needs_a_catalog_and_works_with_one(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    with pytest.raises(StoreError, match="--catalog"):
        init_store(url)
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    store = init_store(url, catalog=catalog)
    record_run(store, new_run("test", {}), "done")
    assert list(Session(store, store.pin()).execute("select command from runs").rows()) == [("test",)]
    with pytest.raises(StoreError, match="keeps its catalog outside"):
        open_store(url)


@pytest.mark.parametrize("catalog", ["sqlte:///catalog.db", "postgresql://localhost:1/none"])
def test_a_mistaken_catalog_leaves_nothing(tmp_path: Path, catalog: str) -> None:
    with pytest.raises(StoreError, match="catalog"):
        init_store(str(tmp_path / "store"), catalog=catalog)
    assert not (tmp_path / "store").exists()


def test_a_path_with_spaces_quotes_and_unicode_works(tmp_path: Path) -> None:
    store = init_store(str(tmp_path / 'a b\'c "d" é #1 ?x'))
    record_run(store, new_run("it's", {}), "done")
    assert list(Session(store, store.pin()).execute("select command from runs").rows()) == [("it's",)]


def test_tags_snapshots_and_times_are_states_of_the_whole_store(store: Store) -> None:
    record_run(store, new_run("first", {}), "done")
    create_tag(store, "one")
    after_first = store.pin().snapshots["runs"]
    record_run(store, new_run("second", {}), "done")
    assert commands(store) == ["first", "second"]
    assert commands(store, "one") == ["first"]
    assert commands(store, str(after_first)) == ["first"]
    assert commands(store, datetime.now(UTC).isoformat()) == ["first", "second"]
    assert commands(store, "2020-01-01") == []
    with pytest.raises(InputError, match=r"no tag, snapshot id or time; allowed: a tag \(one\)"):
        store.pin("two")
    with pytest.raises(InputError, match="never moves"):
        create_tag(store, "one")


@pytest.mark.parametrize("name", ["", "main", "2026-11-23", "a/b", "a'b", "x" * 101])
def test_impossible_tag_names_are_refused(store: Store, name: str) -> None:
    record_run(store, new_run("first", {}), "done")
    with pytest.raises(InputError, match="tag name"):
        create_tag(store, name)


def test_verify_names_a_file_with_one_flipped_byte_a_short_one_and_a_missing_one(store: Store) -> None:
    for command in ("a", "b", "c"):
        record_run(store, new_run(command, {}), "done")
    assert verify(store).sound
    root = Path(store.url.removeprefix("file://"))
    # replace_rows leaves the files of older snapshots, which count too
    flipped, short, missing = sorted((root / "tables" / "runs" / "data").glob("*.parquet"))[:3]
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    short.write_bytes(short.read_bytes()[:-1])
    missing.unlink()
    report = verify(store)
    assert not report.sound
    assert {Path(url.removeprefix("file://")): problem.split()[0] for url, problem in report.damaged} == {
        flipped: "has",
        short: "has",
        missing: "missing",
    }


def test_verify_finds_a_key_that_is_there_twice(store: Store) -> None:
    from ferstore.store.commit import Change, transact

    record_run(store, new_run("a", {}), "done")
    (file,) = files_of(store, "runs")
    copy = write_data_file(store.data_folder("runs"), "again", file.read_bytes(), 1)
    transact(store, lambda pin: [Change("runs", (copy,))], {})
    assert verify(store).repeated == {"runs": 1}


def test_doctor_names_leftovers_and_killed_runs_and_no_query_sees_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {finding.state for finding in doctor(store)} == {"ok"}
    record_run(store, new_run("a", {}), "done")
    (file,) = files_of(store, "runs")
    write_data_file(store.data_folder("runs"), "orphan", file.read_bytes(), 1)
    killed = new_run("extract", {})
    record_run(store, killed, "running")
    states = {finding.check: finding for finding in doctor(store)}
    assert states["orphans"].state == "warn"
    assert states["runs"].state == "ok"  # this process is alive
    assert commands(store) == ["a", "extract"]
    monkeypatch.setattr("os.kill", _no_such_process)
    (found,) = [finding for finding in doctor(store) if finding.check == "runs"]
    assert found.state == "warn"
    assert killed.run_id in found.detail


def _no_such_process(*_: object) -> None:
    raise ProcessLookupError


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "file"
    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_file(str(target), b"data")
    assert list(tmp_path.iterdir()) == []


def test_exclusive_writing_never_replaces(tmp_path: Path) -> None:
    write_file(str(tmp_path / "file"), b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(str(tmp_path / "file"), b"second", exclusive=True)
    assert (tmp_path / "file").read_bytes() == b"first"
