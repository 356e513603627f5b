"""Archives made to fill memory or time, or to reach out: an account of every entry, or a refusal of the whole."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from drawn import picture, sql

from ferstore.errors import FetchError, SourceError
from ferstore.image import archive as module
from ferstore.image.archive import Archive, open_archive
from ferstore.image.location import ContainerKind
from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import ingest
from ferstore.store.store import init_store
from tests.faults.conftest import Tally

MIB = 2**20
PICTURE = picture(1)


@contextmanager
def within(limit: int) -> Iterator[None]:
    """Python's own memory stays below the limit."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def opened(data: bytes, kind: ContainerKind) -> closing[Archive]:
    return closing(open_archive(io.BytesIO(data), kind))


def tar_entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> bytes:
    """A header that may say anything of the data behind it."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


@functools.cache
def _checksum(size: int) -> int:
    return zlib.crc32(bytes(min(size, 8 * MIB)))


def zip_of(*entries: tuple[bytes, int, bytes, int], stream: bytes, at: int = 0, count: int | None = None) -> bytes:
    """A zip whose directory is made by hand: (name, offset, compressed bytes' length as given, size)."""
    directory = b""
    for name, offset, compressed, size in entries:
        directory += struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 8, 0, 33, _checksum(size),
                                 len(compressed), size, len(name), 0, 0, 0, 0, 0, offset) + name  # fmt: skip
    number = min(len(entries) if count is None else count, 65_535)
    return (
        stream + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(directory), len(stream), at)
    )


def local(name: bytes, compressed: bytes, size: int) -> bytes:
    return struct.pack("<L2B4HL2L2H", 0x04034B50, 20, 0, 0, 8, 0, 33, _checksum(size), len(compressed), size,
                       len(name), 0) + name + compressed  # fmt: skip


