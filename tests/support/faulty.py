"""Faults at any one call of the filesystem or the catalog: of an object store held in memory, and of a local folder.

``Faults`` counts the calls while it watches, and lets one of them fail as its ``Fault`` says. ``BUCKET`` is an object
store behind ``faulty://`` URLs: an object is there whole or not at all, and making one can be conditional.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile
from sqlalchemy.engine.default import DefaultDialect

PROTOCOL = "faulty"


class Crash(BaseException):
    """The end of the process: no ``except Exception`` sees it, and nothing that is done after it has an effect."""


class Kind(StrEnum):
    """What happens at the call."""

    BEFORE = "crash before it"
    MIDDLE = "crash in the middle of it"
    AFTER = "crash after it"
    STOPPED = "Ctrl-C before it"
    LOST = "done, but the reply is lost"
    BUSY = "503 once"
    CONFLICT = "409 once"
    SHORT = "cut off, and told so"
    DROPPED = "connection gone"
    FULL = "no space from here on"
    OUTAGE = "503 from here on"
    STALE = "listing from before the last three changes"


CRASHES = frozenset({Kind.BEFORE, Kind.MIDDLE, Kind.AFTER})
ONCE = frozenset({Kind.LOST, Kind.BUSY, Kind.CONFLICT, Kind.SHORT, Kind.DROPPED, Kind.STALE})
"""A second try of the call would be answered."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One call that fails."""

    kind: Kind
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made.

    Attributes:
        name: what, and on what, without the parts of names that are drawn by lot.
        where: the object store, the local folder, or the catalog.
        changes: it leaves something behind.
        creates: it must not replace anything.
        lists: its answer may be a listing's.
    """

    name: str
    where: str
    changes: bool = False
    creates: bool = False
    lists: bool = False

    def can(self, kind: Kind) -> bool:
        """Whether this fault differs here from those at other calls."""
        sql = self.where == "catalog"
        match kind:
            case Kind.BEFORE | Kind.AFTER | Kind.STOPPED:
                return self.changes
            case Kind.FULL:
                return self.changes and not self.name.startswith("remove ")
            case Kind.MIDDLE:
                return self.name.startswith("write ")
            case Kind.SHORT:
                return self.name.startswith(("write ", "put "))
            case Kind.LOST:  # a disk answers; a folder of another machine may name a file and not say so
                return self.changes and (self.where != "local" or self.name.startswith(("link ", "replace ")))
            case Kind.BUSY:
                return self.where != "local"
            case Kind.DROPPED:
                return sql
            case Kind.CONFLICT:
                return self.creates
            case Kind.STALE:
                return self.lists
            case Kind.OUTAGE:
                return True


class Faults:
    """Counts calls, and makes one fail.

    Attributes:
        calls: what was called while it watched.
        after_change: told after each change that had its effect.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.fault: Fault | None = None
        self.root: Path | None = None
        self.after_change: Callable[[Call], None] | None = None
        self._watching = self._dead = False
        self._lock = threading.RLock()
        self._nested = threading.local()

    @contextlib.contextmanager
    def watch(self, fault: Fault | None = None) -> Iterator[None]:
        """Count from 1, and let one call fail."""
        self.calls, self.fault, self._dead, self._watching = [], fault, False, True
        try:
            yield
        finally:
            self._watching = False

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Calls that are not counted."""
        before, self._watching = self._watching, False
        try:
            yield
        finally:
            self._watching = before

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Calls of this thread that are part of another; they fail as it does."""
        before, self._nested.here = getattr(self._nested, "here", False), True
        try:
            yield
        finally:
            self._nested.here = before

    def call(self, call: Call, effect: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Make a call, or let it fail.

        Args:
            call: what it is.
            effect: does it.
            half: does a part of it.
        """
        if not self._watching or getattr(self._nested, "here", False):
            return effect()
        with self._lock:
            if self._dead:
                if call.name == "rollback":
                    effect()  # a database rolls back what the dead have begun
                raise Crash
            self.calls.append(call)
            number, fault = len(self.calls), self.fault
        if fault is None or number < fault.at:
            return self._done(call, effect)
        if number > fault.at:
            lasting = (fault.kind is Kind.OUTAGE and call.where == self.calls[fault.at - 1].where) or (
                fault.kind is Kind.FULL and call.can(Kind.FULL) and not call.name.startswith("remove")
            )
            if not lasting:
                return self._done(call, effect)
        return self._fail(fault.kind, call, effect, half)

    def _done(self, call: Call, effect: Callable[[], Any]) -> Any:
        number = len(self.calls)
        try:
            result = effect()
        except (FileExistsError, FileNotFoundError):
            self.calls[number - 1] = replace(call, changes=False)  # it was so already
            raise
        if call.changes and self.after_change:
            with self.aside():
                self.after_change(call)
        return result

    def _fail(self, kind: Kind, call: Call, effect: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        if kind in CRASHES:
            if kind is Kind.AFTER:
                with contextlib.suppress(Exception):
                    _forget(effect())
            elif kind is Kind.MIDDLE and half:
                half()
            self._dead = True
            raise Crash
        if kind is Kind.STOPPED:
            raise KeyboardInterrupt
        if kind is Kind.STALE:
            with BUCKET.as_it_was(3):
                return effect()
        if kind is Kind.LOST:
            _forget(effect())
        elif half and kind in (Kind.SHORT, Kind.FULL):
            half()
        raise _error(kind, call)


def _forget(result: Any) -> None:
    """Close a file of which the caller is never told."""
    if hasattr(result, "close"):
        result.close()


def _error(kind: Kind, call: Call) -> Exception:
    if call.where == "catalog":
        if kind is Kind.DROPPED:
            return sqlite3.InterfaceError("connection already closed")
        return sqlite3.OperationalError(
            {Kind.LOST: "server closed the connection unexpectedly", Kind.FULL: "database or disk is full"}.get(
                kind, "database is locked"
            )
        )
    match kind:
        case Kind.LOST:
            return TimeoutError(errno.ETIMEDOUT, "no reply")
        case Kind.CONFLICT:
            return FileExistsError(errno.EEXIST, "ConditionalRequestConflict")
        case Kind.FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case Kind.SHORT if call.where == "local":
            return OSError(errno.EIO, os.strerror(errno.EIO))
        case Kind.SHORT:
            return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        case _ if call.where == "local":
            return OSError(errno.EIO, os.strerror(errno.EIO))
        case _:  # as s3fs tells a 503
            return OSError(errno.EBUSY, "SlowDown: please reduce your request rate")


FAULTS = Faults()


class Bucket:
    """Objects by key, and how it was before each of the last changes."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self._past: list[dict[str, tuple[bytes, datetime]]] = []
        self._shown: dict[str, tuple[bytes, datetime]] | None = None

    @property
    def listed(self) -> dict[str, tuple[bytes, datetime]]:
        """What a listing says."""
        return self.objects if self._shown is None else self._shown

    def change(self, **changes: bytes | None) -> None:
        """Put and remove objects."""
        self._past = [*self._past[-9:], dict(self.objects)]
        for key, data in changes.items():
            if data is None:
                del self.objects[key]
            else:
                self.objects[key] = data, datetime.now(UTC)

    @contextlib.contextmanager
    def as_it_was(self, changes: int) -> Iterator[None]:
        """Listings answer from before the last changes."""
        self._shown = self._past[-changes] if len(self._past) >= changes else {}
        try:
            yield
        finally:
            self._shown = None

    def restore(self, objects: dict[str, tuple[bytes, datetime]]) -> None:
        """Be as it was saved."""
        self.objects, self._past = dict(objects), [dict(objects)]


BUCKET = Bucket()


class FaultyFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """The object store."""

    protocol = PROTOCOL

    def _call(self, name: str, path: str, effect: Callable[[], Any], **how: bool) -> Any:
        return FAULTS.call(Call(f"{name} {_plain(path)}", "object store", **how), effect)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        key = self._strip_protocol(path)
        if self._parent(key) in self.dircache:  # as s3fs does, where it remembers listings
            return dict(
                _info(
                    {
                        entry["name"]: (b" " * entry["size"], entry["LastModified"])
                        for entry in self.dircache[self._parent(key)]
                        if entry["type"] == "file"
                    },
                    key,
                )
            )
        return dict(self._call("info", key, lambda: _info(BUCKET.objects, key)))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        key = self._strip_protocol(path).rstrip("/")
        found = self._call("list", key, lambda: self._ls(key), lists=True)
        self.dircache[key] = found
        return found if detail else [entry["name"] for entry in found]

    def _ls(self, key: str) -> list[dict[str, Any]]:
        if key in BUCKET.listed:
            return [_info(BUCKET.listed, key)]
        below = {other[len(key) + 1 :].split("/")[0] for other in BUCKET.listed if other.startswith(f"{key}/")}
        if not below:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return [_info(BUCKET.listed, f"{key}/{name}") for name in sorted(below)]

    def modified(self, path: str) -> datetime:
        made: datetime = self.info(path)["LastModified"]
        return made

    def created(self, path: str) -> datetime:
        return self.modified(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """An object store has no folders."""

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """An object store has no folders."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        key = self._strip_protocol(path)
        data: bytes = self._call("get", key, lambda: _get(key))
        return data[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        key = self._strip_protocol(path)

        def put() -> None:
            if mode == "create" and key in BUCKET.objects:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
            BUCKET.change(**{key: bytes(value)})

        self._call("put", key, put, changes=True, creates=mode == "create")

    def _rm(self, path: str) -> None:
        key = self._strip_protocol(path)
        # S3 answers the same whether the object was there or not.
        self._call("remove", key, lambda: BUCKET.change(**{key: None}) if key in BUCKET.objects else None, changes=True)

    rm_file = _rm

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        for one in [path] if isinstance(path, str) else path:
            for name in self.find(one) if recursive else [one]:
                self._rm(name)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        assert mode == "rb", "ferstore writes whole objects"
        return _Reading(self, path, mode)


def _info(objects: Mapping[str, tuple[bytes, datetime]], key: str) -> dict[str, Any]:
    if key in objects:
        data, made = objects[key]
        return {"name": key, "size": len(data), "type": "file", "LastModified": made, "created": made}
    if any(other.startswith(f"{key}/") for other in objects):
        return {"name": key, "size": 0, "type": "directory"}
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


def _get(key: str) -> bytes:
    try:
        return BUCKET.objects[key][0]
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None


class _Reading(AbstractBufferedFile):  # type: ignore[misc]
    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start, end)
        return data


def _plain(path: str) -> str:
    """A path without what differs from run to run: table and folder, and the end of the name."""
    parts = path.rstrip("/").split("/")
    folder = "/".join(parts[parts.index("tables") + 1 : -1]) if "tables" in parts[:-1] else ""
    name = parts[-1]
    for sign, plain in ((".partial", "*.partial"), (".metadata.json", "*.metadata.json"), (".avro", "*.avro")):
        if name.endswith(sign):
            name = ("snap-" if name.startswith("snap-") else "") + plain
    if name.endswith(".parquet"):
        name = "*.parquet"
    return f"{folder}/{name}".lstrip("/")


class _Writing:
    """A local file being written: its bytes land at once, or a part of them."""

    def __init__(self, stream: Any, path: str) -> None:
        self._stream, self._path = stream, path

    def write(self, data: bytes) -> int:
        def half() -> None:
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()

        def whole() -> int:
            written: int = self._stream.write(data)
            self._stream.flush()  # so that what a crash leaves does not hang on a buffer
            return written

        call = Call(f"write {_plain(self._path)}", "local", changes=True)
        written: int = FAULTS.call(call, whole, half)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def install(patch: pytest.MonkeyPatch) -> None:
    """Put faults under every call of the catalog and of the local folder ``FAULTS.root``."""
    fsspec.register_implementation(PROTOCOL, FaultyFileSystem, clobber=True)
    _install_local(patch)
    for name, changes in (("do_execute", False), ("do_commit", True), ("do_rollback", False)):
        patch.setattr(DefaultDialect, name, _sql(name.removeprefix("do_"), getattr(DefaultDialect, name), changes))


def _sql(name: str, original: Callable[..., Any], changes: bool) -> Callable[..., Any]:
    def called(dialect: Any, *arguments: Any, **options: Any) -> Any:
        said = f" {' '.join(arguments[1].split()[:3])}" if name == "execute" else ""
        return FAULTS.call(
            Call(f"{name}{said}", "catalog", changes=changes), lambda: original(dialect, *arguments, **options)
        )

    return called


def _below(path: Any) -> bool:
    root = FAULTS.root
    return root is not None and isinstance(path, str | os.PathLike) and str(os.fspath(path)).startswith(f"{root}/")


def _install_local(patch: pytest.MonkeyPatch) -> None:
    opened = io.open

    def open_(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not _below(file) or not set(mode) & set("wxa"):
            return opened(file, mode, *arguments, **options)
        call = Call(f"create {_plain(str(file))}", "local", changes=True)
        return _Writing(FAULTS.call(call, lambda: opened(file, mode, *arguments, **options)), str(file))

    patch.setattr(io, "open", open_)
    for name in ("link", "replace", "unlink", "mkdir", "rmdir"):
        patch.setattr(os, name, _os(name, getattr(os, name)))
    synced = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if _below(path):
            FAULTS.call(Call(f"fsync {_plain(path)}", "local"), lambda: None)  # power does not fail here
        else:
            synced(descriptor)

    patch.setattr(os, "fsync", fsync)
    for name in ("cat_file", "_open", "info", "ls"):
        patch.setattr(LocalFileSystem, name, _local(name.lstrip("_"), getattr(LocalFileSystem, name)))


def _os(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    shown = "remove" if name in ("unlink", "rmdir") else name

    def called(path: Any, *arguments: Any, **options: Any) -> Any:
        if not _below(path):
            return original(path, *arguments, **options)
        call = Call(f"{shown} {_plain(str(path))}", "local", changes=True, creates=name == "link")
        return FAULTS.call(call, lambda: original(path, *arguments, **options))

    return called


def _local(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def called(fs: Any, path: Any, *arguments: Any, **options: Any) -> Any:
        plain = str(fs._strip_protocol(path))
        if not _below(plain):
            return original(fs, path, *arguments, **options)

        def effect() -> Any:
            with FAULTS.within():
                return original(fs, path, *arguments, **options)

        return FAULTS.call(Call(f"{name} {_plain(plain)}", "local"), effect)

    return called
