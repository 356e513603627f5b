"""What a data set lists: items, entries that cannot be items, and items listed twice. Nothing is left out silently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a data set and what the data set says about it.

    Attributes:
        item_id: the path below the data set's root, or what else names the item there; unique in a listing.
        url: where the bytes are, see ``ferstore.image.location``.
        label: the class under the data set's default rule, or None.
        votes: counts in the data set's own order, see ``ferstore.sources.labels.VOTES``, or None.
        subject: the person, or None where the data set does not say.
        sequence: the recording the image is a frame of, or None.
        official_split: ``train``, ``validation``, ``test`` or None.
    """

    item_id: str
    url: str
    label: str | None = None
    votes: tuple[int, ...] | None = None
    subject: str | None = None
    sequence: str | None = None
    official_split: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Listed by the data set, but not an item: it belongs in quarantine."""

    item_id: str
    url: str
    error: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An item listed again, saying the same: declared, not stored. ``item_id`` is that of the item."""

    item_id: str
    url: str
    reason: str


Entry: TypeAlias = Item | Refused | Duplicate


@dataclass(frozen=True, slots=True)
class Expectation:
    """A count the published data set has, and the one found here. A sample differs; that is not an error."""

    what: str
    expected: int
    found: int

    @property
    def difference(self) -> int:
        return self.found - self.expected


@dataclass(frozen=True, slots=True)
class Listing:
    """A data set as found, before any image is read.

    Attributes:
        kind: one of ``ferstore.sources.KINDS``.
        layout: which of the kind's layouts was found.
        url: the root, canonical.
        entries: everything listed, each once.
        ignored: relative names of the files that are not items (label files, hidden files, notes).
        expected: the published counts beside those found.
    """

    kind: str
    layout: str
    url: str
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...]
    expected: tuple[Expectation, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(entry for entry in self.entries if isinstance(entry, Item))


def settle(entries: Iterable[Item | Refused]) -> tuple[Entry, ...]:
    """Make ``item_id`` unique: the first listing of an item stands.

    The same item listed again with the same label, votes and split is a Duplicate; with others it is Refused, because
    one of the two must be wrong. A Refused whose id is taken gets the first free of ``#2``, ``#3``, ...
    """
    listed = list(entries)
    taken = {entry.item_id for entry in listed if isinstance(entry, Item)}

    def unique(refused: Refused) -> Refused:
        item_id, count = refused.item_id, 1
        while item_id in taken:
            count += 1
            item_id = f"{refused.item_id}#{count}"
        taken.add(item_id)
        return replace(refused, item_id=item_id)

    first: dict[str, Item] = {}
    settled: list[Entry] = []
    for entry in listed:
        if isinstance(entry, Refused):
            settled.append(unique(entry))
        elif entry.item_id not in first:
            first[entry.item_id] = entry
            settled.append(entry)
        elif entry == first[entry.item_id]:
            settled.append(Duplicate(entry.item_id, entry.url, "listed again, saying the same"))
        else:
            settled.append(unique(Refused(entry.item_id, entry.url, "listed again with another label")))
    return tuple(settled)
