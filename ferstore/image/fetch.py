"""Reading the bytes of one item, wherever it lies: plain files, archive members, rows of ``fer2013.csv``."""

from __future__ import annotations

import errno
import io
import os
import random
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from ferstore.driver_errors import passes
from ferstore.errors import FerstoreError, FetchError, SourceError
from ferstore.image import web
from ferstore.image.archive import Archive, open_archive
from ferstore.image.location import FileLocation, MemberLocation, RowLocation, parse, redact

MAX_BYTES = 256 * 2**20

_T = TypeVar("_T")
_RETRIES = 3
_RETRY_SECONDS = 120.0  # after which an item is not tried again: each try of a slow server may take minutes
_FIRST_PAUSE_SECONDS = 0.2
_OPEN_ARCHIVES = 8
_FER2013_PIXELS = 48 * 48
_FER2013_LINE_BYTES = 2**16
_EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_REFUSED = (errno.EACCES, errno.EPERM)  # aiohttp wraps the error of a socket in one of its own and keeps the number


class Fetcher:
    """Reads items by their ``source_url``; several threads may share one.

    It keeps filesystems and up to 8 archives open between reads, so close it, or use it as a context manager.
    Members of one archive are read one at a time.

    Args:
        max_bytes: the largest item, in bytes, that is read.
        listed_in: URL of the table or tree that names the items; ``ferstore.image.web`` says what a remote one may
            not reach. None for items that the user names, or that are in the store.

    Raises:
        SourceError: the host of ``listed_in`` cannot be found.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, *, listed_in: str | None = None) -> None:
        self._max_bytes = max_bytes
        try:
            self._kinds = web.KINDS if listed_in is None else web.may_list(_outermost(listed_in))
        except OSError as error:
            raise SourceError(f"cannot read {redact(listed_in or '')}: {why(error)}") from error
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    def read(self, url: str) -> bytes:
        """All bytes of the item; of a ``fer2013.csv`` row, its binary PGM (see ``fer2013_pgm``).

        Raises:
            FetchError: not a location, not a regular file, too large, damaged, or it could not be read.
        """
        try:
            location = parse(url)
            if isinstance(location, FileLocation):
                return _with_retries(location.url, lambda: self._read_file(location.url))
            if isinstance(location, RowLocation):
                return fer2013_pgm(_with_retries(location.table, lambda: _read_range(location, self._kinds)))
            return self._read_member(location)
        except Exception as error:
            # Storage drivers raise families of their own (botocore, aiohttp, azure), none of which may end a job.
            raise FetchError(f"cannot read {redact(url)}: {why(error)}") from error

    def close(self) -> None:
        """Close the archives kept open. No read may be in progress."""
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            slot.close()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_file(self, url: str) -> bytes:
        if web.is_web(url):
            return web.read(url, self._max_bytes, self._kinds)
        with open_binary(url) as file:
            size = _size(file)
            if size is not None and size > self._max_bytes:
                raise FetchError(f"more than {self._max_bytes} bytes")
            # One byte more shows a file that grew, or whose size its server did not say.
            data = file.read(self._max_bytes + 1 if size is None else size + 1)
            if size is not None and len(data) > size:
                data += file.read(self._max_bytes + 1 - len(data))
        if len(data) > self._max_bytes:
            raise FetchError(f"more than {self._max_bytes} bytes")
        return data

    def _read_member(self, location: MemberLocation) -> bytes:
        slot = self._take(location.archive)
        try:
            with slot.lock:
                return _with_retries(location.archive, lambda: slot.read(location, self._max_bytes, self._kinds))
        finally:
            self._give_back(slot)

    def _take(self, archive: str) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(archive, _Slot())
            self._slots.move_to_end(archive)
            slot.users += 1
            return slot

    def _give_back(self, slot: _Slot) -> None:
        with self._lock:
            slot.users -= 1
            idle = [url for url, kept in self._slots.items() if kept.users == 0]
            surplus = [self._slots.pop(url) for url in idle[: max(0, len(self._slots) - _OPEN_ARCHIVES)]]
        for old in surplus:
            old.close()


@dataclass(slots=True)
class _Slot:
    """One archive of the cache. ``users`` counts the threads that hold it, so that none loses it while reading."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    archive: Archive | None = None
    broken: SourceError | None = None

    def read(self, location: MemberLocation, max_bytes: int, kinds: tuple[web.Kind, ...]) -> bytes:
        if self.broken is not None:
            raise self.broken
        try:
            if self.archive is None:
                self.archive = open_archive(open_binary(location.archive, kinds), location.kind)
            return self.archive.read(location.member, max_bytes)
        except SourceError as error:
            self.broken = error  # listing a broken archive again, for each of its items, would not mend it
            raise
        except OSError:
            self.close()  # the connection below may be gone: a retry opens it anew
            raise

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()
            self.archive = None


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a file's URL and the path there. fsspec keeps instances between calls.

    Raises:
        SourceError: the driver of this protocol is not installed.
    """
    scheme = url.partition("://")[0]
    if web.is_web(url):
        return web.filesystem(url), url
    try:
        files = fsspec.filesystem(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"pip install 'ferstore[{extra}]'" if extra else "install the package it names"
        raise SourceError(f"{scheme}:// needs a driver that is not installed: {error}", hint=hint) from error
    return files, files._strip_protocol(url)


def open_binary(url: str, kinds: tuple[web.Kind, ...] = web.KINDS) -> BinaryIO:
    """A seekable binary file of a whole file's URL; of the web, at an address of one of these kinds.

    Raises:
        FetchError: a local path that is not a regular file.
        Exception: whatever the filesystem raises, mostly OSError.
    """
    if web.is_web(url):
        return cast(BinaryIO, web.open_file(url, kinds))
    if not url.startswith("file://"):
        files, path = filesystem(url)
        if url.startswith("memory://"):  # its files are single objects, whose position all readers would share
            return io.BytesIO(files.cat_file(path))
        return cast(BinaryIO, files.open(path, "rb"))
    # Without O_NONBLOCK, opening a FIFO waits for a writer that may never come; regular files ignore it.
    descriptor = os.open(url.removeprefix("file://"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FetchError("not a regular file")
        return open(descriptor, "rb")  # the caller closes it
    except BaseException:
        os.close(descriptor)
        raise


def fer2013_pgm(line: bytes) -> bytes:
    """The image of one line of ``fer2013.csv`` (``emotion,pixels,Usage``) as binary PGM, 48 x 48, one byte a pixel.

    The CSV holds no image files, so this is the canonical one: ``P5\\n48 48\\n255\\n`` and 2,304 bytes, the same on
    every machine, so that its SHA-256 can be the image's identity. PGM: https://netpbm.sourceforge.net/doc/pgm.html.

    Raises:
        FetchError: the line has not three fields, or the second is not 2,304 numbers from 0 to 255.
    """
    fields = line.split(b",")
    if len(fields) != 3:
        raise FetchError(f"a row of fer2013.csv has {len(fields)} fields", allowed="emotion,pixels,Usage")
    text = fields[1].strip(b'" ')
    try:
        if not text.replace(b" ", b"").isdigit():
            raise ValueError("not digits and spaces")
        pixels = bytes(map(int, text.split()))
    except ValueError:
        raise FetchError("malformed pixels in a row of fer2013.csv", allowed="numbers from 0 to 255") from None
    if len(pixels) != _FER2013_PIXELS:
        raise FetchError(f"a row of fer2013.csv has {len(pixels)} pixels", allowed=f"{_FER2013_PIXELS}")
    return b"P5\n48 48\n255\n" + pixels


def why(error: BaseException) -> str:
    """An exception in a few words, without credentials: one of ferstore's own, or a filesystem's."""
    if isinstance(error, FerstoreError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    # A server may put any length of its own bytes into a message, and the pattern takes the square of it.
    text = re.sub(r"\S+://\S+", lambda match: redact(match[0]), " ".join(str(error)[:1000].split()))
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _outermost(url: str) -> str:
    location = parse(url)
    return (
        location.archive
        if isinstance(location, MemberLocation)
        else location.table
        if isinstance(location, RowLocation)
        else location.url
    )


def _read_range(location: RowLocation, kinds: tuple[web.Kind, ...]) -> bytes:
    length = location.end - location.start
    if length > _FER2013_LINE_BYTES:
        raise FetchError(f"a row of fer2013.csv has {length} bytes", allowed=f"at most {_FER2013_LINE_BYTES}")
    if location.table.startswith("file://"):
        with open_binary(location.table) as file:
            file.seek(location.start)
            return file.read(length)
    if web.is_web(location.table):
        return web.read(location.table, length, kinds, span=(location.start, location.end))
    files, path = filesystem(location.table)
    return bytes(files.cat_file(path, start=location.start, end=location.end))


def _size(file: BinaryIO) -> int | None:
    """The size of an open file in bytes, or None where a server did not say."""
    if isinstance(file, io.BufferedReader):
        return os.fstat(file.fileno()).st_size
    size = getattr(file, "size", None)
    return size if isinstance(size, int) else None


def _with_retries(url: str, act: Callable[[], _T]) -> _T:
    """Tries again after errors that may pass, only on remote filesystems: a local disk says the same thing twice."""
    retries = 0 if url.startswith(("file://", "memory://")) else _RETRIES
    began = time.monotonic()
    for attempt in range(retries):
        try:
            return act()
        except Exception as error:
            if not _may_pass(error) or time.monotonic() - began > _RETRY_SECONDS:
                raise
            time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 (no secret)
    return act()


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", None)  # aiohttp's answer errors are no OSErrors
    if isinstance(status, int):
        return status == 429 or status >= 500
    if isinstance(error, OSError):
        return not isinstance(error, _PERMANENT) and error.errno not in _REFUSED
    return passes(error)
