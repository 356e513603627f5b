"""Items on both sides of a split: those in train that have a counterpart in validation or test, and those counterparts.

What is compared, with what the store knows of an image:

- *same_bytes*: the same ``image_id``, the SHA-256 of the file.
- *same_hash*: the same 64-bit difference hash, width and height. It stands for "the same pixels", of which the store
  keeps no digest: pictures that differ only slightly are in it too.
- *near_duplicate*: difference hashes at most `NEAR_BITS` bits apart (the same hash at another size included).
- *same_subject*: the same person.

Of the first three an item has only the strongest, with the nearest counterpart; *same_subject* comes beside it.

`NEAR_BITS`: among the 3,600 faces of the shared sample 21 pairs of different pixels lie within 3 bits, and 11 of them
correlate above 0.9; of the 75 pairs at 4 and 5 bits, 12 do.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ferstore.train.protocols import PARTS, Fold, Part

Kind = Literal["same_bytes", "same_hash", "near_duplicate", "same_subject"]
KINDS: tuple[Kind, ...] = ("same_bytes", "same_hash", "near_duplicate", "same_subject")
NEAR_BITS = 3

_Numbers: TypeAlias = npt.NDArray[np.int64]
_Mask: TypeAlias = npt.NDArray[np.bool_]
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Traits:
    """What of an item is compared.

    Attributes:
        image_id: digest of its bytes.
        perceptual_hash: 16 hexadecimal digits, or None.
        width: in pixels, or None.
        height: in pixels, or None.
        subject: the person, or None.
    """

    image_id: str
    perceptual_hash: str | None = None
    width: int | None = None
    height: int | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Leak:
    """One item with a counterpart on the other side of one fold.

    Attributes:
        kind: see the module.
        item: number of the item.
        counterpart: number of the nearest item of that kind on the other side; the first of equally near ones.
        distance: bits between the two hashes; None for the kinds that compare something else.
    """

    kind: Kind
    item: int
    counterpart: int
    distance: int | None


def find_leaks(items: Sequence[Traits], folds: Sequence[Fold]) -> tuple[tuple[Leak, ...], ...]:
    """What lies on both sides, fold by fold, both sides listed, in the order of the items.

    Args:
        items: in an order that decides between equally near counterparts.
        folds: the part of each item in each fold.
    """
    images = _codes([item.image_id for item in items])
    hashes = _codes([item.perceptual_hash for item in items])
    sized = _codes([item.perceptual_hash and (item.perceptual_hash, item.width, item.height) for item in items])
    subjects = _codes([item.subject for item in items])
    distinct = list(dict.fromkeys(item.perceptual_hash for item in items if item.perceptual_hash is not None))
    near = _both_ways(*near_pairs(np.array([int(text, 16) for text in distinct], np.uint64)))
    none = np.full(len(items), -1)
    found = []
    for fold in folds:
        train = np.array([part == "train" for part in fold], bool)
        leaks: list[Leak] = []
        for own, other in ((train, ~train), (~train, train)):
            alike: list[tuple[Kind, _Numbers, _Numbers]] = [
                ("same_bytes", _same(images, other), none),
                ("same_hash", _same(sized, other), np.zeros(len(items), np.int64)),
                ("near_duplicate", *_nearest(hashes, near, other)),
            ]
            unseen = own.copy()
            for kind, counterparts, distances in alike:
                leaks += _leaks(kind, unseen, counterparts, distances)
                unseen &= counterparts < 0
            leaks += _leaks("same_subject", own, _same(subjects, other), none)
        found.append(tuple(sorted(leaks, key=lambda leak: (leak.item, KINDS.index(leak.kind)))))
    return tuple(found)


def near_pairs(hashes: npt.NDArray[np.uint64], bits: int = NEAR_BITS) -> tuple[_Numbers, _Numbers, _Numbers]:
    """All pairs of 64-bit hashes that differ in at most so many bits, without comparing all with all.

    Cut into ``bits + 1`` bands, two such hashes agree in one band at least; only those that do are compared.

    Args:
        hashes: distinct.
        bits: 0 to 63.

    Returns:
        Places of the first and the second of each pair, the first before the second, and their distances; each pair
        once.
    """
    pairs = [np.empty(0, np.int64)]
    for band in np.array_split(np.arange(64, dtype=np.uint64), bits + 1):
        key = (hashes >> band[0]) & np.uint64((1 << len(band)) - 1)
        order = np.argsort(key, kind="stable")
        key = key[order]
        start = np.arange(len(hashes))
        # Equal keys lie side by side: compare each with the next, with the one after, until none is equal.
        for step in range(1, len(hashes)):
            start = start[: np.searchsorted(start, len(hashes) - step)]
            start = start[key[start] == key[start + step]]
            if not len(start):
                break
            one, two = order[start], order[start + step]
            close = np.bitwise_count(hashes[one] ^ hashes[two]) <= bits
            pairs.append(np.minimum(one, two)[close] * len(hashes) + np.maximum(one, two)[close])
    first, second = np.divmod(np.unique(np.concatenate(pairs)), max(len(hashes), 1))
    return first, second, np.bitwise_count(hashes[first] ^ hashes[second]).astype(np.int64)


def _codes(values: Sequence[Hashable]) -> _Numbers:
    """Numbers from 0 in order of first appearance, equal for equal values; -1 for None."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(value, len(seen)) if value is not None else -1 for value in values], np.int64)


