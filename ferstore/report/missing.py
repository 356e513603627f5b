"""What a page could say and cannot yet, and the command that would change that."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ferstore.report.contents import Contents, Detail
from ferstore.report.entries import Entry
from ferstore.report.splits import Split
from ferstore.report.versus import Versus


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that is not there; ``command`` is empty where none would help."""

    what: str
    command: str = ""


def find_missing(contents: Contents) -> tuple[Missing, ...]:
    """In the order in which one would mend it."""
    return tuple(_missing(contents))


def _missing(contents: Contents) -> Iterator[Missing]:
    if not contents.data_sets:
        yield Missing("There are no images.", "ferstore ingest folder ./faces --name mine")
        return
    dataset = contents.data_sets[0].dataset
    if not contents.health:
        yield Missing("There are no pool_3 features.", shlex.join(["ferstore", "extract", "--dataset", dataset]))
    if not contents.splits:
        command = ["ferstore", "split", "parts", "--dataset", dataset, "--protocol", "random"]
        yield Missing("There is no training set.", shlex.join(command))
    for split in contents.splits:
        yield from _of_split(contents, split)
    for detail in contents.details:
        yield from _of_detail(detail)
    for run in contents.lineage.runs:
        if run.state == "diverged":
            command = ["ferstore", "train", run.experiment, "--training-set", run.training_set, "--recipe", "modern"]
            yield Missing(
                f"Training {run.run_id} ({run.experiment}) diverged: it has no predictions.", shlex.join(command)
            )


def _of_split(contents: Contents, split: Split) -> Iterator[Missing]:
    if not any(entry.training_set == split.name for entry in contents.entries):
        yield Missing(
            f"Training set {split.name} has no finished training.",
            shlex.join(["ferstore", "train", "deepest", "--training-set", split.name]),
        )
    for label, parts in split.by_class.items():
        if not parts["test"].high:
            yield Missing(f"Class {label} has no test item in training set {split.name}: its recall is unknown.")
    if split.protocol != "subject" and any(leak.kind == "same_subject" and leak.left for leak in split.leaks):
        said = f"Training set {split.name} has the same people on both sides, which flatters its figures"
        if any(other.protocol == "subject" and other.dataset == split.dataset for other in contents.splits):
            yield Missing(f"{said}: read the split by person beside it.")
        else:
            command = [
                "ferstore",
                "split",
                f"{split.name}-subject",
                "--dataset",
                split.dataset,
                "--protocol",
                "subject",
            ]
            yield Missing(f"{said}; a split by person belongs beside it.", shlex.join(command))


def _of_detail(detail: Detail) -> Iterator[Missing]:
    lineup = detail.lineup
    if not lineup.main:
        return
    again = ["--training-set", lineup.training_set, "--recipe", lineup.recipe]
    for experiment in lineup.missing:
        what = f"{lineup.training_set}, recipe {lineup.recipe}: no {experiment}"
        yield Missing(f"{what}, so no comparison with it.", shlex.join(["ferstore", "train", experiment, *again]))
    single = [entry for entry in lineup.entries if entry.runs == 1]
    if single:
        names = ", ".join(entry.experiment for entry in single)
        seed = str(single[0].trainings[0].seed + 1)
        yield Missing(
            f"{lineup.training_set}, recipe {lineup.recipe}: one run of {names}, so no spread.",
            shlex.join(["ferstore", "train", single[0].experiment, *again, *_width(single[0]), "--seed", seed]),
        )
    if detail.versus and detail.versus.unpaired:
        yield _unpaired(detail.versus, f"{lineup.training_set}, recipe {lineup.recipe}", again)


def _unpaired(versus: Versus, where: str, again: list[str]) -> Missing:
    """Runs without a partner, and the first training that would give one to some of them."""
    deepest, fusion = ({(t.seed, t.fold) for t in e.trainings} for e in (versus.deepest, versus.fusion))
    lacking = versus.fusion if deepest - fusion else versus.deepest
    seed, _ = min(deepest - fusion or fusion - deepest)
    count = versus.unpaired
    runs = "1 run of deepest or fusion has" if count == 1 else f"{count} runs of deepest or fusion have"
    command = ["ferstore", "train", lacking.experiment, *again, *_width(lacking), "--seed", str(seed)]
    return Missing(
        f"{where}: {runs} no partner of the same seed and fold, and no part in the comparison.", shlex.join(command)
    )


def _width(entry: Entry) -> list[str]:
    return ["--width", str(entry.width)] if entry.reduced else []
