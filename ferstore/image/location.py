"""How the bytes of one item are named: a single string, the ``source_url`` of the ``images`` table.

Three forms, written as fsspec writes chained URLs (https://filesystem-spec.readthedocs.io, "URL chaining"):

- a file: ``file:///abs/x.png``, ``s3://bucket/key``, ``https://host/x.png``, ... Nothing is percent-decoded.
- an archive's member: ``zip://dir/x.png::file:///abs/a.zip``, ``tar://dir/x.png::s3://bucket/a.tar.gz``.
- a row of ``fer2013.csv``: ``fer2013://START-END::file:///abs/fer2013.csv``, the line's bytes without its line end.

Protocols are an allow-list: fsspec knows caching, chaining and remote-shell protocols that data must not reach.
Credentials belong to fsspec's environment or configuration, never to a URL, because URLs are stored.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import unquote_plus

from fsspec import available_protocols

from ferstore.errors import SourceError
from ferstore.redaction import CONTAINER_BEFORE_AT, SECRET_PARAMETER, scrub

PROTOCOLS = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "memory")
_ALLOWED = "a local path, or a URL of " + ", ".join(PROTOCOLS)
_CREDENTIALS_HINT = "remove it and give credentials through fsspec's environment variables or configuration"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_CHAIN = re.compile(r"::[A-Za-z0-9+.\-]*://")
_ROW = re.compile(r"(0|[1-9][0-9]{0,17})-([1-9][0-9]{0,17})")
_PARAMETERS = re.compile(r"[?&#;]")
_WITHOUT_HOST = ("file", "memory", "zip", "tar", "fer2013")

ContainerKind: TypeAlias = Literal["zip", "tar"]


@dataclass(frozen=True, slots=True)
class FileLocation:
    """A whole file, by its fsspec URL."""

    url: str


@dataclass(frozen=True, slots=True)
class MemberLocation:
    """A regular file inside a zip or tar archive."""

    kind: ContainerKind
    member: str
    archive: str

    @property
    def url(self) -> str:
        return f"{self.kind}://{self.member}::{self.archive}"


@dataclass(frozen=True, slots=True)
class RowLocation:
    """The bytes ``[start, end)`` of ``fer2013.csv``: one line, without its line end."""

    start: int
    end: int
    table: str

    @property
    def url(self) -> str:
        return f"fer2013://{self.start}-{self.end}::{self.table}"


Location: TypeAlias = FileLocation | MemberLocation | RowLocation


def parse(url: str) -> Location:
    """Read a ``source_url``; ``parse(location.url) == location`` for every location.

    Raises:
        SourceError: a protocol outside the allow-list, a nested container, a member that leaves its archive,
            credentials in the URL, or a URL that names no file.
    """
    scheme = _scheme(url)
    if scheme not in ("zip", "tar", "fer2013"):
        return FileLocation(_checked_file(url))
    inner, mark, outer = url.partition("://")[2].rpartition("::")
    if not mark:
        raise SourceError(f"{redact(url)!r} names no file that holds it", allowed=f"{scheme}://NAME::URL")
    # fsspec reads `zip://x::simplecache::s3://b/a.zip` as a chain of three.
    chained = "://" in inner or ("::" in inner and inner.rpartition("::")[2] in available_protocols())
    if _scheme(outer) in ("zip", "tar", "fer2013") or chained:
        raise SourceError(f"{redact(url)!r} chains more than a container and its file", hint="unpack nested archives")
    outer = _checked_file(outer)
    if scheme == "fer2013":
        match = _ROW.fullmatch(inner)
        if match is None or int(match[1]) >= int(match[2]):
            raise SourceError(f"{redact(url)!r} has no byte range", allowed="fer2013://START-END::URL")
        return RowLocation(int(match[1]), int(match[2]), outer)
    problem = member_problem(inner)
    if problem or inner != posixpath.normpath(inner):
        raise SourceError(f"{redact(url)!r} names no member: {problem or 'not a normal path'}")
    return MemberLocation("zip" if scheme == "zip" else "tar", inner, outer)


def normalise(url: str) -> str:
    """The canonical form of what a user gives: local paths become absolute ``file://`` URLs, by the working directory.

    Raises:
        SourceError: as ``parse``.
    """
    if re.match(r"(zip|tar|fer2013)://", url, re.IGNORECASE) and "::" in url:
        inner, _, outer = url.rpartition("::")
        scheme, _, rest = inner.partition("://")
        return parse(f"{scheme.lower()}://{rest}::{normalise(outer)}").url
    match = _SCHEME.match(url)
    if match is None:
        if not url or "://" in url:  # `simplecache::s3://bucket/x` is no local path
            raise SourceError(f"{redact(url)!r} is not a location", allowed=_ALLOWED)
        return parse("file://" + os.path.abspath(url)).url
    scheme, rest = match[1].lower(), url[match.end() :]
    if scheme == "file" and rest.startswith("/"):
        rest = os.path.abspath(rest)
    elif scheme == "memory":
        rest = posixpath.normpath(rest.strip("/"))
    return parse(f"{scheme}://{rest}").url


def storage(url: str) -> str:
    """Which kind of storage a canonical URL's file is in: its protocol, whose other spellings are one."""
    scheme = _scheme(url.rpartition("::")[2] if _scheme(url) in ("zip", "tar", "fer2013") else url)
    return {"https": "http", "gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme, scheme)


def member_problem(name: str) -> str:
    """Why a name cannot be a member's: empty when it can. Such a name is never joined to a path, so nothing escapes."""
    if not name or name.endswith("/"):
        return "the name is empty"
    if not _is_text(name):
        return "the name is not UTF-8 text"
    if "\\" in name:
        return "a backslash in the name"
    if name.startswith("/") or re.match(r"[A-Za-z]:(?!:)", name):
        return "an absolute path"
    if ".." in name.split("/"):
        return "the path leaves the archive"
    return ""


def redact(url: str) -> str:
    """The URL without user information and without the values of its query, for messages. Takes any string."""
    return "::".join(_redact_part(part) for part in url.split("::"))


def _redact_part(part: str) -> str:
    match = _SCHEME.search(part)  # not only at its beginning: it may have been pasted with a space or a quote before it
    if match is None or (match[1].lower() in _WITHOUT_HOST and part[match.end() :].startswith("/")):
        return part
    scheme, rest = match[1].lower(), part[match.end() :]
    if scheme in _WITHOUT_HOST:
        return scrub(part)
    user = _user_info(scheme, rest)
    if user:
        rest = "***" + rest[len(user) :]
    parameters = _PARAMETERS.search(rest)
    rest = f"{rest[: parameters.end()]}***" if parameters else rest
    return f"{part[: match.start()]}{scheme}://{rest}"


def _checked_file(url: str) -> str:
    """The URL of a whole file in canonical form, or a SourceError."""
    scheme = _scheme(url)
    rest = url.partition("://")[2]
    if not scheme:
        raise SourceError(f"{redact(url)!r} is not a URL", allowed=_ALLOWED)
    if scheme not in PROTOCOLS:
        raise SourceError(f"{redact(url)!r} has a protocol ferstore does not read", allowed=_ALLOWED)
    if not _is_text(url):
        raise SourceError(f"{redact(url)!r} is not UTF-8 text")
    if _CHAIN.search(rest):
        raise SourceError(
            f"{redact(url)!r} chains protocols", allowed="zip://, tar:// and fer2013:// in front of one URL"
        )
    if scheme == "file" and not rest.startswith("/"):
        raise SourceError(f"{redact(url)!r} is not absolute", allowed="file:///absolute/path")
    if scheme != "file" and (not rest or rest.startswith("/") or rest == "."):
        raise SourceError(f"{redact(url)!r} names no file", allowed=_ALLOWED)
    if _user_info(scheme, rest):
        raise SourceError(f"{redact(url)!r} carries user information", hint=_CREDENTIALS_HINT)
    if scheme not in _WITHOUT_HOST:
        for parameter in _PARAMETERS.split(rest)[1:]:
            if SECRET_PARAMETER.fullmatch(unquote_plus(parameter.partition("=")[0])):
                raise SourceError(f"{redact(url)!r} carries a signature or a key", hint=_CREDENTIALS_HINT)
    return f"{scheme}://{rest}"


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def _user_info(scheme: str, rest: str) -> str:
    """What stands before the ``@`` of a URL's host: a user name, a password, a token."""
    if scheme in _WITHOUT_HOST or "@" not in rest:
        return ""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, mark, _ = authority.rpartition("@")
    if mark:
        return "" if scheme in CONTAINER_BEFORE_AT and ":" not in user else user
    # A password with an unescaped slash looks like a host with a port that is no number.
    port = authority.partition("]")[2] if authority.startswith("[") else authority
    name = port.partition(":")[2]
    return rest.rpartition("@")[0] if name and not name.isdigit() else ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: a file name that is not UTF-8, and no Parquet string
        return False
    return "\0" not in text
