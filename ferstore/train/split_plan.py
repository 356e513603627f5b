"""What a split writes: the rows of a training set as a pure function of a request and the rows of ``images``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ferstore.errors import InputError
from ferstore.labels import EMOTIONS, soft
from ferstore.train.leaks import Leak, Traits, count_leaks, drop_leaks, find_leaks
from ferstore.train.protocols import PARTS, Example, Fold, Part, Protocol, check_folds, split_examples

Labels = Literal["majority", "soft"]
LeakPolicy = Literal["report", "drop", "refuse"]

IMAGE_COLUMNS = (
    "item_id",
    "image_id",
    "perceptual_hash",
    "width",
    "height",
    "subject",
    "label",
    "votes",
    "official_split",
)
"""Columns of ``images`` that a split looks at."""

_NAME = re.compile(r"\w[\w.-]{0,79}")


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """What to freeze, under which name.

    Attributes:
        name: of the training set.
        dataset: whose items.
        protocol: see `ferstore.train.protocols`.
        labels: ``soft`` labels are shares of the votes where an item has them, ``majority`` ones are one-hot.
        seed: at least 0.
        folds: None for the protocol's default, see `ferstore.train.protocols.split_examples`.
        leaks: what to do about items on both sides of the split: ``report`` them and keep them, ``drop`` them from
            train, or ``refuse`` to make the set.
    """

    name: str
    dataset: str
    protocol: Protocol
    labels: Labels = "majority"
    seed: int = 0
    folds: int | None = None
    leaks: LeakPolicy = "report"

    def check(self) -> None:
        """Refuse what no data set could mend.

        Raises:
            InputError: an impossible name or seed.
        """
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"training set name {self.name!r}", allowed="1 to 80 letters, digits, _, - and ., the first no - or ."
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed {self.seed}", allowed="0 to 2^63 - 1")

    def as_json(self) -> str:
        """The options as one comparable text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """A training set before it is written.

    Attributes:
        classes: in alphabetical order.
        counts: ``listed`` items of the data set = ``kept`` + ``no_label`` + ``no_official_split`` +
            ``class_only_in_validation``; among the kept, distinct ``images`` and items ``with_votes``.
        leak_counts: items by kind and part, summed over folds, before any was dropped.
        folds: how many.
        items: columns item_id, image_id, fold, part, label, soft_label.
        leaks: columns fold, kind, item_id, image_id, part, counterpart_item_id, counterpart_image_id,
            counterpart_part, distance.
    """

    classes: tuple[str, ...]
    counts: Mapping[str, int]
    leak_counts: Mapping[str, Mapping[str, int]]
    folds: int
    items: pa.Table
    leaks: pa.Table


def plan_split(images: pa.Table, request: SplitRequest) -> SplitPlan:
    """Split the items of one data set.

    Args:
        images: all its rows of ``images``, `IMAGE_COLUMNS` of them, in any order.
        request: what to make of them.

    Raises:
        InputError: no item has a label, the protocol does not fit (see `split_examples` and `check_folds`), or
            ``refuse`` and something lies on both sides.
    """
    listed = images.sort_by("item_id").to_pylist()
    labelled = [row for row in listed if row["label"] is not None]
    if not labelled:
        raise InputError(f"no item of data set {request.dataset!r} has a label", hint="ingest it with its labels")
    placed = [row for row in labelled if request.protocol != "official" or row["official_split"] is not None]
    kept = _without_untrainable(placed) if request.protocol == "official" else placed
    examples = [Example(r["item_id"], r["image_id"], r["label"], r["subject"], r["official_split"]) for r in kept]
    folds = split_examples(examples, request.protocol, seed=request.seed, folds=request.folds)
    check_folds(examples, folds)
    leaks = find_leaks([Traits(*(row[name] for name in Traits.__slots__)) for row in kept], folds)
    leak_counts = count_leaks(folds, leaks)
    if request.leaks == "refuse" and any(leaks):
        raise InputError(
            f"items lie on both sides of the split: {describe_leaks(leak_counts)}",
            hint="drop them from train with --leaks drop, or keep them with --leaks report",
        )
    left = drop_leaks(folds, leaks) if request.leaks == "drop" else folds
    check_folds(examples, left)
    classes = tuple(sorted({example.label for example in examples}))
    return SplitPlan(
        classes=classes,
        counts={
            "listed": len(listed),
            "kept": len(kept),
            "no_label": len(listed) - len(labelled),
            "no_official_split": len(labelled) - len(placed),
            "class_only_in_validation": len(placed) - len(kept),
            "images": len({example.image_id for example in examples}),
            "with_votes": sum(row["votes"] is not None for row in kept),
        },
        leak_counts=leak_counts,
        folds=len(folds),
        items=_items(examples, left, label_shares(kept, classes, request.labels)),
        leaks=_leaks(examples, folds, leaks),
    )


