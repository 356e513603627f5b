"""Which jobs there are, and the commands that each is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Section:
    """A step of a job and the table of the job file that sets it.

    Attributes:
        command: of the command line.
        several: there may be several of it, as ``[[table]]``.
        always: it is a step also where the job file lacks its table.
        after: tables of the store that decide whether it has anything to do: where their rows are those of the last
            time it was done, it is skipped. Empty for a step that is never skipped.
        needed_by: commands that read what it makes for the day, so that it is not skipped where one of them is to run.
    """

    command: str
    several: bool = False
    always: bool = False
    after: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()


Name = Literal["ingest", "extract", "train", "report", "nightly", "maintain"]

JOBS: Mapping[str, Mapping[str, Section]] = {
    # A list of runs is how a search is written; without it the keys at the top are the only run.
    **{name: {"runs": Section(name, several=True, always=True)} for name in ("ingest", "extract", "train", "report")},
    "nightly": {
        # What lies at a URL is known only by looking.
        "ingest": Section("ingest", several=True),
        "extract": Section("extract", after=("images",)),
        "split": Section("split", after=("images",), needed_by=("train",)),
        # A frozen set whose features were there keeps both; another extractor may give it others.
        "train": Section("train", several=True, after=("training_sets", "training_set_items", "extractors")),
        "report": Section(
            "report", after=("images", "quarantine", "extractors", "training_sets", "predictions", "metrics", "conv4")
        ),
    },
    "maintain": {
        "compact": Section("compact", always=True),
        "verify": Section("verify", always=True),
        "vacuum": Section("vacuum", always=True),
    },
}
