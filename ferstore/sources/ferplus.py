"""FERPLUS: the official extraction with its ``label.csv`` files, or ``fer2013.csv`` beside ``fer2013new.csv``.

Labels: https://github.com/microsoft/FERPlus. A face's class is ``labels.majority`` of its ten votes; all ten are kept.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from ferstore.errors import FetchError, SourceError
from ferstore.image.fetch import fer2013_pgm, open_binary, why
from ferstore.image.location import RowLocation, redact
from ferstore.sources.item import Entry, Expectation, Item, Listing, Refused
from ferstore.sources.labels import VOTES, majority
from ferstore.sources.tree import IMAGE_SUFFIXES, Tree

_FOLDERS = {"fer2013train": "train", "fer2013valid": "validation", "fer2013test": "test"}
_USAGES = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
_SPLITS = ("train", "validation", "test")
_VOTES_HEADER = ["Usage", "Image name", *VOTES]
_PIXELS_HEADER = b"emotion,pixels,Usage"
_LINE_BYTES = 2**16
# facts.md, section 3: rows of each split, and those that the majority rule keeps.
_LABEL_FILES_COUNTS = ((28_558, 3_579, 3_573), (25_045, 3_191, 3_137))
_CSV_COUNTS = ((28_709, 3_589, 3_589), (25_060, 3_199, 3_153))


@dataclass(frozen=True, slots=True)
class _Part:
    """One folder of the extraction, and its label file if it has one."""

    folder: str
    split: str
    label_file: str | None


def listing(tree: Tree) -> Listing:
    """List FERPLUS in either layout.

    Raises:
        SourceError: neither layout is there, or its files do not fit together.
    """
    parts = _parts(tree)
    pair = _csv_pair(tree)
    has_images = any(_part_of(name, parts) and _is_image(name) for name in tree.files)
    # Microsoft's repository holds label files without images beside fer2013new.csv.
    if parts and has_images:
        return _listing(tree, "label_files", tree.settled(_label_files_entries(tree, parts)), _LABEL_FILES_COUNTS)
    if pair is not None:
        return _listing(tree, "csv", tree.settled(_csv_entries(tree, *pair)), _CSV_COUNTS)
    if parts:
        raise SourceError(
            f"{redact(tree.url)} has label.csv files without a single image",
            hint="extract the images with Microsoft's FERPlus, or put fer2013.csv beside fer2013new.csv",
        )
    raise tree.mismatch("ferplus", "FER2013Train/label.csv with its images, or fer2013.csv beside fer2013new.csv")


def _listing(tree: Tree, layout: str, entries: tuple[Entry, ...], counts: tuple[tuple[int, ...], ...]) -> Listing:
    items = [entry for entry in entries if isinstance(entry, Item)]
    rows = Counter(item.official_split for item in items)
    labelled = Counter(item.official_split for item in items if item.label is not None)
    expected = (
        *(Expectation(f"{split} items", count, rows[split]) for split, count in zip(_SPLITS, counts[0], strict=True)),
        *(
            Expectation(f"{split} items with a majority label", count, labelled[split])
            for split, count in zip(_SPLITS, counts[1], strict=True)
        ),
    )
    return tree.listing("ferplus", layout, entries, expected)


# Layout "label_files"


def _parts(tree: Tree) -> tuple[_Part, ...]:
    """FER2013Train, FER2013Valid and FER2013Test as far as they are there, if any of them has a label file."""
    parts: dict[str, _Part] = {}
    for name in tree.files:
        path = name.split("/")
        depth = next((depth for depth, folder in enumerate(path[:-1], 1) if folder.casefold() in _FOLDERS), None)
        if depth is not None:
            folder, split = "/".join(path[:depth]), _FOLDERS[path[depth - 1].casefold()]
            parts.setdefault(folder, _Part(folder, split, None))
            if path[depth:] and "/".join(path[depth:]).casefold() == "label.csv":
                parts[folder] = _Part(folder, split, name)
    if all(part.label_file is None for part in parts.values()):
        return ()
    if len({part.split for part in parts.values()}) < len(parts):
        raise SourceError(
            f"{redact(tree.url)} has several folders for one part: {', '.join(sorted(parts))}",
            hint="give the folder that holds one extraction",
        )
    return tuple(sorted(parts.values(), key=lambda part: _SPLITS.index(part.split)))


def _part_of(name: str, parts: tuple[_Part, ...]) -> _Part | None:
    return next((part for part in parts if name.startswith(part.folder + "/")), None)


def _is_image(name: str) -> bool:
    return name.casefold().endswith(IMAGE_SUFFIXES)


def _label_files_entries(tree: Tree, parts: tuple[_Part, ...]) -> Iterator[Item | Refused]:
    files = set(tree.files)
    listed: set[str] = set()
    for part in parts:
        for number, row in enumerate(_rows(tree, part.label_file) if part.label_file else (), start=1):
            if not row[0].strip():
                name = f"{part.label_file}#row{number}"
                yield Refused(name, tree.url_of(part.label_file or ""), "the image name is empty")
                continue
            name = f"{part.folder}/{row[0]}"
            listed.add(name)
            # The box, row[1], is the whole face image in every row of the official extraction.
            votes = _votes(row[2:])
            if votes is None:
                yield Refused(name, tree.url_of(name), f"row {number} of label.csv is not a name, a box and ten votes")
            elif name not in files:
                yield Refused(name, tree.url_of(name), "listed in label.csv, but there is no such file")
            else:
                yield Item(name, tree.url_of(name), majority(votes), votes, official_split=part.split)
    for name in tree.files:
        unlisted = _part_of(name, parts)
        if unlisted and _is_image(name) and name not in listed:
            yield Item(name, tree.url_of(name), official_split=unlisted.split)


def _votes(fields: list[str]) -> tuple[int, ...] | None:
    fits = len(fields) == len(VOTES) and all(re.fullmatch(r" *[0-9]{1,4} *", field) for field in fields)
    return tuple(map(int, fields)) if fits else None


def _rows(tree: Tree, name: str) -> Iterator[list[str]]:
    """The rows of a CSV file, without blank ones."""
    try:
        yield from (row for row in csv.reader(io.StringIO(tree.read_text(name), newline="")) if row)
    except csv.Error as error:
        raise SourceError(f"{name} of {redact(tree.url)} is not CSV: {error}") from error


# Layout "csv"


def _csv_pair(tree: Tree) -> tuple[str, str] | None:
    """The names of fer2013.csv and fer2013new.csv, which must lie in one folder."""
    by_name = {name.casefold(): name for name in tree.files}
    pairs = []
    for votes in tree.files:
        folder, base = posixpath.split(votes)
        pixels = by_name.get(posixpath.join(folder, "fer2013.csv").casefold())
        if base.casefold() == "fer2013new.csv" and pixels:
            pairs.append((pixels, votes))
    if len(pairs) > 1:
        raise SourceError(f"{redact(tree.url)} has several fer2013new.csv", hint="give the folder that holds one")
    return pairs[0] if pairs else None


def _csv_entries(tree: Tree, pixels_name: str, votes_name: str) -> Iterator[Item | Refused]:
    """Joined by row position: the names in fer2013new.csv are not row numbers, some are empty, some occur twice."""
    if tree.is_archive:
        raise SourceError(
            f"{redact(tree.url)} is an archive with fer2013.csv, whose single rows cannot be read there",
            hint="unpack it and give the folder",
        )
    rows = _rows(tree, votes_name)
    if [field.strip() for field in next(rows, [])] != _VOTES_HEADER:
        raise SourceError(f"{votes_name} has another header", allowed=",".join(_VOTES_HEADER))
    votes_rows = list(rows)
    table = tree.url_of(pixels_name)
    position = -1
    for position, (start, line) in enumerate(_lines(table)):
        if position < len(votes_rows):
            url = RowLocation(start, start + len(line), table).url
            yield _csv_entry(position, url, line, votes_rows[position])
    if position + 1 != len(votes_rows):
        raise SourceError(
            f"{pixels_name} has {position + 1} rows and {votes_name} has {len(votes_rows)}",
            hint="use the two files as published: they are joined by row position",
        )


def _csv_entry(position: int, url: str, line: bytes, row: list[str]) -> Item | Refused:
    item_id = f"fer2013/{position:08d}"
    usage = line.rpartition(b",")[2].strip(b'" ').decode("utf-8", "replace")
    if usage != row[0].strip() or usage not in _USAGES:
        raise SourceError(
            f"row {position} (from 0) has Usage {usage[:40]!r} in fer2013.csv and {row[0][:40]!r} in fer2013new.csv",
            allowed=f"the same in both: {', '.join(_USAGES)}",
            hint="use the two files as published: they are joined by row position",
        )
    votes = _votes(row[2:])
    if votes is None:
        return Refused(item_id, url, "malformed votes in fer2013new.csv")
    try:
        fer2013_pgm(line)
    except FetchError as error:
        return Refused(item_id, url, str(error))
    return Item(item_id, url, majority(votes), votes, official_split=_USAGES[usage])


def _lines(table: str) -> Iterator[tuple[int, bytes]]:
    """Byte offset and bytes, without the line end, of each row below the header; blank lines are not rows.

    One line at a time: the file has 300 MB.
    """
    try:
        with io.BufferedReader(cast(io.RawIOBase, open_binary(table)), 2**20) as file:
            header = file.readline(_LINE_BYTES)
            if header.removeprefix(b"\xef\xbb\xbf").strip() != _PIXELS_HEADER:
                raise SourceError(f"{redact(table)} has another header", allowed=_PIXELS_HEADER.decode())
            start = len(header)
            while line := file.readline(_LINE_BYTES):
                if len(line) == _LINE_BYTES:
                    raise SourceError(f"{redact(table)} has a line of {_LINE_BYTES} bytes or more at byte {start}")
                if stripped := line.rstrip(b"\r\n"):
                    yield start, stripped
                start += len(line)
    except (FetchError, OSError) as error:
        raise SourceError(f"cannot read {redact(table)}: {why(error)}") from error
