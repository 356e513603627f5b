from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferstore.errors import FetchError, SourceError
from ferstore.image.archive import Archive, archive_kind, open_archive

MIB = 2**20


def tar_bytes(entries: list[tuple[str, bytes]], mode: str = "w", extra: list[tarfile.TarInfo] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra or []:
            tar.addfile(info)
    return buffer.getvalue()


def zip_bytes(entries: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def opened(data: bytes, kind: str) -> Archive:
    return open_archive(io.BytesIO(data), "zip" if kind == "zip" else "tar")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class CountingFile(io.BytesIO):
    """Counts the bytes read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer)
        self.count += size
        return size


FILES = [("d/ä b.png", b"one"), ("d/a::b.png", b""), ("x.png", os.urandom(3000))]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_members_read_back_in_any_order(mode: str) -> None:
    archive = opened(tar_bytes(FILES, mode), "tar")
    assert archive.members == tuple(name for name, _ in FILES)
    for name, data in [*FILES, *reversed(FILES), *FILES]:
        assert archive.read(name, MIB) == data
    archive.close()


def test_zip_members_read_back_sorted() -> None:
    archive = opened(zip_bytes([*FILES, ("empty/", b"")]), "zip")
    assert archive.members == tuple(sorted(name for name, _ in FILES))
    assert [archive.read(name, MIB) for name, _ in FILES] == [data for _, data in FILES]
    archive.close()


def test_closing_an_archive_closes_its_file() -> None:
    for kind, data in (("zip", zip_bytes([("a", b"1")])), ("tar", tar_bytes([("a", b"1")], "w:gz"))):
        file = io.BytesIO(data)
        open_archive(file, "zip" if kind == "zip" else "tar").close()
        assert file.closed


def test_names_that_start_at_the_current_folder_are_the_plain_ones() -> None:
    archive = opened(tar_bytes([("./d/a.png", b"1"), ("d//b.png", b"2")]), "tar")
    assert archive.members == ("d/a.png", "d/b.png")
    assert archive.read("d/a.png", MIB) == b"1"


HOSTILE = ["../up.png", "d/../../up.png", "/etc/passwd", "C:/x.png", "d\\x.png"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_root_are_refused_with_a_reason(kind: str) -> None:
    entries = [(name, b"x") for name in [*HOSTILE, "good.png"]]
    archive = opened(zip_bytes(list(entries)) if kind == "zip" else tar_bytes(entries), kind)
    assert archive.members == ("good.png",)
    assert sorted(name for name, _ in archive.refused) == sorted(HOSTILE)
    assert all(reason for _, reason in archive.refused)
    with pytest.raises(FetchError, match="no such member"):
        archive.read("../up.png", MIB)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.FIFOTYPE, "not a regular file"),
        (tarfile.CHRTYPE, "not a regular file"),
    ],
)
def test_links_and_devices_of_a_tar_are_refused(kind: bytes, reason: str) -> None:
    archive = opened(tar_bytes([("a.png", b"1")], extra=[special("b.png", kind, "/etc/passwd")]), "tar")
    assert (archive.members, archive.refused) == (("a.png",), (("b.png", reason),))


@pytest.mark.parametrize(("mode", "reason"), [(0o120777, "a symbolic link"), (0o010644, "not a regular file")])
def test_links_and_devices_of_a_zip_are_refused(mode: int, reason: str) -> None:
    link = zipfile.ZipInfo("b.png")
    link.external_attr = mode << 16
    archive = opened(zip_bytes([("a.png", b"1"), (link, b"/etc/passwd")]), "zip")
    assert (archive.members, archive.refused) == (("a.png",), (("b.png", reason),))


def test_a_name_that_occurs_twice_is_refused_the_second_time() -> None:
    archive = opened(tar_bytes([("a.png", b"first"), ("./a.png", b"second")]), "tar")
    assert archive.members == ("a.png",)
    assert [name for name, _ in archive.refused] == ["a.png"]
    assert archive.read("a.png", MIB) == b"first"


def test_an_encrypted_zip_member_is_refused() -> None:
    data = bytearray(zip_bytes([("a.png", b"1")]))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert opened(bytes(data), "zip").refused == (("a.png", "encrypted"),)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_method_that_python_inflates_without_a_bound_is_refused(method: int) -> None:
    archive = opened(zip_bytes([("a.png", bytes(MIB))], method), "zip")
    assert archive.members == ()
    assert "neither stored nor deflated" in archive.refused[0][1]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_above_the_limit_is_not_inflated(kind: str) -> None:
    bomb = bytes(15 * MIB)
    data = zip_bytes([("bomb.png", bomb)]) if kind == "zip" else tar_bytes([("bomb.png", bomb)], "w:gz")
    assert len(data) < MIB
    file = CountingFile(data)
    archive = open_archive(file, "zip" if kind == "zip" else "tar")
    listed = file.count
    with pytest.raises(FetchError, match="more than 1048576 bytes"):
        archive.read("bomb.png", MIB)
    assert file.count == listed
    archive.close()


def test_a_zip_member_larger_than_it_says_is_damaged() -> None:
    data = bytearray(zip_bytes([("bomb.png", bytes(8 * MIB))]))
    size = data.index(b"PK\x01\x02") + 24
    data[size : size + 4] = (100).to_bytes(4, "little")
    with pytest.raises(FetchError, match="damaged"):
        opened(bytes(data), "zip").read("bomb.png", MIB)


def test_a_damaged_zip_member_is_a_fetch_error() -> None:
    data = bytearray(zip_bytes([("a.png", os.urandom(1000))], zipfile.ZIP_STORED))
    data[200] ^= 255
    with pytest.raises(FetchError, match="damaged"):
        opened(bytes(data), "zip").read("a.png", MIB)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_cut_off_tar_is_broken_when_listed(mode: str) -> None:
    data = tar_bytes([(f"{n}.png", os.urandom(5000)) for n in range(8)], mode)
    with pytest.raises(SourceError, match="broken tar archive"):
        opened(cut(data), "tar")


def test_a_tar_cut_between_two_members_is_broken_though_tarfile_lists_it() -> None:
    data = tar_bytes([("a.png", bytes(512)), ("b.png", bytes(512))])[: 2 * 512]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["a.png"]
    with pytest.raises(SourceError, match="cut off"):
        opened(data, "tar")


def test_a_tar_with_a_damaged_header_is_broken_though_tarfile_lists_it() -> None:
    data = bytearray(tar_bytes([("a.png", bytes(512)), ("b.png", bytes(512))]))
    data[2 * 512 + 3] ^= 255
    with pytest.raises(SourceError, match="damaged header"):
        opened(bytes(data), "tar")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("zip", b"this is no archive"),
        ("tar", b"this is no archive"),
        ("tar", b""),
        ("zip", cut(zip_bytes([("a.png", bytes(100))]))),
        ("tar", gzip.compress(b"this is no archive")),
        ("tar", b"\x1f\x8b\x08\x00garbage"),
        ("tar", b"BZh9garbagegarbagegarbage"),
        ("tar", b"\xfd7zXZ\x00garbage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # archives hold the time at which they were made
)
def test_what_is_no_archive_is_broken_and_its_file_closed(kind: str, data: bytes) -> None:
    file = io.BytesIO(data)
    with pytest.raises(SourceError, match="broken"):
        open_archive(file, "zip" if kind == "zip" else "tar")
    assert file.closed


def test_a_huge_tar_header_is_not_held_in_memory() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * 8 * MIB}
        tar.addfile(info)
    with pytest.raises(SourceError, match="a header of"):
        opened(buffer.getvalue(), "tar")


def checksummed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_a_tar_header_that_points_backwards_is_broken_and_does_not_loop() -> None:
    data = tar_bytes([("a.png", b""), ("b.png", b"")])
    header = bytearray(data[512:1024])
    header[124:136] = (-1024).to_bytes(12, "big", signed=True)  # GNU base-256: a negative size
    with pytest.raises(SourceError, match="backwards"):
        opened(data[:512] + checksummed(header) + data[1024:], "tar")


@pytest.mark.parametrize(
    "arranged", [list, lambda names: list(reversed(names)), lambda names: names[::2] + names[1::2]]
)
def test_a_compressed_tar_is_inflated_once_more_for_all_of_its_members(
    arranged: Callable[[list[str]], list[str]],
) -> None:
    entries = [(f"{n:03}.png", os.urandom(20_000)) for n in range(100)]
    file = CountingFile(tar_bytes(entries, "w:gz"))
    archive = open_archive(file, "tar")
    listed = file.count
    contents = dict(entries)
    for name in arranged([name for name, _ in entries]):
        assert archive.read(name, MIB) == contents[name]
    assert file.count - listed <= 1.1 * len(file.getvalue())
    archive.close()


def test_members_that_do_not_fit_what_may_be_kept_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferstore.image.archive._PASSED_BYTES", 2500)
    entries = [(f"{n}.png", os.urandom(1000)) for n in range(9)]
    archive = opened(tar_bytes(entries, "w:gz"), "tar")
    for name, data in reversed(entries):
        assert archive.read(name, MIB) == data


def test_the_kind_follows_from_the_name() -> None:
    assert archive_kind("s3://b/X.TAR.GZ") == "tar"
    assert archive_kind("file:///a.zip") == "zip"
    assert archive_kind("file:///a.gz") is None


def test_nothing_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened(tar_bytes([("../up.png", b"1"), ("a.png", b"1")]), "tar").read("a.png", MIB)
    assert list(tmp_path.iterdir()) == []
