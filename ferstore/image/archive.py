"""Zip and tar archives, listed and read in place: no member is ever written to disk, so none can escape.

Formats: PKWARE APPNOTE 6.3 (zip, members stored or deflated) and POSIX.1-2001 pax / GNU tar, plain or compressed by
gzip, bzip2 or xz. Only regular files are members; whatever else is no folder is *refused* with a reason.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeVar, cast

from ferstore.errors import FetchError, SourceError
from ferstore.image.location import ContainerKind, member_problem

SUFFIXES: dict[str, ContainerKind] = {
    ".zip": "zip",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
}

# Members passed on the way to another one in a compressed tar, which can only be read forwards.
_PASSED_BYTES = 128 * 2**20
# The most tarfile may read for one entry's headers: it holds a pax header or a sparse map of gigabytes in memory.
_HEADER_BYTES = 2**20
_GLOBAL_HEADERS = 100  # keywords of pax headers for all members, which tarfile copies for each of them; git writes one
_BLOCK = 512
_LOCAL_HEADER_BYTES = 30
MAX_MEMBERS = 1_000_000  # entries listed; each takes about a kilobyte of memory
_DIRECTORY_BYTES = 128 * 2**20  # of a zip's central directory, read at once: about a million real entries
# Pictures shrink by less than this; what shrinks by more, beyond the first megabytes, is made to fill time or memory.
_RATIO = 200
_FREE_BYTES = 16 * 2**20
_T = TypeVar("_T")

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
)


def archive_kind(url: str) -> ContainerKind | None:
    """The archive kind a file name promises, or None."""
    name = url.casefold()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


class Archive(Protocol):
    """An open archive. Not thread-safe: one reader at a time.

    ``members`` are the names of the regular files, in the order they are cheapest to read in; ``refused`` pairs the
    name of each other entry that is no folder with the reason.
    """

    @property
    def members(self) -> tuple[str, ...]: ...

    @property
    def refused(self) -> tuple[tuple[str, str], ...]: ...

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a member.

        Raises:
            FetchError: there is no such member, it is larger than ``max_bytes`` or damaged.
            OSError: the file below could not be read.
        """
        ...

    def close(self) -> None:
        """Close the archive and the file below it."""
        ...


def open_archive(file: BinaryIO, kind: ContainerKind) -> Archive:
    """List an archive from a seekable binary file, which it owns from here on: closed with it, or when this fails.

    Raises:
        SourceError: the file is not an archive of this kind, or it is damaged or cut off.
        OSError: the file could not be read.
    """
    try:
        return _ZipArchive(file) if kind == "zip" else _TarArchive(file)
    except _BROKEN as error:
        file.close()
        raise SourceError(f"broken {kind} archive: {error}", hint="fetch or pack it again") from error
    except BaseException:
        file.close()
        raise


class _Index:
    """Names of an archive sorted into members and refused entries; the first of two equal names is the member."""

    def __init__(self) -> None:
        self.members: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self._seen: set[str] = set()

    def add(self, name: str, problem: str) -> str | None:
        """Returns the normal form of the name if the entry is a member."""
        problem = member_problem(name) or problem
        clean = name if problem else posixpath.normpath(name)
        if not problem and clean in self._seen:
            problem = "the name occurs twice in the archive; the first is used"
        if problem:
            self.refused.append((clean, problem))
            return None
        self._seen.add(clean)
        self.members.append(clean)
        return clean


class _ZipArchive:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._guard = _DirectoryGuard(file)
        self._zip = zipfile.ZipFile(cast(BinaryIO, self._guard))
        self._guard.limit = None
        if len(self._zip.infolist()) > MAX_MEMBERS:
            raise zipfile.BadZipFile(f"more than {MAX_MEMBERS} entries")
        self._infos: dict[str, zipfile.ZipInfo] = {}
        index = _Index()
        overlapping = _overlapping(self._zip.infolist())
        for info in self._zip.infolist():
            if not info.is_dir():
                problem = "it overlaps another entry" if id(info) in overlapping else _zip_problem(info)
                # zipfile cuts a name at a NUL; the original shows it.
                name = index.add(info.orig_filename, problem)
                if name is not None:
                    self._infos[name] = info
        self.members = tuple(sorted(index.members))
        self.refused = tuple(index.refused)

    def read(self, name: str, max_bytes: int) -> bytes:
        info = _found(self._infos, name)
        _check_size(info.file_size, max_bytes)
        try:
            with self._zip.open(info) as member:
                data = member.read(max_bytes + 1)
        except _BROKEN as error:
            raise FetchError(f"damaged member of a zip archive: {error}") from error
        _check_size(len(data), max_bytes)
        if len(data) != info.file_size:
            raise FetchError("damaged member of a zip archive: cut off")
        return data

    def close(self) -> None:
        self._zip.close()
        self._file.close()


