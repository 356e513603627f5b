"""What was trained, as Table 2 has it, and which rows of it are shown side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ferstore.query.session import Session
from ferstore.report.asking import Row, among, ask
from ferstore.report.scores import relative_gain

EXPERIMENTS = ("deepest", "sub_deep", "fusion")
PAPER_WIDTH = 2048

_KEY = ("training_set", "experiment", "recipe", "width", "settings", "extractor_id")
_ORDER = (  # of all that tells two rows apart: the same rows in the same order every time
    "dataset, protocol, training_set, list_position(['deepest', 'sub_deep', 'fusion'], experiment), recipe, settings, "
    "width, extractor_id"
)


@dataclass(frozen=True, slots=True)
class Training:
    """One run that counts: a row of the view ``trainings``, test scores in per cent."""

    run_id: str
    seed: int
    fold: int
    accuracy: float | None
    started_at: Any
    conv4_run: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of ``table_2``, scores in per cent, with the runs behind it.

    Attributes:
        runs: how many; ``trainings`` are they.
        accuracy: mean over the runs; ``accuracy_sd`` their sample standard deviation, None of a single run.
        paper_accuracy: the paper's for this kind of data set; None where it has none.
        weights_kind: of the extractor: imagenet, file or random; None where the store does not know it.
        classes: of the training set, in its order.
    """

    dataset: str
    protocol: str
    experiment: str
    recipe: str
    width: int | None
    settings: str
    training_set: str
    runs: int
    seeds: int
    folds: int
    accuracy: float
    accuracy_sd: float | None
    macro_f1: float
    macro_f1_sd: float | None
    balanced_accuracy: float
    balanced_accuracy_sd: float | None
    paper_accuracy: float | None
    weights_kind: str | None
    extractor_id: str | None
    trainings: tuple[Training, ...]
    classes: tuple[str, ...]

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Ids of the runs."""
        return tuple(training.run_id for training in self.trainings)

    @property
    def spread_over(self) -> str:
        """What the runs differ in, in words."""
        seeds, folds = (f"{n} {word}s" if n > 1 else "" for n, word in ((self.seeds, "seed"), (self.folds, "fold")))
        return f"{self.runs} runs: {seeds} x {folds}" if seeds and folds else seeds or folds or "one run"

    @property
    def reduced(self) -> bool:
        """Narrower than the paper's head."""
        return self.width is not None and self.width < PAPER_WIDTH

    @property
    def random(self) -> bool:
        """Features of random weights."""
        return self.weights_kind == "random"


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better fusion is than another experiment, in per cent of the other's accuracy; the paper's beside."""

    over: str
    own: float | None
    paper: float | None


@dataclass(frozen=True, slots=True)
class Lineup:
    """Rows of Table 2 that belong side by side: one training set, recipe and extractor, at most one row an experiment.

    Attributes:
        entries: by experiment, in the paper's order.
        main: the first of its training set, recipe and extractor; others show further settings.
        sub_deep: what its fusion is compared with, in this line-up or shown in an earlier one; None without a fusion.
        deepest: the same.
    """

    training_set: str
    recipe: str
    extractor_id: str | None
    entries: tuple[Entry, ...]
    main: bool
    sub_deep: Entry | None
    deepest: Entry | None

    @property
    def any_entry(self) -> Entry:
        """One of them; they agree in data set, protocol and classes."""
        return self.entries[0]

    @property
    def missing(self) -> tuple[str, ...]:
        """Experiments without a row."""
        there = {entry.experiment for entry in self.entries}
        return tuple(name for name in EXPERIMENTS if name not in there)

    def entry(self, experiment: str) -> Entry | None:
        """The row of one experiment."""
        return next((entry for entry in self.entries if entry.experiment == experiment), None)

    @property
    def gains(self) -> tuple[Gain, ...]:
        """Of fusion over the two others; empty without a fusion."""
        fusion = self.entry("fusion")
        others = [self.sub_deep, self.deepest]
        return tuple(
            Gain(
                other.experiment,
                relative_gain(fusion.accuracy, other.accuracy),
                relative_gain(fusion.paper_accuracy, other.paper_accuracy),
            )
            for other in others
            if other is not None and fusion is not None
        )


def find_entries(session: Session, training_sets: Sequence[str]) -> tuple[Entry, ...]:
    """Rows of ``table_2`` of some training sets: by data set, protocol and training set, in the paper's order."""
    which = among("training_set", training_sets)
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for row in ask(session, f"from trainings where {which} and accuracy is not null order by seed, fold, run_id"):
        runs.setdefault(tuple(row[name] for name in _KEY), []).append(row)
    classes = {row["name"]: row["classes"] for row in ask(session, "select name, classes from training_sets")}
    own = {field.name for field in fields(Entry)} - {"trainings", "classes"}
    return tuple(
        Entry(
            **{name: row[name] for name in own},
            trainings=tuple(
                Training(**{field.name: run[field.name] for field in fields(Training)})
                for run in runs[tuple(row[name] for name in _KEY)]
            ),
            classes=tuple(classes[row["training_set"]]),
        )
        for row in ask(session, f"from table_2 where {which} order by {_ORDER}")
    )


