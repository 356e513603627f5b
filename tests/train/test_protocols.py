"""Splits are pure, seeded functions of the items: every item in one part, no image or person on two sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ferstore.errors import InputError
from ferstore.train.protocols import PARTS, Example, Fold, Protocol, check_folds, split_examples

seeds = st.integers(0, 2**63 - 1)
protocols: st.SearchStrategy[tuple[Protocol, int | None]] = st.sampled_from(
    [("random", None), ("random", 2), ("random", 5), ("subject", None), ("subject", 0), ("subject", 3)]
)


@st.composite
def crowds(draw: st.DrawFn, *, shared_images: bool = True) -> list[Example]:
    count = draw(st.integers(5, 40))
    return [
        Example(
            item_id=f"item-{number}",
            image_id=f"image-{draw(st.integers(0, count)) if shared_images else number}",
            label=draw(st.sampled_from("abc")),
            subject=f"person-{draw(st.integers(0, 12))}",
        )
        for number in range(count)
    ]


def halves(count: int, tenths: int) -> int:
    return int(tenths * count / 10 + 0.5)


def made(examples: Sequence[Example], protocol: Protocol, seed: int, folds: int | None) -> tuple[Fold, ...]:
    try:
        return split_examples(examples, protocol, seed=seed, folds=folds)
    except InputError:
        assume(False)
        raise


def of_part(examples: Sequence[Example], fold: Fold, part: str) -> list[Example]:
    return [example for example, given_part in zip(examples, fold, strict=True) if given_part == part]


@given(crowds(), protocols, seeds)
def test_every_item_has_one_part_in_every_fold(
    examples: list[Example], how: tuple[Protocol, int | None], seed: int
) -> None:
    folds = made(examples, how[0], seed, how[1])
    assert all(len(fold) == len(examples) and set(fold) <= set(PARTS) for fold in folds)


@given(crowds(), protocols.filter(lambda how: how != ("random", None)), seeds)
def test_the_test_parts_of_the_folds_partition_the_items(
    examples: list[Example], how: tuple[Protocol, int | None], seed: int
) -> None:
    folds = made(examples, how[0], seed, how[1])
    tested = Counter(example.item_id for fold in folds for example in of_part(examples, fold, "test"))
    assert tested == {example.item_id: 1 for example in examples}
    assert all("test" in fold for fold in folds)


@given(crowds(), protocols, seeds)
def test_an_image_under_several_names_is_in_one_part(
    examples: list[Example], how: tuple[Protocol, int | None], seed: int
) -> None:
    for fold in made(examples, how[0], seed, how[1]):
        parts = {(example.image_id, part) for example, part in zip(examples, fold, strict=True)}
        assert len(parts) == len({example.image_id for example in examples})


@given(crowds(), st.sampled_from([None, 0, 3]), seeds)
def test_no_person_is_in_two_parts_of_a_subject_fold(examples: list[Example], folds: int | None, seed: int) -> None:
    for fold in made(examples, "subject", seed, folds):
        parts = {(example.subject, part) for example, part in zip(examples, fold, strict=True)}
        assert len(parts) == len({example.subject for example in examples})
        assert set(fold) == set(PARTS)


@given(crowds(), protocols, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_matter(
    examples: list[Example], how: tuple[Protocol, int | None], seed: int, chance: object
) -> None:
    shuffled = list(examples)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    def by_item(items: list[Example]) -> list[dict[str, str]]:
        folds = made(items, how[0], seed, how[1])
        return [{e.item_id: part for e, part in zip(items, fold, strict=True)} for fold in folds]

    assert by_item(shuffled) == by_item(examples)


@given(crowds(shared_images=False), seeds)
def test_one_random_split_has_seventy_ten_and_twenty_percent_of_each_class(examples: list[Example], seed: int) -> None:
    (fold,) = split_examples(examples, "random", seed=seed, folds=None)
    for label, count in Counter(example.label for example in examples).items():
        found = Counter(part for e, part in zip(examples, fold, strict=True) if e.label == label)
        assert (found["test"], found["validation"]) == (halves(count, 2), halves(count, 1))


@given(crowds(shared_images=False), st.integers(2, 5), seeds)
def test_random_folds_are_even_in_each_class_and_in_all_to_within_one(
    examples: list[Example], folds: int, seed: int
) -> None:
    split = split_examples(examples, "random", seed=seed, folds=folds)
    for label in ("a", "b", "c", None):
        mine = [[e for e in of_part(examples, fold, "test") if label in (None, e.label)] for fold in split]
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
    for fold in split:
        rest = Counter(e.label for e, part in zip(examples, fold, strict=True) if part != "test")
        validation = Counter(e.label for e in of_part(examples, fold, "validation"))
        assert all(validation[label] == halves(count, 1) for label, count in rest.items())


@given(crowds(), st.sampled_from([None, 3]), seeds)
def test_validation_persons_of_a_subject_fold_are_no_more_than_it_takes_for_a_tenth(
    examples: list[Example], folds: int | None, seed: int
) -> None:
    for fold in made(examples, "subject", seed, folds):
        held = Counter(e.subject for e in of_part(examples, fold, "validation"))
        rest = len(fold) - fold.count("test")
        if len({e.image_id for e in examples}) == len(examples):  # then each person is a unit of its own
            assert held.total() - min(held.values()) < rest / 10 or len(held) == 1


PEOPLE = [
    Example(f"S{person:02}/{number}.png", f"{person}-{number}", "ab"[number % 2], f"S{person:02}")
    for person in range(6)
    for number in range(4)
]


def letters(fold: Fold) -> str:
    return "".join({"train": ".", "validation": "v", "test": "t"}[part] for part in fold)


@pytest.mark.parametrize(
    ("protocol", "folds", "expected"),
    [
        ("random", None, ["t....t.......vv.t..t...."]),
        ("random", 3, ["tvtt...t..tt..t..t....v.", "vt..tt...t.....tt.tv..t.", ".v....t.t...tt..v..ttt.t"]),
        ("subject", 3, ["....ttttvvvv....tttt....", "vvvv........tttt....tttt", "tttt....tttt....vvvv...."]),
    ],
)
def test_a_seed_gives_the_same_split_on_every_machine_and_version(
    protocol: Protocol, folds: int | None, expected: list[str]
) -> None:
    # These lines are part of what a training set promises. If they change, a seed no longer means what it meant.
    assert [letters(fold) for fold in split_examples(PEOPLE, protocol, seed=7, folds=folds)] == expected


@pytest.mark.parametrize(("protocol", "folds"), [("random", None), ("random", 3), ("subject", 3)])
def test_another_seed_gives_another_split(protocol: Protocol, folds: int | None) -> None:
    seeded = {split_examples(PEOPLE, protocol, seed=seed, folds=folds) for seed in range(5)}
    assert len(seeded) == 5


def test_leaving_one_person_out_makes_a_fold_of_each() -> None:
    folds = split_examples(PEOPLE, "subject", seed=0, folds=0)
    tested = [{e.subject for e in of_part(PEOPLE, fold, "test")} for fold in folds]
    assert sorted(map(sorted, tested)) == [[f"S{person:02}"] for person in range(6)]  # type: ignore[arg-type]


def test_subject_folds_are_ten_unless_there_are_fewer_persons() -> None:
    many = [Example(f"{n}", f"{n}", "a", f"p{n}") for n in range(25)]
    assert len(split_examples(many, "subject", seed=0, folds=None)) == 10
    assert len(split_examples(PEOPLE, "subject", seed=0, folds=None)) == 6


def test_persons_that_share_an_image_are_never_on_two_sides() -> None:
    tied = [*PEOPLE, Example("S00/again.png", "1-0", "a", "S00")]
    for seed in range(20):
        for fold in split_examples(tied, "subject", seed=seed, folds=3):
            assert len({part for e, part in zip(tied, fold, strict=True) if e.subject in ("S00", "S01")}) == 1


def official(*parts: str | None) -> list[Example]:
    return [Example(f"{n}", "same", "a", None, part) for n, part in enumerate(parts)]  # type: ignore[arg-type]


def test_official_parts_are_the_data_sets_own_even_for_one_image_in_all_of_them() -> None:
    examples = official("test", "train", "validation", "train")
    assert split_examples(examples, "official", seed=3, folds=None) == (("test", "train", "validation", "train"),)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((None, None), "no train and no validation and no test items"),
        (("train", "test"), "no validation items"),
        (("train", "test", "validation", None), "1 items are in no part"),
    ],
)
def test_an_official_split_that_lacks_something_says_what(parts: tuple[str | None, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_examples(official(*parts), "official", seed=0, folds=None)


@pytest.mark.parametrize(
    ("protocol", "folds", "said"),
    [
        ("official", 2, "--folds 2 with the official protocol"),
        ("random", 1, "allowed: 2 to 24"),
        ("random", 0, "allowed: 2 to 24"),
        ("random", 25, "allowed: 2 to 24"),
        ("random", -1, "allowed: 2 to 24"),
        ("subject", 1, "allowed: 2 to 6, the number of persons, or 0"),
        ("subject", 7, "allowed: 2 to 6"),
        ("subject", -2, "allowed: 2 to 6"),
    ],
)
def test_a_number_of_folds_that_cannot_be_is_refused(protocol: Protocol, folds: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_examples(PEOPLE, protocol, seed=0, folds=folds)


def test_items_without_a_person_are_refused_by_the_subject_protocol() -> None:
    with pytest.raises(InputError, match="1 of 25 labelled items name no subject"):
        split_examples([*PEOPLE, Example("x", "x", "a")], "subject", seed=0, folds=None)


def test_two_persons_are_too_few_for_three_parts() -> None:
    with pytest.raises(InputError, match="2 persons"):
        split_examples(PEOPLE[:8], "subject", seed=0, folds=2)


ABC = [Example("1", "1", "a"), Example("2", "2", "b"), Example("3", "3", "a"), Example("4", "4", "a")]


def test_folds_that_can_be_trained_and_tested_on_are_accepted() -> None:
    check_folds(ABC, [("train", "train", "validation", "test")])


@pytest.mark.parametrize(
    ("fold", "said"),
    [
        (("train", "train", "validation", "train"), "fold 1 would have no test items"),
        (("train", "train", None, "test"), "fold 1 would have no validation items"),
        (("test", "validation", "test", None), "fold 1 would have no train items"),
        (("train", "test", "validation", "test"), "fold 1 would have no train example of class 'b'"),
        (("train", None, "validation", "test"), "fold 1 would have no train example of class 'b'"),
    ],
)
def test_a_fold_without_a_part_or_a_class_to_train_is_refused(fold: Fold, said: str) -> None:
    good = ("train", "train", "validation", "test")
    with pytest.raises(InputError, match=said):
        check_folds(ABC, [good, fold])  # type: ignore[list-item]


@settings(max_examples=20)
@given(seeds)
def test_a_class_of_two_items_is_trained_on_whole(seed: int) -> None:
    rare = [*PEOPLE, Example("r1", "r1", "rare"), Example("r2", "r2", "rare")]
    (fold,) = split_examples(rare, "random", seed=seed, folds=None)
    assert fold[-2:] == ("train", "train")
