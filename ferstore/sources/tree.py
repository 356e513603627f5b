"""The files of a data set, whether they lie in a folder, on any fsspec filesystem, or in a zip or tar archive."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from ferstore.errors import SourceError
from ferstore.image.archive import SUFFIXES, archive_kind, open_archive
from ferstore.image.fetch import Fetcher, filesystem, open_binary, why
from ferstore.image.location import member_problem, normalise, parse, redact
from ferstore.image.web import is_web
from ferstore.sources.item import Entry, Expectation, Item, Listing, Refused, settle

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pnm")

# What file managers and version control leave behind: `.DS_Store`, `._x`, `.git/x`, `__MACOSX/x`, `Thumbs.db`.
_HIDDEN = re.compile(r"(?:^|/)(?:\.(?!\.?/)[^/]*|__MACOSX(?=/)|thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
_LABEL_FILE_BYTES = 64 * 2**20
_LINKS = 1_000_000  # of a folder on the web
_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class Tree:
    """Relative POSIX paths below a root; names are kept as they are.

    Attributes:
        url: the root, canonical.
        files: files that may be items or labels: sorted, for a tar in the order of the archive, the cheapest to read.
        hidden: files that are never items, such as ``.DS_Store``.
        refused: entries that are there but cannot be read as files.
        is_archive: whether the root is an archive rather than a folder.
    """

    url: str
    files: tuple[str, ...]
    hidden: tuple[str, ...]
    refused: tuple[Refused, ...]
    is_archive: bool
    _url_of: Callable[[str], str]
    _read: Callable[[str], bytes]

    def url_of(self, name: str) -> str:
        """The ``source_url`` of a file."""
        return self._url_of(name)

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a label file, at most 64 MiB.

        Raises:
            SourceError: it cannot be read.
        """
        try:
            return self._read(name)
        except Exception as error:  # storage drivers raise families of their own
            raise SourceError(f"cannot read {name} of {redact(self.url)}: {why(error)}") from error

    def read_text(self, name: str) -> str:
        """A label file as text: UTF-8, with or without a byte order mark.

        Raises:
            SourceError: it cannot be read, or is not UTF-8.
        """
        try:
            return self.read_bytes(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(f"{name} of {redact(self.url)} is not UTF-8 text: {error}") from error

    def settled(self, entries: Iterable[Item | Refused]) -> tuple[Entry, ...]:
        """The loader's entries and the tree's own refused ones, each listed once."""
        return settle((*entries, *self.refused))

    def listing(
        self, kind: str, layout: str, entries: tuple[Entry, ...], expected: tuple[Expectation, ...] = ()
    ) -> Listing:
        """The listing of settled entries; every file that became none of them is declared as ignored."""
        ignored = {*self.files, *self.hidden}.difference(entry.item_id for entry in entries)
        return Listing(kind, layout, self.url, entries, tuple(sorted(ignored)), expected)

    def mismatch(self, kind: str, looked_for: str) -> SourceError:
        """The error of a loader that does not find its layout."""
        found = f"{len(self.files)} files, such as {', '.join(sorted(self.files)[:3])}" if self.files else "no files"
        return SourceError(
            f"{redact(self.url)} is not a {kind} data set: found {found}",
            allowed=looked_for,
            hint="give the folder or archive that holds it",
        )


@contextmanager
def open_tree(url: str) -> Iterator[Tree]:
    """List a folder or an archive. Label files can be read until the context ends.

    Raises:
        SourceError: there is nothing at ``url``, it is a plain file, a broken archive, or it cannot be listed.
    """
    root = normalise(url)
    with ExitStack() as opened:
        try:
            tree = _folder(root, opened) if _is_folder(root) else _archive(root, opened)
        except FileNotFoundError:
            raise SourceError(f"there is nothing at {redact(root)}", hint="check the path for a typo") from None
        except SourceError:
            raise
        except Exception as error:  # storage drivers raise families of their own
            raise SourceError(f"cannot list {redact(root)}: {why(error)}") from error
        yield tree


def _folder(root: str, opened: ExitStack) -> Tree:
    names, refused = _local_files(root.removeprefix("file://")) if _is_local(root) else _remote_files(root)
    fetcher = opened.enter_context(Fetcher(_LABEL_FILE_BYTES))
    prefix = root if root.endswith("/") else root + "/"
    return _tree(
        root, False, sorted(names), refused, lambda name: prefix + name, lambda name: fetcher.read(prefix + name)
    )


def _archive(root: str, opened: ExitStack) -> Tree:
    kind = archive_kind(root)
    if kind is None:
        raise SourceError(f"{redact(root)} is a file", allowed=f"a folder, or an archive ({', '.join(SUFFIXES)})")
    try:
        archive = opened.enter_context(closing(open_archive(open_binary(root), kind)))
    except SourceError as error:
        raise SourceError(f"{redact(root)}: {error.problem}", hint=error.hint) from error
    return _tree(
        root,
        True,
        archive.members,
        archive.refused,
        lambda name: f"{kind}://{name}::{root}",
        lambda name: archive.read(name, _LABEL_FILE_BYTES),
    )


def _tree(
    root: str,
    is_archive: bool,
    names: Iterable[str],
    problems: Iterable[tuple[str, str]],
    url_of: Callable[[str], str],
    read: Callable[[str], bytes],
) -> Tree:
    files: list[str] = []
    hidden: list[str] = []
    refused: list[Refused] = []

    def refuse(name: str, problem: str) -> None:
        name = _printable(name)
        refused.append(Refused(name, redact(url_of(name)), problem))

    for name in names:
        try:
            parse(url_of(name))
        except SourceError as error:
            refuse(name, error.problem)
        else:
            (hidden if _HIDDEN.search(name) else files).append(name)
    for name, problem in problems:
        if _HIDDEN.search(name):
            hidden.append(_printable(name))
        else:
            refuse(name, problem)
    return Tree(root, tuple(files), tuple(hidden), tuple(refused), is_archive, url_of, read)


def _is_local(root: str) -> bool:
    return root.startswith("file://")


def _is_folder(root: str) -> bool:
    if _is_local(root):
        return stat.S_ISDIR(os.stat(root.removeprefix("file://")).st_mode)
    if is_web(root):  # a web server has pages, whose links are a folder's files
        return archive_kind(root) is None
    files, path = filesystem(root)
    return bool(files.info(path)["type"] == "directory")


def _local_files(folder: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of all but folders, and the links to folders: not followed, because they may lead in circles."""

    def fail(error: OSError) -> None:
        raise SourceError(f"cannot list {error.filename}: {why(error)}", hint="make it readable, or leave it out")

    names: list[str] = []
    refused: list[tuple[str, str]] = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        below = os.path.relpath(parent, folder)
        prefix = "" if below == "." else below + "/"
        names += [prefix + name for name in files]
        refused += [
            (prefix + name, "a symbolic link to a folder, which is not followed")
            for name in folders
            if os.path.islink(os.path.join(parent, name))
        ]
    return names, sorted(refused)


def _remote_files(root: str) -> tuple[list[str], list[tuple[str, str]]]:
    files, path = filesystem(root)
    prefix = path if path.endswith("/") else path + "/"
    # Object stores list folders as empty keys ending in a slash.
    names = _linked(files, prefix) if is_web(root) else files.find(path)
    found = [name for name in names if name.startswith(prefix) and not name.endswith("/")]
    names = sorted(name.removeprefix(prefix) for name in found)
    refused = [(name, problem) for name in names if (problem := member_problem(name))]
    return [name for name in names if not member_problem(name)], refused


def _linked(files: Any, root: str) -> Iterator[str]:
    """What the pages below a web address link to, below that address too; a page is a link that ends in a slash."""
    pages, links = [root], {root}
    for page in pages:  # grows as it goes
        for link in files.ls(page, detail=False):
            below = posixpath.normpath(link.removeprefix(root)) + ("/" if link.endswith("/") else "")
            found = root + below
            if not link.startswith(root) or below.startswith(("./", "../", "/")) or found in links:
                continue
            links.add(found)
            if len(links) > _LINKS or len(pages) > _PAGES:  # a server can make up pages without end
                raise SourceError(f"more than {_PAGES} pages or {_LINKS} links are below {redact(root)}")
            if found.endswith("/"):
                pages.append(found)
            else:
                yield found


def _printable(name: str) -> str:
    """A name that is not UTF-8 as text, with its bytes escaped: tables hold text only."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
