"""What lies on both sides of a split, against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.image.phash import distance
from ferstore.train.leaks import NEAR_BITS, Kind, Leak, Traits, count_leaks, drop_leaks, find_leaks, near_pairs
from ferstore.train.protocols import Fold

parts = st.sampled_from(["train", "train", "validation", "test"])
hashes = st.one_of(
    st.none(),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]).flatmap(
        lambda base: st.sets(st.integers(0, 63), max_size=5).map(
            lambda bits: f"{base ^ sum(1 << bit for bit in bits):016x}"
        )
    ),
)
traits = st.builds(
    Traits,
    image_id=st.integers(0, 30).map(str),
    perceptual_hash=hashes,
    width=st.sampled_from([48, 64]),
    height=st.just(48),
    subject=st.sampled_from([None, "x", "y", "z"]),
)
splits = st.lists(st.tuples(traits, parts), max_size=25)


def alike(a: Traits, b: Traits) -> tuple[Kind, int | None] | None:
    """The strongest look-alike kind of two items, and their distance."""
    if a.image_id == b.image_id:
        return "same_bytes", None
    if a.perceptual_hash is None or b.perceptual_hash is None:
        return None
    bits = distance(a.perceptual_hash, b.perceptual_hash)
    if bits == 0 and (a.width, a.height) == (b.width, b.height):
        return "same_hash", 0
    return ("near_duplicate", bits) if bits <= 3 else None


def all_with_all(items: list[Traits], fold: Fold) -> set[Leak]:
    found = set()
    ranks = ("same_bytes", "same_hash", "near_duplicate")
    for number, item in enumerate(items):
        others = [o for o in range(len(items)) if (fold[o] == "train") != (fold[number] == "train")]
        candidates = [(*near, o) for o in others if (near := alike(item, items[o]))]
        if candidates:
            kind, bits, other = min(candidates, key=lambda c: (ranks.index(c[0]), c[1] or 0, c[2]))
            found.add(Leak(kind, number, other, bits))
        known = [o for o in others if item.subject is not None and items[o].subject == item.subject]
        if known:
            found.add(Leak("same_subject", number, known[0], None))
    return found


@given(splits)
def test_the_leaks_found_are_those_that_comparing_all_with_all_finds(split: list[tuple[Traits, str]]) -> None:
    items = [item for item, _ in split]
    fold: Fold = tuple(part for _, part in split)  # type: ignore[misc]
    (found,) = find_leaks(items, [fold])
    assert len(found) == len(set(found))
    assert set(found) == all_with_all(items, fold)


@given(splits)
def test_nothing_is_on_both_sides_once_the_leaks_are_dropped(split: list[tuple[Traits, str]]) -> None:
    items = [item for item, _ in split]
    fold: Fold = tuple(part for _, part in split)  # type: ignore[misc]
    (left,) = drop_leaks([fold], find_leaks(items, [fold]))
    kept = [(item, part) for item, part in zip(items, left, strict=True) if part is not None]
    assert find_leaks([item for item, _ in kept], [tuple(part for _, part in kept)]) == ((),)
    assert all(now == before or (now is None and before == "train") for now, before in zip(left, fold, strict=True))


def test_leaks_are_counted_by_kind_and_part_over_all_folds() -> None:
    items = [Traits("a", subject="p"), Traits("a", subject="p"), Traits("b", subject="q"), Traits("c", subject="p")]
    folds: list[Fold] = [("train", "test", "test", "validation"), ("test", "train", "validation", "train")]
    assert count_leaks(folds, find_leaks(items, folds)) == {
        "same_bytes": {"train": 2, "validation": 0, "test": 2},
        "same_hash": {"train": 0, "validation": 0, "test": 0},
        "near_duplicate": {"train": 0, "validation": 0, "test": 0},
        "same_subject": {"train": 3, "validation": 1, "test": 2},
    }


def test_the_same_image_in_validation_and_test_is_no_leak_into_train() -> None:
    items = [Traits("a"), Traits("a"), Traits("b")]
    assert find_leaks(items, [("validation", "test", "train")]) == ((),)


@pytest.mark.parametrize(("bits", "found"), [(NEAR_BITS, 2), (NEAR_BITS + 1, 0)])
def test_near_ends_where_it_is_documented_to_end(bits: int, found: int) -> None:
    items = [Traits("a", f"{0:016x}", 8, 8), Traits("b", f"{2**bits - 1:016x}", 8, 8)]
    (leaks,) = find_leaks(items, [("train", "test")])
    assert len(leaks) == found


@given(st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 2**7), max_size=30), st.integers(0, 12))
def test_pairs_by_bands_are_those_of_comparing_all_with_all(values: set[int], bits: int) -> None:
    array = np.array(sorted(values), np.uint64)
    first, second, distances = near_pairs(array, bits)
    expected = [
        (a, b, (int(array[a]) ^ int(array[b])).bit_count())
        for a in range(len(array))
        for b in range(a + 1, len(array))
        if (int(array[a]) ^ int(array[b])).bit_count() <= bits
    ]
    assert list(zip(first.tolist(), second.tolist(), distances.tolist(), strict=True)) == expected
