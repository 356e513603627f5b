"""Ingest keeps an account that adds up: what is listed is a row, a quarantined item or a declared duplicate."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from drawn import flat_picture, noise_files, picture, sql, tree_digest, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from ferstore.errors import InputError, SourceError, UnavailableError
from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import IngestReport, default_name, ingest
from ferstore.store import commit as commit_module
from ferstore.store.catalog import commit_transactions
from ferstore.store.store import Store, init_store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def one_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reader and its decoding process: the start of each takes longer than a test's pictures."""
    monkeypatch.setattr(ingest_module, "_READERS", 1)


def register(store: Store, folder: Path, **options: Any) -> IngestReport:
    report = ingest(store, "folder", str(folder), name="set", **options)
    adds_up(report)
    return report


def adds_up(report: IngestReport) -> None:
    parts = (report.added, report.changed, report.unchanged, report.quarantined, report.duplicates)
    assert report.listed == sum(parts)


def account(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.quarantined


def rows(store: Store, columns: str = "item_id, label") -> list[tuple[object, ...]]:
    return sql(store, f"select {columns} from images where dataset = 'set' order by item_id")


def test_a_row_says_what_the_file_is_and_where(store: Store, tmp_path: Path) -> None:
    data = picture(1, size=20)
    folder = write(tmp_path / "faces", {"happy/a.png": data})
    register(store, folder)
    assert rows(store, "item_id, label, image_id, source_url, width, height, mode, subject, votes") == [
        (
            "happy/a.png",
            "happy",
            hashlib.sha256(data).hexdigest(),
            f"file://{folder}/happy/a.png",
            20,
            20,
            "L",
            None,
            None,
        )
    ]


def test_doing_it_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", {**noise_files(4), "sad/broken.png": b"no picture", "notes.txt": b"x"})
    first = register(store, folder)
    assert account(first) == (4, 0, 0, 1)
    assert first.ignored == ("notes.txt",)
    before = tree_digest(tmp_path / "store")
    again = register(store, folder)
    assert account(again) == (0, 0, 4, 1)
    assert again.run_id is None
    assert tree_digest(tmp_path / "store") == before


def test_a_dry_run_says_what_would_be_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", {**noise_files(2), "sad/broken.png": b"no picture"})
    before = tree_digest(tmp_path / "store")
    report = register(store, folder, dry_run=True)
    assert account(report) == (2, 0, 0, 1)
    assert report.run_id is None
    assert tree_digest(tmp_path / "store") == before
    assert account(register(store, folder)) == (2, 0, 0, 1)


def test_a_set_that_grew_adds_what_is_new_and_says_what_is_gone(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", noise_files(3))
    register(store, folder)
    (folder / "sad/00000.png").unlink()
    write(folder, noise_files(2, first=3))
    report = register(store, folder)
    assert account(report) == (2, 0, 2, 0)
    assert report.no_longer_listed == 1
    assert len(rows(store)) == 5


def test_a_changed_label_is_an_update_and_the_old_one_is_in_the_older_snapshot(store: Store, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    write(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    table.write_text("url,label\na.png,happy\nb.png,sad\n")
    register(store, table)
    old = str(store.pin().snapshots["images"])
    table.write_text("url,label\na.png,angry\nb.png,sad\n")
    assert account(register(store, table)) == (0, 1, 1, 0)
    assert rows(store) == [("a.png", "angry"), ("b.png", "sad")]
    from ferstore.query.session import Session

    with Session(store, store.pin(old)).execute("select label from images order by item_id") as cursor:
        assert list(cursor.rows()) == [("happy",), ("sad",)]


def test_changed_bytes_are_an_update_to_another_image(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", noise_files(2))
    register(store, folder)
    data = picture(99)
    write(folder, {"sad/00000.png": data})
    assert account(register(store, folder)) == (0, 1, 1, 0)
    assert rows(store, "image_id")[1] == (hashlib.sha256(data).hexdigest(),)
    assert len(rows(store)) == 2


def test_a_broken_file_is_quarantined_with_its_reason_and_healed_when_it_is_mended(
    store: Store, tmp_path: Path
) -> None:
    folder = write(tmp_path / "faces", {"sad/a.png": b"no picture", "sad/b.png": b"", "sad/c.png": picture(1)})
    report = register(store, folder)
    assert account(report) == (1, 0, 0, 2)
    assert [item for item, _ in report.errors] == ["sad/a.png", "sad/b.png"]
    held = "select item, stage, dataset, image_id is not null, attempts, error from quarantine order by item"
    assert [row[:5] for row in sql(store, held)] == [
        ("sad/a.png", "ingest", "set", True, 1),
        ("sad/b.png", "ingest", "set", True, 1),
    ]
    assert "empty" in str(sql(store, held)[1][5])
    write(folder, {"sad/a.png": picture(2)})
    assert account(register(store, folder)) == (1, 0, 1, 1)
    assert [row[0] for row in sql(store, held)] == ["sad/b.png"]


def test_an_item_that_breaks_in_another_way_is_tried_again_and_keeps_its_first_time(
    store: Store, tmp_path: Path
) -> None:
    folder = write(tmp_path / "faces", {"sad/a.png": b"no picture", "sad/b.png": picture(1)})
    register(store, folder)
    first = sql(store, "select first_seen from quarantine")
    write(folder, {"sad/a.png": picture(2)[:60]})
    register(store, folder)
    assert sql(store, "select attempts from quarantine") == [(2,)]
    assert sql(store, "select first_seen from quarantine") == first


def test_a_picture_that_breaks_after_it_was_stored_keeps_its_row_and_is_quarantined(
    store: Store, tmp_path: Path
) -> None:
    folder = write(tmp_path / "faces", noise_files(2))
    register(store, folder)
    write(folder, {"sad/00000.png": b"no picture"})
    assert account(register(store, folder)) == (0, 0, 1, 1)
    assert len(rows(store)) == 2
    assert account(register(store, folder)) == (0, 0, 1, 1)


def test_the_same_bytes_under_two_names_are_two_items_and_one_image(store: Store, tmp_path: Path) -> None:
    data = picture(1)
    folder = write(tmp_path / "faces", {"sad/a.png": data, "happy/b.png": data, "sad/c.png": picture(2)})
    report = register(store, folder)
    assert (report.added, report.images, report.same_bytes) == (3, 2, 1)
    assert sql(store, "select count(*), count(distinct image_id) from images") == [(3, 2)]


def test_an_item_listed_twice_is_declared_and_one_that_contradicts_itself_is_quarantined(
    store: Store, tmp_path: Path
) -> None:
    write(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    table = tmp_path / "labels.csv"
    table.write_text("url,label\na.png,happy\nb.png,sad\na.png,happy\nb.png,angry\n,x\n")
    report = register(store, table)
    assert (report.listed, report.duplicates) == (5, 1)
    assert account(report) == (2, 0, 0, 2)
    assert rows(store) == [("a.png", "happy"), ("b.png", "sad")]


def test_two_sets_may_hold_the_same_items(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", noise_files(2))
    for name in ("one", "two"):
        assert ingest(store, "folder", str(folder), name=name).added == 2
    assert sql(store, "select dataset, count(*) from images group by all order by 1") == [("one", 2), ("two", 2)]


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize(("suffix", "pack"), [("zip", zipped), ("tar.gz", tarred)])
def test_an_archive_is_a_folder(store: Store, tmp_path: Path, suffix: str, pack: Any) -> None:
    (tmp_path / f"faces.{suffix}").write_bytes(pack({**noise_files(3), "sad/broken.png": b"no picture"}))
    assert account(register(store, tmp_path / f"faces.{suffix}")) == (3, 0, 0, 1)
    assert [label for _, label in rows(store)] == ["happy", "sad", "sad"]
    assert account(register(store, tmp_path / f"faces.{suffix}")) == (0, 0, 3, 1)


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_any_fsspec_url_is_a_source(store: Store, memory: Any) -> None:
    memory.pipe({f"/faces/{name}": data for name, data in noise_files(3).items()})
    report = ingest(store, "folder", "memory://faces")
    assert (report.dataset, report.added) == ("faces", 3)
    assert sql(store, "select min(source_url) from images") == [("memory://faces/happy/00001.png",)]


def test_two_ingests_at_once_store_every_item_once(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", noise_files(12))
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(lambda _: register(open_store(store.url), folder), range(2)))
    assert sum(report.added for report in reports) == 12
    assert sql(store, "select count(*), count(distinct item_id) from images") == [(12, 12)]


def test_a_commit_whose_answer_was_lost_is_told_as_it_landed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "faces", {**noise_files(3), "sad/broken.png": b"no picture"})
    lost: list[int] = []

    def commit_and_lose(*arguments: Any) -> None:
        commit_transactions(*arguments)
        if not lost:
            lost.append(1)
            raise OperationalError("update", {}, Exception("connection lost"))

    monkeypatch.setattr(commit_module, "commit_transactions", commit_and_lose)
    report = register(store, folder)
    assert account(report) == (3, 0, 0, 1)
    assert report.run_id is not None
    assert sql(store, "select count(*) from images") == [(3,)]
    assert sql(store, "select attempts from quarantine") == [(1,)]
    assert sql(store, "select counts from runs") == [
        ('{"added": 3, "changed": 0, "unchanged": 0, "quarantined": 1, "duplicates": 0}',)
    ]


def test_a_catalog_that_never_answers_is_told_and_stores_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OperationalError("update", {}, Exception("locked"))

    folder = write(tmp_path / "faces", noise_files(1))
    with monkeypatch.context() as patched:
        patched.setattr(commit_module, "commit_transactions", refuse)
        patched.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(UnavailableError):
            register(store, folder)
    assert sql(store, "select count(*) from images") == [(0,)]
    assert account(register(store, folder)) == (1, 0, 0, 0)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_an_impossible_name_is_refused_before_anything_is_read(store: Store, tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "faces", noise_files(1))
    with pytest.raises(InputError, match="allowed: 1 to 200 printable characters"):
        ingest(store, "folder", str(folder), name=name)


def test_a_place_without_images_changes_nothing(store: Store, tmp_path: Path) -> None:
    before = tree_digest(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", "empty"):
        with pytest.raises(SourceError):
            register(store, tmp_path / place)
    assert tree_digest(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("kind", "url", "name"),
    [
        ("folder", "file:///data/faces-1.2/", "faces-1.2"),
        ("folder", "s3://bucket/labels.CSV", "labels"),
        ("folder", "memory://faces", "faces"),
        ("folder", "file:///data/faces.tar.gz", "faces"),
        ("folder", "zip://inner::file:///data/faces.zip", "faces"),
        ("folder", "file:///", "folder"),
        ("jaffe", "file:///data/x", "jaffe"),
    ],
)
def test_a_set_without_a_name_is_named_after_its_kind_or_folder(kind: str, url: str, name: str) -> None:
    assert default_name(kind, url) == name


CONTENTS = {
    "good": picture(1),
    "other": flat_picture(9),
    "third": picture(3),
    "empty": b"",
    "text": b"no picture",
    "cut": picture(2)[:70],
}
folders = st.dictionaries(
    st.sampled_from([f"{c}/{n}" for c in ("happy", "sad") for n in ("a.png", "b.jpg", "c", ".hidden")] + ["d.png"]),
    st.sampled_from(sorted(CONTENTS)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(folders, min_size=1, max_size=3))
def test_whatever_a_folder_becomes_every_listed_file_is_accounted_for(
    states: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("grown")
    store = init_store(str(base / "store"))
    folder = base / "faces"
    for files in states:
        for old in folder.rglob("*") if folder.exists() else []:
            if old.is_file():
                old.unlink()
        write(folder, {name: CONTENTS[content] for name, content in files.items()})
        visible = {name: content for name, content in files.items() if "/." not in name}
        if not visible:
            continue
        report = register(store, folder)
        good = {name for name, content in visible.items() if content in ("good", "other", "third")}
        assert report.listed == len(visible)
        assert report.quarantined == len(visible) - len(good)
        assert report.added + report.changed + report.unchanged == len(good)
        assert {str(name) for name, _ in rows(store)} >= good
        held = {str(name) for (name,) in sql(store, "select item from quarantine")}
        assert held >= visible.keys() - good
        assert not held & good


def test_the_shared_sample_is_3600_items_and_3582_images(
    shared: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "_READERS", 2)
    report = ingest(store, "ferplus", str(shared / "data/ferplus-sample"))
    adds_up(report)
    assert (report.listed, report.images, report.quarantined, report.duplicates) == (3600, 3582, 0, 0)
    assert sql(store, "select count(*), count(distinct image_id) from images") == [(3600, 3582)]