def _without_untrainable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the classes of an official split that only its validation part has.

    They can be neither learned nor tested. A class that test has and train has not stays, and is refused: leaving it
    out would make another benchmark of the split.
    """
    classes: dict[str, set[str]] = {str(part): set() for part in PARTS}
    for row in rows:
        classes[row["official_split"]].add(row["label"])
    lost = classes["validation"] - classes["train"] - classes["test"]
    return [row for row in rows if row["label"] not in lost]


def describe_leaks(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Counts by kind and part in one line; "none" where there are none."""
    kinds = (
        f"{kind} " + ", ".join(f"{part} {count:,}" for part, count in parts.items() if count)
        for kind, parts in counts.items()
        if any(parts.values())
    )
    return "; ".join(kinds) or "none"


def label_shares(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], labels: Labels) -> npt.NDArray[np.float32]:
    """Targets of training.

    Args:
        rows: with ``label`` (one of the classes) and ``votes`` (`ferstore.labels.VOTES`, or None).
        classes: of the training set. Votes for an emotion that is none of them are left out, the others scaled up.
        labels: ``soft`` uses the votes where there are any.

    Returns:
        float32 (rows, classes), each row summing to 1.
    """
    place = {label: number for number, label in enumerate(classes)}
    shares = np.zeros((len(rows), len(classes)))
    for share, row in zip(shares, rows, strict=True):
        voted = soft(row["votes"]) if labels == "soft" and row["votes"] is not None else None
        if voted is None:
            share[place[row["label"]]] = 1
            continue
        for emotion, part in zip(EMOTIONS, voted, strict=True):
            if emotion in place:
                share[place[emotion]] = part
    shares /= shares.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)


def _items(
    examples: Sequence[Example], folds: Sequence[Sequence[Part | None]], shares: npt.NDArray[np.float32]
) -> pa.Table:
    offsets = np.arange(0, shares.size + 1, shares.shape[1], dtype=np.int32)
    every = pa.table(
        {
            "item_id": [example.item_id for example in examples],
            "image_id": [example.image_id for example in examples],
            "label": [example.label for example in examples],
            "soft_label": pa.ListArray.from_arrays(offsets, shares.ravel()),
        }
    )
    made = []
    for number, fold in enumerate(folds):
        kept = [item for item, part in enumerate(fold) if part is not None]
        rows = every.take(kept).append_column("part", pa.array([fold[item] for item in kept], pa.string()))
        made.append(rows.append_column("fold", pa.array(np.full(len(kept), number, np.int32))))
    return pa.concat_tables(made)


def _leaks(examples: Sequence[Example], folds: Sequence[Fold], leaks: Sequence[Sequence[Leak]]) -> pa.Table:
    found = [(number, leak) for number, mine in enumerate(leaks) for leak in mine]
    items = [examples[leak.item] for _, leak in found]
    counterparts = [examples[leak.counterpart] for _, leak in found]
    return pa.table(
        {
            "fold": pa.array([number for number, _ in found], pa.int32()),
            "kind": pa.array([leak.kind for _, leak in found], pa.string()),
            "item_id": pa.array([item.item_id for item in items], pa.string()),
            "image_id": pa.array([item.image_id for item in items], pa.string()),
            "part": pa.array([folds[number][leak.item] for number, leak in found], pa.string()),
            "counterpart_item_id": pa.array([item.item_id for item in counterparts], pa.string()),
            "counterpart_image_id": pa.array([item.image_id for item in counterparts], pa.string()),
            "counterpart_part": pa.array([folds[number][leak.counterpart] for number, leak in found], pa.string()),
            "distance": pa.array([leak.distance for _, leak in found], pa.int32()),
        }
    )
