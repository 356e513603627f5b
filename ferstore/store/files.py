"""Files of the store: written whole or not at all, named by their digest.

A data file is called ``<prefix>-<random>-<sha256>.parquet``. The digest thus reaches the Iceberg manifest with the
path, atomically with the commit, and ``verify`` needs no second record that could be lost or differ. The random part
makes a name that was never used before: `ferstore.store.vacuum` may remove a file that no snapshot names without
asking whether another writer is about to commit the same bytes again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import fsspec
from fsspec.asyn import AsyncFileSystem
from pyiceberg.io import InputStream, OutputStream
from pyiceberg.io.fsspec import FsspecFileIO, FsspecInputFile, FsspecOutputFile

from ferstore.driver_errors import is_taken
from ferstore.errors import StoreError
from ferstore.image.location import redact
from ferstore.store.reach import patiently, reaching
from ferstore.store.seal import check_seal, seal

_DIGEST = re.compile(r"-([0-9a-f]{64})\.parquet$")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A written data file that no snapshot refers to yet.

    Attributes:
        url: where it lies.
        sha256: hex digest of its bytes, also in its name.
        nbytes: size in bytes.
        rows: number of rows.
    """

    url: str
    sha256: str
    nbytes: int
    rows: int


def local_path(url: str) -> Path | None:
    """The path of a local URL (``file://`` or none), else None."""
    scheme = urlparse(url).scheme
    if scheme in ("", "file"):
        return Path(url.removeprefix("file://"))
    return None


def normalise(url: str) -> str:
    """The URL of a store or file without a trailing slash; a local path becomes an absolute ``file://`` URL.

    Raises:
        StoreError: it carries credentials, which would be stored with every file's location.
    """
    if redact(url) != url:
        raise StoreError(
            f"the URL {redact(url)} carries credentials or parameters",
            hint="remove them and give credentials through fsspec's environment variables or configuration",
        )
    path = local_path(url)
    return f"file://{path.expanduser().resolve()}" if path is not None else url.rstrip("/")


def filesystem(url: str) -> fsspec.AbstractFileSystem:
    """The fsspec filesystem of a URL.

    Raises:
        StoreError: no such protocol, or its package is not installed.
    """
    protocol = urlparse(url).scheme or "file"
    try:
        found = fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"cannot use {protocol}:// URLs: {error}",
            hint="install the extra that reads it, such as pip install 'ferstore[s3]'",
        ) from error
    # Other processes write too: a remembered listing would deny files that are there.
    found.dircache.use_listings_cache = False
    if protocol in ("s3", "s3a"):
        # Each of s3fs's tries is five of botocore's, and each of ours (`patiently`) is all of those: with its own five
        # a store that is down would be asked 125 times. The second is for a body that breaks off: botocore leaves it.
        found.retries = 2
        # With more, it asks for the size of every file before reading it whole: twice the requests for each state that
        # is read, and metadata is small. Parts of a large file are then written one after another.
        found.max_concurrency = 1
    return found


def write_file(url: str, data: bytes, *, exclusive: bool = False) -> None:
    """Write a whole file so that a reader, or a crash, sees all of it or nothing.

    Local files go to a temporary name, are flushed to disk, and take their name in one step; object stores do the
    same by nature. Their drivers write large objects in parts (s3fs from 100 MiB, gcsfs from 50, adlfs from 64), which
    are an object only when all are there; parts of a process that was killed are seen by nobody, and a bucket's rule
    for incomplete uploads removes them.

    Args:
        url: where to.
        data: all bytes.
        exclusive: refuse to replace a file that is there.

    Raises:
        FileExistsError: ``exclusive``, and it is there with other bytes.
    """
    path = local_path(url)
    if path is None:
        patiently(lambda: _create(url, data) if exclusive else filesystem(url).pipe_file(url, data))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if exclusive:
            _link(partial, path)
        else:
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):  # left over; the file itself is there, or its error is on its way
            partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _create(url: str, data: bytes) -> None:
    """Make an object that must not be there; one with the same bytes is an earlier try whose reply was lost.

    The server decides, or nobody: `ferstore.store.exclusive` asks it at ``init``. Looking first would not help two
    writers at once, and would hide a store that cannot decide.
    """
    fs = filesystem(url)
    try:
        fs.pipe_file(url, data, mode="create")
    except Exception as error:
        if not is_taken(error):
            raise
        try:
            there = fs.cat_file(url)
        except FileNotFoundError:  # a 409 for a request that met another one
            raise TimeoutError(errno.ETIMEDOUT, "refused, and not there", url) from error
        if there != data:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), url) from error


