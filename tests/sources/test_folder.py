from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ferstore.errors import SourceError
from ferstore.sources import open_listing
from ferstore.sources.item import Duplicate, Item, Listing, Refused


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def labels(listing: Listing) -> dict[str, str | None]:
    return {item.item_id: item.label for item in listing.items}


def refused(listing: Listing) -> dict[str, str]:
    return {entry.item_id: entry.error for entry in listing.entries if isinstance(entry, Refused)}


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


# Layout "classes"


def test_every_file_below_a_class_folder_is_an_item_whatever_its_name(tmp_path: Path) -> None:
    names = ["happy/a.png", "happy/deep/er/b.JPG", "happy/notes", "traurig ü/c.txt", "root.jpeg", "README.md"]
    make(tmp_path, *names, "happy/.DS_Store", "Thumbs.db")
    listing = open_listing("folder", str(tmp_path))
    assert labels(listing) == {
        "happy/a.png": "happy",
        "happy/deep/er/b.JPG": "happy",
        "happy/notes": "happy",
        "traurig ü/c.txt": "traurig ü",
        "root.jpeg": None,
    }
    assert listing.ignored == ("README.md", "Thumbs.db", "happy/.DS_Store")
    assert listing.expected == ()


def test_a_remote_folder_is_listed(memory: Any) -> None:
    memory.pipe({"/set/happy/a.png": b"1", "/set/sad/b.png": b"1", "/other/x.png": b"1"})
    listing = open_listing("folder", "memory://set")
    assert [(item.url, item.label) for item in listing.items] == [
        ("memory://set/happy/a.png", "happy"),
        ("memory://set/sad/b.png", "sad"),
    ]


def test_an_archive_with_one_folder_around_its_classes_is_listed_from_there(tmp_path: Path) -> None:
    for archive_name, names in {
        "wrapped.zip": ["faces/happy/a.png", "faces/sad/b.png", "__MACOSX/._x"],
        "one-class.zip": ["happy/a.png", "happy/deep/b.png"],
    }.items():
        with zipfile.ZipFile(tmp_path / archive_name, "w") as archive:
            for name in names:
                archive.writestr(name, b"1")
    assert labels(open_listing("folder", str(tmp_path / "wrapped.zip"))) == {
        "faces/happy/a.png": "happy",
        "faces/sad/b.png": "sad",
    }
    assert set(labels(open_listing("folder", str(tmp_path / "one-class.zip"))).values()) == {"happy"}


def test_a_folder_keeps_its_first_component_as_the_class(tmp_path: Path) -> None:
    make(tmp_path, "happy/one/a.png", "happy/two/b.png")
    assert set(labels(open_listing("folder", str(tmp_path))).values()) == {"happy"}


# Layout "table"


def table(root: Path, text: str) -> Listing:
    (root / "faces.csv").write_bytes(text.encode("utf-8-sig"))
    return open_listing("folder", str(root / "faces.csv"))


def test_a_table_lists_urls_labels_subjects_and_splits(tmp_path: Path) -> None:
    listing = table(
        tmp_path,
        "split,note,url,label,subject\n"
        "Training,x,a.png,happy,Ann\n"
        'PublicTest,,"sub/ä, b.png",,\n'
        ",,/abs/c.png,sad,\n"
        "val,,s3://bucket/d.png,sad,\n"
        "PrivateTest,,https://host/e.png?v=1,sad,\n"
        "test,,https://host/e.png?v=2,fear,\n",
    )
    root = f"file://{tmp_path}"
    assert listing.layout == "table"
    assert listing.entries == (
        Item("a.png", f"{root}/a.png", "happy", subject="Ann", official_split="train"),
        Item("sub/ä, b.png", f"{root}/sub/ä, b.png", official_split="validation"),
        Item("/abs/c.png", "file:///abs/c.png", "sad"),
        Item("s3://bucket/d.png", "s3://bucket/d.png", "sad", official_split="validation"),
        Item("https://host/e.png?v=1", "https://host/e.png?v=1", "sad", official_split="test"),
        Item("https://host/e.png?v=2", "https://host/e.png?v=2", "fear", official_split="test"),
    )


