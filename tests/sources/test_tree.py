from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ferstore.errors import SourceError
from ferstore.image.fetch import Fetcher
from ferstore.image.location import parse
from ferstore.sources.tree import open_tree

FILES = {
    "label.csv": b"\xef\xbb\xbfname\n",
    "b/ä é.png": b"1",
    "a/x y.png": b"2",
    ".DS_Store": b"",
    "a/._x.png": b"",
    ".git/x.png": b"",
    "__MACOSX/a/x.png": b"",
    "a/Thumbs.db": b"",
}


def in_folder(root: Path) -> str:
    for name, data in FILES.items():
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(data)
    return str(root / "set")


def in_memory(root: Path) -> str:
    fsspec.filesystem("memory").pipe({f"/set/{name}": data for name, data in FILES.items()})
    return "memory://set"


def in_zip(root: Path) -> str:
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return str(root / "set.zip")


def in_tar(root: Path) -> str:
    with tarfile.open(root / "set.tar.gz", "w:gz") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(root / "set.tar.gz")


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    files: Any = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("make", [in_folder, in_memory, in_zip, in_tar])
def test_a_tree_is_the_same_wherever_it_lies(make: Callable[[Path], str], tmp_path: Path) -> None:
    with open_tree(make(tmp_path)) as tree, Fetcher() as fetcher:
        assert sorted(tree.files) == ["a/x y.png", "b/ä é.png", "label.csv"]
        assert len(tree.hidden) == 5
        assert tree.refused == ()
        assert tree.read_text("label.csv") == "name\n"
        for name in tree.files:
            assert parse(tree.url_of(name)).url == tree.url_of(name)
            assert fetcher.read(tree.url_of(name)) == FILES[name]


def test_a_tar_lists_in_its_own_order_and_the_others_sorted(tmp_path: Path) -> None:
    with open_tree(in_tar(tmp_path)) as tree:
        assert tree.files == ("label.csv", "b/ä é.png", "a/x y.png")
    for make in (in_folder, in_memory, in_zip):
        with open_tree(make(tmp_path)) as tree:
            assert tree.files == ("a/x y.png", "b/ä é.png", "label.csv")


def test_what_is_refused_by_the_archive_is_refused_by_the_tree(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../up.png", b"1")
        archive.writestr("a.png", b"1")
    with open_tree(str(tmp_path / "a.zip")) as tree:
        assert tree.files == ("a.png",)
        assert [(entry.item_id, entry.error) for entry in tree.refused] == [
            ("../up.png", "the path leaves the archive")
        ]


def test_a_name_that_is_not_utf8_is_refused_with_its_bytes_shown(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"1")
    except OSError:
        pytest.skip("this filesystem has no such names")
    with open_tree(str(tmp_path)) as tree:
        assert tree.files == ()
        assert [entry.item_id for entry in tree.refused] == ["\\xff.png"]
        tree.refused[0].url.encode()


def test_a_link_to_a_folder_is_refused_and_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"1")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "y.png").symlink_to(tmp_path / "a" / "x.png")
    with open_tree(str(tmp_path)) as tree:
        assert tree.files == ("a/x.png", "y.png")
        assert [entry.item_id for entry in tree.refused] == ["a/circle"]


def test_a_remote_name_that_is_no_plain_path_is_refused() -> None:
    fsspec.filesystem("memory").pipe({"/set/a.png": b"", "/set/b\\c.png": b""})
    with open_tree("memory://set") as tree:
        assert tree.files == ("a.png",)
        assert [entry.item_id for entry in tree.refused] == ["b\\c.png"]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path: str) -> Any:
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(SourceError, match=r"cannot list .*closed: permission denied"), open_tree(str(tmp_path)):
        pass


@pytest.mark.timeout(20)
def test_what_cannot_be_listed_is_one_line_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"1")
    (tmp_path / "x.zip").write_bytes(b"1")
    (tmp_path / "a::b.zip").write_bytes(b"1")
    os.mkfifo(tmp_path / "fifo.zip")
    for given, message in {
        f"{tmp_path}/nowhere": "there is nothing at",
        "memory://nowhere": "there is nothing at",
        f"{tmp_path}/x.png": "is a file",
        f"{tmp_path}/x.zip": "broken zip archive",
        f"{tmp_path}/fifo.zip": "not a regular file",
        "ftp://user:hunter2@host/x": "protocol",
        "": "not a location",
    }.items():
        with pytest.raises(SourceError, match=message) as caught, open_tree(given):
            pass
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_a_label_file_that_is_not_text_or_not_there_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "label.csv").write_bytes(b"\xff\xfe")
    (tmp_path / "gone.csv").symlink_to("nowhere")
    with open_tree(str(tmp_path)) as tree:
        with pytest.raises(SourceError, match="not UTF-8"):
            tree.read_text("label.csv")
        with pytest.raises(SourceError, match="there is no such file"):
            tree.read_text("gone.csv")