def _zip_problem(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, or with a masked directory
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile inflates the other methods without a bound, so that a small member could fill the memory.
        return f"compression method {info.compress_type}, neither stored nor deflated"
    if info.file_size > _FREE_BYTES + _RATIO * info.compress_size:
        return f"it says that it inflates more than {_RATIO} times"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "a symbolic link" if kind == stat.S_IFLNK else "not a regular file"
    return ""


def _overlapping(infos: list[zipfile.ZipInfo]) -> set[int]:
    """The ids of entries that reach into the next one: bombs let many members share one compressed stream.

    zipfile looks for this itself only in Python's newest releases.
    """
    placed = sorted((info for info in infos if not info.is_dir()), key=lambda info: info.header_offset)
    return {
        id(info)
        for info, following in itertools.pairwise(placed)
        if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > following.header_offset
    }


class _DirectoryGuard:
    """A file for zipfile that refuses to read a central directory of any size at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.limit: int | None = _DIRECTORY_BYTES

    def read(self, size: int = -1) -> bytes:
        if self.limit is not None and size > self.limit:
            raise zipfile.BadZipFile(f"a directory of {size} bytes")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


class _TarArchive:
    """Keeps what it passes on the way to a member of a compressed tar, up to a bound.

    Reading in the order of ``members`` inflates the archive once. So does any order while the archive's members fit
    the bound; beyond it, going back means inflating from the start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        plain = _decompressed(file)
        self._compressed = plain is not file
        self._guard = _HeaderGuard(plain, _FREE_BYTES * 64 + _RATIO * _length(file) if self._compressed else None)
        self._tar = tarfile.TarFile(fileobj=cast(BinaryIO, self._guard))
        self._order: list[tarfile.TarInfo] = []
        index = _Index()
        position, listed = -1, 0
        while (info := self._tar.next()) is not None:
            if info.size < 0 or self._tar.offset <= position:
                raise tarfile.ReadError("a header points backwards")
            position = self._tar.offset
            self._guard.entry_bytes = 0
            listed += 1
            if listed > MAX_MEMBERS:
                raise tarfile.ReadError(f"more than {MAX_MEMBERS} entries")
            if len(self._tar.pax_headers) > _GLOBAL_HEADERS:
                raise tarfile.ReadError(f"{len(self._tar.pax_headers)} keywords for all members")
            if not info.isdir():
                name = index.add(info.name, _tar_problem(info))
                if name is not None:
                    self._order.append(info)
        # tarfile takes a damaged header for the end; only a block of zeros is one.
        self._guard.seek(self._tar.offset)
        if self._guard.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError("cut off, or a damaged header")
        self._guard.limit = None
        self.members = tuple(index.members)
        self.refused = tuple(index.refused)
        self._positions = {name: position for position, name in enumerate(self.members)}
        self._next = 0
        self._passed: dict[str, bytes] = {}
        self._passed_bytes = 0

    def read(self, name: str, max_bytes: int) -> bytes:
        position = _found(self._positions, name)
        _check_size(self._order[position].size, max_bytes)
        if name in self._passed:
            data = self._passed.pop(name)
            self._passed_bytes -= len(data)
            return data
        try:
            if self._compressed:
                self._keep_passed(position, max_bytes)
            data = self._extract(position)
        except _BROKEN as error:
            raise FetchError(f"damaged tar archive: {error}") from error
        self._next = position + 1
        return data

    def _keep_passed(self, position: int, max_bytes: int) -> None:
        start, self._next = self._next, 0  # should this fail, the next read begins anew
        for passed in range(start if start <= position else 0, position):
            name, size = self.members[passed], self._order[passed].size
            if name not in self._passed and size <= min(max_bytes, _PASSED_BYTES - self._passed_bytes):
                self._passed[name] = self._extract(passed)
                self._passed_bytes += size

    def _extract(self, position: int) -> bytes:
        info = self._order[position]
        member = self._tar.extractfile(info)
        if member is None:
            raise tarfile.ReadError("not a regular file")
        with member:
            data = member.read(info.size)
        if len(data) != info.size:
            raise tarfile.ReadError("cut off")
        return data

    def close(self) -> None:
        self._tar.close()
        self._guard.close()
        self._file.close()


def _tar_problem(info: tarfile.TarInfo) -> str:
    if info.issym():
        return "a symbolic link"
    if info.islnk():
        return "a hard link"
    if info.issparse():
        return "a sparse file, whose holes take no space"
    return "" if info.isreg() else "not a regular file"


class _HeaderGuard:
    """A readable file for tarfile that refuses headers of unbounded size while the archive is listed.

    The decompressors' own complaints are OSErrors without an errno; here they become what they are, a damaged archive.

    Args:
        file: the tar stream.
        end: where it must have ended; None where going far costs nothing.
    """

    def __init__(self, file: BinaryIO, end: int | None) -> None:
        self._file = file
        self._end = end
        self.entry_bytes = 0  # of headers, read for the entry that is listed
        self.limit: int | None = _HEADER_BYTES

    def read(self, size: int) -> bytes:
        if self.limit is not None:
            self.entry_bytes += size
            if size < 0 or self.entry_bytes > self.limit:
                raise tarfile.ReadError(f"a header of more than {self.limit} bytes")
        return self._undamaged(self._file.read, size)

    def seek(self, position: int) -> int:
        if self._end is not None and position > self._end:
            raise tarfile.ReadError(f"it inflates more than {_RATIO} times")
        return self._undamaged(self._file.seek, position)

    def _undamaged(self, act: Callable[[int], _T], number: int) -> _T:
        try:
            return act(number)
        except OSError as error:
            if error.errno is None and isinstance(self._file, gzip.GzipFile | bz2.BZ2File):
                raise tarfile.ReadError(str(error)) from error
            raise

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def _length(file: BinaryIO) -> int:
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    return end


def _decompressed(file: BinaryIO) -> BinaryIO:
    """The tar stream inside, by its magic number: names lie."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    if magic.startswith(b"\xfd7zXZ\x00"):
        return cast(BinaryIO, lzma.LZMAFile(file))
    return file


def _found(index: dict[str, _T], name: str) -> _T:
    if name not in index:
        raise FetchError("the archive has no such member, or it is refused")
    return index[name]


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FetchError(f"more than {max_bytes} bytes")