def deflated(size: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(bytes(size)) + compressor.flush()


def test_members_that_share_their_bytes_are_refused(tally: Tally) -> None:
    """Fifield's bomb, in its first form: a directory of many entries over one compressed stream."""
    kernel = deflated(8 * MIB)
    stream = local(b"0.png", kernel, 8 * MIB)
    data = zip_of(*((b"%d.png" % n, 0, kernel, 8 * MIB) for n in range(2000)), stream=stream)
    with within(16 * MIB), opened(data, "zip") as archive:
        assert len(archive.members) == 1
        assert len(archive.refused) == 1999
        assert {problem for _, problem in archive.refused} == {"it overlaps another entry"}
    tally("hostile archives", 1)


def test_members_that_quote_the_headers_of_the_next_are_refused(tally: Tally) -> None:
    """The second form: each stream holds the next entry's header in a stored block, and then what follows it."""
    last = local(b"2.png", kernel := deflated(8 * MIB), 8 * MIB)
    one = local(b"1.png", quoted := struct.pack("<BHH", 0, len(last) - len(kernel), 0) + last, 8 * MIB)
    data = zip_of((b"1.png", 0, quoted, 8 * MIB), (b"2.png", len(one) - len(last), kernel, 8 * MIB), stream=one)
    with opened(data, "zip") as archive:
        assert archive.members == ("2.png",)
        assert archive.refused == (("1.png", "it overlaps another entry"),)
    tally("hostile archives", 1)


def test_a_member_that_inflates_a_thousand_times_is_refused(tally: Tally) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb.png", bytes(100 * MIB))
        made.writestr("good.png", PICTURE)
        made.writestr("blank.bmp", bytes(10 * MIB))  # an empty sheet of paper is no bomb
    with within(40 * MIB), opened(stream.getvalue(), "zip") as archive:
        assert archive.members == ("blank.bmp", "good.png")
        assert archive.refused == (("bomb.png", "it says that it inflates more than 200 times"),)
    tally("hostile archives", 1)


def test_a_directory_that_lies_is_broken_or_its_entries_are(tally: Tally) -> None:
    good = local(b"a.png", deflated(100), 100)
    for data in (
        zip_of((b"a.png", 2**32 - 1, deflated(100), 100), stream=good),
        zip_of((b"a.png", 5, deflated(100), 100), stream=good),
        zip_of((b"b.png", 0, deflated(100), 100), stream=good),
        zip_of((b"a.png", 0, deflated(100), 2**32 - 1), stream=good),  # zip64, and no such field
        zip_of((b"a.png", 0, b"x" * 10, 10**6), stream=good),
        zip_of((b"a.png", 0, deflated(100), 100), stream=good)[:-8] + struct.pack("<LLH", 2**32 - 1, 2**32 - 1, 0)[:8],
    ):
        with contextlib.suppress(SourceError), opened(data, "zip") as archive:
            for name in archive.members:
                with pytest.raises(FetchError):
                    archive.read(name, MIB)
        tally("hostile archives", 1)


def test_a_directory_of_any_size_is_not_read(monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    monkeypatch.setattr(module, "_DIRECTORY_BYTES", MIB)
    entries = ((b"%0200d" % n, n, b"", 0) for n in range(8000))
    data = zip_of(*entries, stream=bytes(8000))
    with within(8 * MIB), pytest.raises(SourceError, match="a directory of"):
        opened(data, "zip")
    tally("hostile archives", 1)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_entries_without_number_are_refused(kind: ContainerKind, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 1000)
    if kind == "zip":
        data = zip_of(*((b"%d" % n, n, b"", 0) for n in range(3000)), stream=bytes(3000), count=1)
    else:
        data = gzip.compress(tar_entry("a.png") * 100_000 + END)
        assert len(data) < MIB
    with within(16 * MIB), pytest.raises(SourceError, match="more than 1000 entries"):
        opened(data, kind)
    tally("hostile archives", 1)


def test_a_tar_of_thousands_of_empty_files_is_no_bomb() -> None:
    with opened(b"".join(tar_entry(f"{n}.png") for n in range(5000)) + END, "tar") as archive:
        assert len(archive.members) == 5000


def test_keywords_for_all_members_are_not_copied_for_each(tally: Tally) -> None:
    """A pax header of one megabyte and a thousand members of half a kilobyte took gigabytes."""
    records = b"".join(b"12 k%05d=v\n" % n for n in range(9000))
    data = tar_entry("g", len(records), tarfile.XGLTYPE, records) + tar_entry("a.png") * 1000 + END
    with within(16 * MIB), pytest.raises(SourceError, match="9000 keywords for all members"):
        opened(data, "tar")
    tally("hostile archives", 1)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [2**33, 100 * MIB])
def test_a_header_of_gigabytes_is_refused_before_it_is_read(kind: bytes, size: int, tally: Tally) -> None:
    data = tar_entry("x", size, kind) + bytes(4096) + END
    for packed in (data, gzip.compress(tar_entry("x", size, kind) + bytes(min(size, 20 * MIB)))):
        with within(8 * MIB), pytest.raises(SourceError, match="a header of more than"):
            opened(packed, "tar")
        tally("hostile archives", 1)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_headers_without_end_are_refused(kind: bytes, tally: Tally) -> None:
    data = gzip.compress(tar_entry("x", 12, kind, b"12 k00000=v\n") * 20_000 + tar_entry("a.png") + END)
    with within(32 * MIB), pytest.raises(SourceError, match="broken tar archive"):
        opened(data, "tar")
    tally("hostile archives", 1)


def sparse_1_0(entries: bytes) -> bytes:
    """A sparse file whose map is in its data, which is as long as it likes to be."""
    info = tarfile.TarInfo("sparse.png")
    info.size = len(entries)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse.png",
                        "GNU.sparse.realsize": str(200 * MIB)}  # fmt: skip
    return info.tobuf(tarfile.PAX_FORMAT) + entries + bytes(-len(entries) % 512)


def test_sparse_files_are_refused(tally: Tally) -> None:
    data = sparse_1_0(b"1\n0\n0\n") + tar_entry("good.png", len(PICTURE), data=PICTURE) + END
    with opened(data, "tar") as archive:
        assert archive.members == ("good.png",)
        assert archive.refused == (("sparse.png", "a sparse file, whose holes take no space"),)
        assert archive.read("good.png", MIB) == PICTURE
    tally("hostile archives", 1)