def test_rows_that_cannot_be_items_are_refused(tmp_path: Path) -> None:
    listing = table(
        tmp_path,
        "url,label,split\n"
        "../up.png,a,\n"
        "sub/../../up.png,a,\n"
        "ok/../b.png,a,\n"
        "c.png,a,holdout\n"
        ",a,\n"
        "d.png,a\n"
        "ftp://host/e.png,a,\n"
        "https://user:hunter2@host/f.png,a,\n"
        "https://host/g.png?sig=hunter2,a,\n",
    )
    assert [item.url for item in listing.items] == [f"file://{tmp_path}/b.png"]
    errors = refused(listing)
    assert len(errors) == 8
    assert "leaves the table's folder" in errors["../up.png"]
    assert "leaves the table's folder" in errors["sub/../../up.png"]
    assert "train, validation, test" in errors["c.png"]
    assert errors["row 5"] == "the url is empty"
    assert errors["row 6"] == "the row has 2 fields, the header 3"
    assert "hunter2" not in repr(listing)


def test_a_url_listed_twice_is_a_duplicate_or_refused(tmp_path: Path) -> None:
    listing = table(tmp_path, "url,label\na.png,x\na.png,x\na.png,y\n")
    assert [type(entry) for entry in listing.entries] == [Item, Duplicate, Refused]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,happy\n", "no column url and no column label, only a.png, happy; allowed: url,label"),
        ("url,class\na.png,x\n", "no column label, only url, class"),
        ("", "no column url"),
        ("url,label,label\na,b,c\n", "the column label more than once"),
        ("url,label\n", "has no rows"),
    ],
)
def test_a_table_without_its_columns_says_which(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        table(tmp_path, text)


def test_a_table_that_is_not_text_or_not_parquet_is_refused(tmp_path: Path) -> None:
    for name, message in (("a.csv", "not a CSV file in UTF-8"), ("a.parquet", "not a Parquet file")):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SourceError, match=message):
            open_listing("folder", str(tmp_path / name))
    with pytest.raises(SourceError, match="there is no such file"):
        open_listing("folder", str(tmp_path / "none.csv"))


def test_a_remote_table_has_its_urls_below_its_folder(memory: Any) -> None:
    memory.pipe("/set/t.csv", b"url,label\na.png,x\n")
    assert [item.url for item in open_listing("folder", "memory://set/t.csv").items] == ["memory://set/a.png"]


def test_a_parquet_table_lists_as_the_csv_does(tmp_path: Path) -> None:
    columns = {
        "label": pa.array(["happy", None, "happy", "x"]).dictionary_encode(),
        "extra": pa.array([1.0, 2.0, 3.0, 4.0]),
        "url": pa.array(["a.png", "b.png", "a.png", None], pa.large_string()),
        "subject": pa.array([1, 2, 1, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "faces.parquet")
    listing = open_listing("folder", str(tmp_path / "faces.parquet"))
    root = f"file://{tmp_path}"
    assert listing.items == (
        Item("a.png", f"{root}/a.png", "happy", subject="1"),
        Item("b.png", f"{root}/b.png", None, subject="2"),
    )
    assert [type(entry) for entry in listing.entries] == [Item, Item, Duplicate, Refused]


def test_a_parquet_table_without_its_columns_or_with_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    pq.write_table(pa.table({"url": ["a"], "class": ["b"]}), path)
    with pytest.raises(SourceError, match="no column label"):
        open_listing("folder", str(path))
    pq.write_table(pa.table({"url": ["a"], "label": [["b"]]}), path)
    with pytest.raises(SourceError, match="not a Parquet file ferstore reads"):
        open_listing("folder", str(path))
