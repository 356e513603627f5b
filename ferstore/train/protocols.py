"""Which part of a training set an item is in: pure, seeded functions of the items' identities.

Nothing is drawn from a generator, whose stream may differ between versions. What a seed decides, it decides by the
order of SHA-256 digests of ``seed:purpose:identity``; so a split is the same on every machine, for every version, and
in whatever order the items come.

Protocols:

- *official*: where the data set itself puts each item. One fold.
- *random*: image level, stratified by label. Without folds a fifth of each class is test and a tenth validation, each
  rounded to the nearest item (halves up), so that a class of one or two is all in train. With k folds, the items, class
  after class, are dealt to the folds in turn: each class, and each fold as a whole, is even to within one; a fold's
  validation part is a tenth of each class of its rest, rounded likewise.
- *subject*: no person on two sides. In seeded order each person goes to the fold that has the fewest items so far;
  a fold's validation part is whole persons of its rest, in an order of that fold's own, until it holds a tenth of the
  rest's items. With 0 folds each person is a fold.

Items of one image (the same bytes under several names) are kept together in *random* and *subject*: one unit, counted
once. Persons that share an image are one unit too.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ferstore.errors import InputError

Protocol = Literal["official", "random", "subject"]
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
SUBJECT_FOLDS = 10
"""Folds of the subject protocol where none are asked for and there are as many persons."""

Fold: TypeAlias = tuple[Part, ...]
"""The part of each item, in the order the items were given."""


@dataclass(frozen=True, slots=True)
class Example:
    """An item as a split sees it.

    Attributes:
        item_id: what names it in its data set; unique.
        image_id: digest of its bytes.
        label: its class.
        subject: the person, where the data set names one.
        official_split: train, validation or test, where the data set says so.
    """

    item_id: str
    image_id: str
    label: str
    subject: str | None = None
    official_split: Part | None = None


@dataclass(frozen=True, slots=True)
class _Unit:
    """Items that must stay together: the numbers of its members, and the name that stands for it in the order."""

    identity: str
    label: str
    members: tuple[int, ...]


def split_examples(
    examples: Sequence[Example], protocol: Protocol, *, seed: int, folds: int | None
) -> tuple[Fold, ...]:
    """The folds of a training set.

    Args:
        examples: in any order.
        protocol: see the module.
        seed: changes which items go where; without effect on ``official``.
        folds: None for the protocol's default; ``random``: at least 2; ``subject``: at least 2, or 0 for one a person.

    Raises:
        InputError: the examples do not allow it: no official split, no subjects, more folds than there are items or
            persons, or a number of folds that the protocol does not have.
    """
    if protocol == "official":
        if folds is not None:
            raise InputError(f"--folds {folds} with the official protocol", hint="leave --folds out")
        return (_official(examples),)
    if protocol == "random":
        return (_random(examples, seed),) if folds is None else _random_folds(examples, seed, folds)
    return _subject_folds(examples, seed, folds)


def check_folds(examples: Sequence[Example], folds: Sequence[Sequence[Part | None]]) -> None:
    """Refuse folds that nothing can be trained or tested on; None marks an item that is left out.

    Raises:
        InputError: a fold lacks a part, or its train part lacks a class.
    """
    classes = sorted({example.label for example in examples})
    for number, fold in enumerate(folds):
        if missing := [part for part in PARTS if part not in fold]:
            raise InputError(
                f"fold {number} would have no {' and no '.join(missing)} items",
                hint="use a data set with more items, another --protocol or another number of --folds",
            )
        trained = {example.label for example, part in zip(examples, fold, strict=True) if part == "train"}
        if unseen := [label for label in classes if label not in trained]:
            raise InputError(
                f"fold {number} would have no train example of class {', '.join(map(repr, unseen))}",
                hint="add examples of it, or use another --protocol, --folds or --leaks",
            )


def _official(examples: Sequence[Example]) -> Fold:
    fold = tuple(example.official_split for example in examples)
    if missing := [part for part in PARTS if part not in fold]:
        raise InputError(
            f"the data set's official split has no {' and no '.join(missing)} items",
            hint="use --protocol random or subject",
        )
    if None in fold:
        raise InputError(f"{fold.count(None)} items are in no part of the official split", hint="leave them out")
    return tuple(part for part in fold if part is not None)


def _random(examples: Sequence[Example], seed: int) -> Fold:
    parts: list[Part] = ["train"] * len(examples)
    for units in _by_label(_units(examples, by_subject=False)).values():
        ordered = _seeded(units, seed, "part")
        test, validation = _rounded(len(units), 2), _rounded(len(units), 1)
        _put(parts, ordered[:test], "test")
        _put(parts, ordered[test : test + validation], "validation")
    return tuple(parts)


def _random_folds(examples: Sequence[Example], seed: int, folds: int) -> tuple[Fold, ...]:
    units = _units(examples, by_subject=False)
    if not 2 <= folds <= len(units):
        raise InputError(f"--folds {folds}", allowed=f"2 to {len(units):,}, the number of distinct labelled images")
    dealt = [unit for _, mine in sorted(_by_label(units).items()) for unit in _seeded(mine, seed, "fold")]
    made = []
    for number in range(folds):
        parts: list[Part] = ["train"] * len(examples)
        _put(parts, dealt[number::folds], "test")
        rest = [unit for place, unit in enumerate(dealt) if place % folds != number]
        for mine in _by_label(rest).values():
            _put(parts, _seeded(mine, seed, f"validation {number}")[: _rounded(len(mine), 1)], "validation")
        made.append(tuple(parts))
    return tuple(made)


def _subject_folds(examples: Sequence[Example], seed: int, folds: int | None) -> tuple[Fold, ...]:
    if nameless := sum(example.subject is None for example in examples):
        raise InputError(
            f"{nameless:,} of {len(examples):,} labelled items name no subject",
            hint="use --protocol random or official",
        )
    units = _units(examples, by_subject=True)
    count = len(units)
    if count < len(PARTS):
        raise InputError(f"{count} persons that share no image", allowed="3 or more: one for each part")
    number_of_folds = {None: min(SUBJECT_FOLDS, count), 0: count}.get(folds, folds)
    if number_of_folds is None or not 2 <= number_of_folds <= count:
        raise InputError(
            f"--folds {folds}", allowed=f"2 to {count:,}, the number of persons, or 0 to leave one person out at a time"
        )
    tested: list[list[_Unit]] = [[] for _ in range(number_of_folds)]
    sizes = [0] * number_of_folds
    for unit in _seeded(units, seed, "fold"):
        fewest = sizes.index(min(sizes))
        tested[fewest].append(unit)
        sizes[fewest] += len(unit.members)
    made = []
    for number, mine in enumerate(tested):
        parts: list[Part] = ["train"] * len(examples)
        _put(parts, mine, "test")
        left = len(examples) - sizes[number]
        rest = _seeded(
            (unit for place, others in enumerate(tested) if place != number for unit in others),
            seed,
            f"validation {number}",
        )
        held = 0
        for unit in rest[:-1]:  # one person stays in train, however many items the others have
            if 10 * held >= left:
                break
            _put(parts, [unit], "validation")
            held += len(unit.members)
        made.append(tuple(parts))
    return tuple(made)


def _units(examples: Sequence[Example], *, by_subject: bool) -> list[_Unit]:
    """Items joined where they share an image (or a person), by disjoint sets with path halving."""
    parent = list(range(len(examples)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[tuple[str, str | None], int] = {}
    for number, example in enumerate(examples):
        ties = [("image", example.image_id), ("subject", example.subject)]
        for tie in ties if by_subject else ties[:1]:
            parent[root(number)] = root(first.setdefault(tie, number))
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(examples)):
        members[root(number)].append(number)
    units = []
    for mine in members.values():
        leader = min(mine, key=lambda number: examples[number].item_id)
        units.append(_Unit(examples[leader].item_id, examples[leader].label, tuple(mine)))
    return units


def _by_label(units: Iterable[_Unit]) -> dict[str, list[_Unit]]:
    found: dict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        found[unit.label].append(unit)
    return found


def _seeded(units: Iterable[_Unit], seed: int, purpose: str) -> list[_Unit]:
    """In the order that a seed gives them for one purpose."""
    return sorted(units, key=lambda unit: hashlib.sha256(f"{seed}:{purpose}:{unit.identity}".encode()).digest())


def _rounded(count: int, tenths: int) -> int:
    """So many tenths of a count, to the nearest whole, halves up."""
    return (tenths * count + 5) // 10


def _put(parts: list[Part], units: Iterable[_Unit], part: Part) -> None:
    for unit in units:
        for member in unit.members:
            parts[member] = part