def _link(partial: Path, path: Path) -> None:
    """Give a file its name; fails if that is taken, where rename would replace."""
    try:
        os.link(partial, path)
    except OSError:
        if partial.stat().st_nlink != 2:  # over NFS it may be done, and only the reply lost
            raise


def write_data_file(folder: str, prefix: str, data: bytes, rows: int) -> StoredFile:
    """Write Parquet bytes under a new name that holds their digest.

    Raises:
        UnavailableError: it cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    url = f"{folder}/{prefix}-{secrets.token_hex(4)}-{digest}.parquet"
    with reaching(url):
        write_file(url, data)
    return StoredFile(url, digest, len(data), rows)


def recorded_digest(url: str) -> str | None:
    """The digest in a data file's name, or None where another engine wrote the file."""
    match = _DIGEST.search(url)
    return match.group(1) if match else None


def file_digest(url: str) -> tuple[str, int]:
    """SHA-256 (hex) and size of a file, read in pieces of 4 MiB.

    Raises:
        OSError: it cannot be read.
    """

    def read() -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with filesystem(url).open(url, "rb", block_size=4 << 20) as stream:
            while piece := stream.read(4 << 20):
                digest.update(piece)
                size += len(piece)
        return digest.hexdigest(), size

    return patiently(read)


def files_below(folder: str) -> dict[str, dict[str, Any]]:
    """Path, as its filesystem names it, and details of every file below a folder; none where that is not there.

    Raises:
        OSError: a folder cannot be listed.
    """
    fs = filesystem(folder)
    if isinstance(fs, AsyncFileSystem) or type(fs).find is not fsspec.AbstractFileSystem.find:
        find = partial(fs.find, folder, detail=True)
    else:
        find = partial(_find, fs, folder)
    try:
        found: dict[str, dict[str, Any]] = patiently(find)
    except FileNotFoundError:
        return {}
    return found


def _find(fs: fsspec.AbstractFileSystem, folder: str) -> dict[str, dict[str, Any]]:
    """As fsspec's own, which takes a folder that cannot be listed for an empty one."""
    found: dict[str, dict[str, Any]] = {}
    folders = [fs._strip_protocol(folder)]
    for path in folders:  # grows as it goes
        try:
            listed = fs.ls(path, detail=True)
        except FileNotFoundError:
            continue  # it was removed meanwhile
        for entry in listed:
            if entry["type"] == "directory":
                folders.append(entry["name"])
            else:
                found[entry["name"]] = entry
    return found


def remove_files(urls: Iterable[str], told: Callable[[int], None] = lambda _: None) -> None:
    """Remove files; those that are gone already are as good.

    Args:
        urls: what to remove.
        told: called with 1 for each.

    Raises:
        OSError: one cannot be removed.
    """

    def remove(url: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: filesystem(url).rm_file(url))

    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(remove, urls):
            told(1)


class _WholeFile(io.BytesIO):
    """Collects what is written and stores it in one step on a clean close."""

    def __init__(self, url: str, exclusive: bool) -> None:
        super().__init__()
        self._url, self._exclusive = url, exclusive

    def close(self) -> None:
        if not self.closed:
            data = seal(self._url, self.getvalue())
            super().close()
            write_file(self._url, data, exclusive=self._exclusive)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind:
            super().close()  # torn, and nobody's
        else:
            self.close()

    def __del__(self) -> None:
        """What was not closed is not stored; `io.IOBase` would close it here."""


class _DurableOutputFile(FsspecOutputFile):
    def create(self, overwrite: bool = False) -> OutputStream:
        return _WholeFile(self.location, exclusive=not overwrite)


class _CheckedInputFile(FsspecInputFile):
    def open(self, seekable: bool = True) -> InputStream:
        if self.location.endswith(".parquet"):
            return super().open(seekable)
        data: bytes = patiently(lambda: self._fs.cat_file(self.location))  # metadata is read whole anyway
        check_seal(self.location, data)
        return io.BytesIO(data)


class StoreFileIO(FsspecFileIO):
    """PyIceberg's file access for any fsspec protocol, with durable writes, patient reads and checked metadata.

    PyIceberg's own writes metadata in place and knows a handful of protocols: a crash could leave a torn manifest that
    the catalog already names.
    """

    def new_input(self, location: str) -> _CheckedInputFile:
        return _CheckedInputFile(location, self._get_fs_from_uri(urlparse(location), location))

    def new_output(self, location: str) -> _DurableOutputFile:
        return _DurableOutputFile(location, self._get_fs_from_uri(urlparse(location), location))

    def _get_fs(self, scheme: str, hostname: str | None = None) -> fsspec.AbstractFileSystem:  # noqa: ARG002  theirs
        # One way to every store, with fsspec's configuration: PyIceberg makes some protocols' drivers with its own.
        return filesystem(f"{scheme}://")