def test_a_sparse_map_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    monkeypatch.setattr(module, "_HEADER_BYTES", MIB // 16)
    data = gzip.compress(sparse_1_0(b"900000000\n" + b"0\n" * MIB) + END, 1)
    with within(64 * MIB), pytest.raises(SourceError, match="a header of more than"):
        opened(data, "tar")
    tally("hostile archives", 1)


def test_a_compressed_tar_that_inflates_without_end_is_refused_before_it_does(
    monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setattr(module, "_FREE_BYTES", MIB // 64)
    bomb = gzip.compress(tar_entry("a.png", 200 * MIB) + bytes(64 * MIB))
    for data in (bomb, gzip.compress(tar_entry("a.png", 2**60) + END)):
        with within(8 * MIB), pytest.raises(SourceError, match="inflates more than 200 times"):
            opened(data, "tar")
        tally("hostile archives", 1)


NAMES = ["../up.png", "a/../../up.png", "/etc/x.png", "\\\\host\\x.png", "C:\\x.png", "c:x.png", "a\\..\\x.png",
         "./../x.png", "a/./../../x.png", "~/../x/../../y.png"]  # fmt: skip
STRANGE = ["\u202egnp.x.png", "\uff0e\uff0e\uff0fx.png", "a/\u2026/x.png", "~root/x.png", "-rf.png", "CON", "a\nb.png",
           "a\x1b[2Jb.png", "\u00e9.png", "e\u0301.png", "'; drop table images; --.png", "%2e%2e%2fx.png", "{0}.png",
           "zip:x.png"]  # fmt: skip


def hostile_members(kind: ContainerKind) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as zipped:
            for name in (*NAMES, *STRANGE):
                zipped.writestr(f"c/{name}" if name in STRANGE else name, PICTURE)
        return stream.getvalue()
    links = [("link.png", tarfile.SYMTYPE, "/etc/passwd"), ("loop.png", tarfile.SYMTYPE, "loop.png"),
             ("up", tarfile.SYMTYPE, ".."), ("hard.png", tarfile.LNKTYPE, "../x"), ("fifo", tarfile.FIFOTYPE, ""),
             ("device", tarfile.CHRTYPE, ""), ("disk", tarfile.BLKTYPE, ""), ("odd", b"Z", "")]  # fmt: skip
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name in (*NAMES, *STRANGE, "up/x.png"):
            info = tarfile.TarInfo(f"c/{name}" if name in STRANGE else name)
            info.size = len(PICTURE)
            made.addfile(info, io.BytesIO(PICTURE))
        for name, type_, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, target
            made.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_every_entry_is_accounted_for_and_nothing_is_written_or_read_outside(
    kind: ContainerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setattr(ingest_module, "_READERS", 1)
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    path = tmp_path / "in" / f"hostile.{kind}"
    path.write_bytes(hostile_members(kind))
    store = init_store(str(tmp_path / "store"))
    report = ingest(store, "folder", str(path), name="set")
    links = 0 if kind == "zip" else 8  # a link to a folder and a file "below" it are an entry and a member
    good = len(STRANGE) + (kind == "tar")
    assert (report.listed, report.added, report.quarantined) == (len(NAMES) + links + good, good, len(NAMES) + links)
    assert report.images == 1
    assert all(url.startswith(f"{kind}://") and "::file://" in url
               for (url,) in sql(store, "select source_url from images"))  # fmt: skip
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "store"]
    assert [entry.name for entry in (tmp_path / "in").iterdir()] == [path.name]
    tally("hostile archives", report.listed)


def test_names_cannot_write_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    from ferstore.terminal import tell

    tell("  quarantined a\x1b[2J\nb\r\u202e.png: no image, 顔 é")
    assert capfd.readouterr().err == "  quarantined a\\x1b[2J\\nb\\r\\u202e.png: no image, 顔 é\n"