def line_up(entries: Iterable[Entry]) -> tuple[Lineup, ...]:
    """Put rows of one training set, recipe and extractor side by side.

    A fusion stands beside the sub_deep whose conv4 it reads and a deepest on the same views and layers. Where several
    would do, and for the order of the fusions, that comes first which departs least from the recipe (fewest settings),
    of equals the widest, then the one with most runs, then the newest. What is left comes in further line-ups, one for
    the rows of the same settings. Each row is shown once, and may be compared with more often.
    """
    groups: dict[tuple[str, str, str | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.training_set, entry.recipe, entry.extractor_id), []).append(entry)
    return tuple(lineup for key, mine in groups.items() for lineup in _line_up(key, mine))


def _line_up(key: tuple[str, str, str | None], mine: Sequence[Entry]) -> list[Lineup]:
    found: list[Lineup] = []
    left = list(mine)

    def add(row: Sequence[Entry | None], sub_deep: Entry | None, deepest: Entry | None) -> None:
        shown = tuple(entry for entry in row if entry is not None and entry in left)
        left[:] = [entry for entry in left if entry not in shown]
        found.append(Lineup(*key, shown, main=not found, sub_deep=sub_deep, deepest=deepest))

    for fusion in sorted((entry for entry in mine if entry.experiment == "fusion"), key=_rank, reverse=True):
        deepest, sub_deep = _alike(mine, "deepest", fusion), _read_by(mine, fusion)
        add((deepest, sub_deep, fusion), sub_deep, deepest)
    if not found:
        add([_best(left, name) for name in EXPERIMENTS], None, None)
    while left:
        same = [entry for entry in left if entry.settings == left[0].settings]
        add([_best(same, name) for name in EXPERIMENTS], None, None)
    return found


def _read_by(entries: Iterable[Entry], fusion: Entry) -> Entry | None:
    """The sub_deep whose conv4 a fusion reads; of a joint one, which reads none, the one that is most alike."""
    runs = {training.conv4_run for training in fusion.trainings} - {None}
    if not runs:
        return _alike(entries, "sub_deep", fusion)
    return _best([entry for entry in entries if runs & set(entry.run_ids)], "sub_deep")


def _alike(entries: Iterable[Entry], experiment: str, fusion: Entry) -> Entry | None:
    mine = [entry for entry in entries if entry.experiment == experiment]
    same = [entry for entry in mine if _inputs(entry) == _inputs(fusion)]
    return _best([entry for entry in same if _own(entry) == _own(fusion)] or same or mine, experiment)


def _own(entry: Entry) -> list[str]:
    """Settings of the row itself, without those of the run whose conv4 it reads."""
    return entry.settings.partition("(conv4:")[0].split()


def _inputs(entry: Entry) -> set[str]:
    return {word for word in _own(entry) if word.startswith(("views=", "layers="))}


def _best(entries: Iterable[Entry], experiment: str) -> Entry | None:
    return max((entry for entry in entries if entry.experiment == experiment), key=_rank, default=None)


def _rank(entry: Entry) -> tuple[Any, ...]:
    newest = max(training.started_at for training in entry.trainings)
    return (-len(_own(entry)), entry.width or 0, entry.runs, newest, entry.run_ids)
