"""Options that several commands share, and the values they take."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferstore.errors import InputError

if TYPE_CHECKING:
    from ferstore.train.request import Precision as TrainPolicy

DONE, FAILED, BAD_INPUT, SOME_QUARANTINED = 0, 1, 2, 3


class OutputFormat(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class Precision(StrEnum):
    """Arithmetic of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Maps(StrEnum):
    """How maps are stored."""

    float16 = "float16"
    float32 = "float32"


class Protocol(StrEnum):
    """What decides the part of an item."""

    official = "official"
    random = "random"
    subject = "subject"


class Labels(StrEnum):
    """Targets of training."""

    majority = "majority"
    soft = "soft"


class Experiment(StrEnum):
    """The paper's three classifiers."""

    deepest = "deepest"
    sub_deep = "sub_deep"
    fusion = "fusion"


class RecipeName(StrEnum):
    """How a head is fitted."""

    paper = "paper"
    modern = "modern"


class TrainPrecision(StrEnum):
    """Arithmetic of a head: Keras's dtype policies, and the short names that extract has too."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"

    @property
    def policy(self) -> TrainPolicy:
        """Weights stay float32 under each."""
        short = self.value.removeprefix("mixed_")
        return "float32" if short == "float32" else "mixed_bfloat16" if short == "bfloat16" else "mixed_float16"


class Leaks(StrEnum):
    """What to do about items on both sides of a split."""

    report = "report"
    drop = "drop"
    refuse = "refuse"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
At = Annotated[str | None, typer.Option("--at", help="A tag, snapshot id or ISO time; the newest state otherwise.")]

Address = Annotated[str | None, typer.Option(help="Ray cluster; this machine otherwise.")]
Insecure = Annotated[
    bool, typer.Option("--insecure-cluster", help="Use a cluster that lets in whoever reaches it, without a token.")
]


def local_path(path: Path | None) -> Path | None:
    """A path as given; a URL is refused, which would become a folder with its credentials in the name.

    Raises:
        InputError: it is a URL.
    """
    if path is not None and (scheme := re.search(r"[A-Za-z][A-Za-z0-9+.\-]+:/", str(path))):
        raise InputError(
            f"--output with a {scheme[0]} URL", allowed="a path on this machine", hint="copy it from there"
        )
    return path


def names(text: str) -> tuple[str, ...]:
    """The parts of a value with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def duration(option: str, text: str) -> timedelta:
    """A length of time: a number with d, h, m or s, or 0.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})([dhms]?)", text.strip())
    if match is None or (not match[2] and match[1].strip("0")):
        raise InputError(f"{option} {text!r}", allowed="a number with d, h, m or s, such as 7d or 12h, or 0")
    return timedelta(seconds=int(match[1]) * {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "": 0}[match[2]])


def actor_count(text: str) -> int | None:
    """A number of actors, None for ``auto``.

    Raises:
        InputError: it is neither.
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--actors {text!r}", allowed="auto, or a number from 1") from None