def _first(codes: _Numbers, among: _Mask) -> _Numbers:
    """For each code the first item that has it and is among those; -1 where none is, and at the end, for code -1."""
    first = np.full(codes.max(initial=-1) + 2, len(codes))
    np.minimum.at(first, codes[among], np.flatnonzero(among))
    first[-1] = len(codes)
    return np.where(first < len(codes), first, -1)


def _same(codes: _Numbers, other: _Mask) -> _Numbers:
    """For each item the first one on the other side with its code, or -1."""
    return _first(codes, other)[codes]


def _nearest(hashes: _Numbers, near: tuple[_Numbers, _Numbers, _Numbers], other: _Mask) -> tuple[_Numbers, _Numbers]:
    """For each item the nearest one on the other side, the first of equally near ones, and its distance; or -1."""
    first = _first(hashes, other)
    count = len(hashes)
    best = np.where(first >= 0, first, _FAR)  # distance x items + item: the least is the nearest, then the first
    one, two, distance = near
    there = first[two] >= 0
    np.minimum.at(best, one[there], distance[there] * count + first[two[there]])
    best = best[hashes]
    seen = best < _FAR
    return np.where(seen, best % max(count, 1), -1), np.where(seen, best // max(count, 1), -1)


def _both_ways(one: _Numbers, two: _Numbers, distance: _Numbers) -> tuple[_Numbers, _Numbers, _Numbers]:
    return np.concatenate([one, two]), np.concatenate([two, one]), np.concatenate([distance, distance])


def _leaks(kind: Kind, own: _Mask, counterparts: _Numbers, distances: _Numbers) -> list[Leak]:
    return [
        Leak(kind, item, int(counterparts[item]), int(distances[item]) if distances[item] >= 0 else None)
        for item in np.flatnonzero(own & (counterparts >= 0)).tolist()
    ]


def count_leaks(folds: Sequence[Fold], leaks: Sequence[Sequence[Leak]]) -> dict[str, dict[str, int]]:
    """Items by kind and part, summed over folds; every kind and part is there."""
    counts: dict[str, dict[str, int]] = {kind: dict.fromkeys(map(str, PARTS), 0) for kind in KINDS}
    for fold, found in zip(folds, leaks, strict=True):
        for leak in found:
            counts[leak.kind][fold[leak.item]] += 1
    return counts


def drop_leaks(folds: Sequence[Fold], leaks: Sequence[Sequence[Leak]]) -> tuple[tuple[Part | None, ...], ...]:
    """The folds with every train item that has a counterpart taken out (None)."""
    left = []
    for fold, found in zip(folds, leaks, strict=True):
        out = {leak.item for leak in found if fold[leak.item] == "train"}
        left.append(tuple(None if item in out else part for item, part in enumerate(fold)))
    return tuple(left)
