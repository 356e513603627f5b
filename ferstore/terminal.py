"""How results and progress look: text for people on a terminal, JSON for programs, one line for an error."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from types import TracebackType
from typing import IO, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

Format = Literal["table", "csv", "json", "parquet"]
_QUIET = 15.0  # seconds between lines of progress where stderr is no terminal


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    json.dump(jsonable(value), sys.stdout, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: bytes by their length, times in ISO 8601, not-a-number as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def cell(value: Any) -> str:
    """A value in a CSV or a table: lists as JSON, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(jsonable(value), ensure_ascii=False)
    if isinstance(value, bytes | datetime | date):
        return str(jsonable(value))
    return str(value)


def write_csv(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> None:
    """Rows as CSV with a header."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cell(value) for value in row] for row in rows)


def write_json_rows(names: Sequence[str], rows: Iterable[Sequence[Any]], out: IO[str]) -> None:
    """Rows as a JSON list of objects, one a line."""
    out.write("[")
    for number, row in enumerate(rows):
        out.write(",\n " if number else "\n ")
        json.dump(dict(zip(names, map(jsonable, row), strict=True)), out, ensure_ascii=False)
    out.write("\n]\n")


def print_table(
    names: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Iterable[str] = (), whole: Iterable[str] = ()
) -> None:
    """Rows as a table on stdout, as wide as the terminal; unlimited where stdout is none.

    Args:
        names: of the columns.
        rows: their values.
        numbers: columns to align right.
        whole: columns never broken into lines, such as ids that are copied.
    """
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, soft_wrap=False)
    right, unbroken = set(numbers), set(whole)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        justify: Literal["right", "left"] = "right" if name in right else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=name in unbroken)
    for row in rows:
        table.add_row(*(Text(_short(cell(value))) for value in row))
    console.print(table)


def _short(text: str) -> str:
    """As much of a cell as is read; what could move a terminal's cursor or turn its text is shown as its code."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 200 else f"{text[:197]}..."


def say(text: str) -> None:
    """A line of result on stdout."""
    sys.stdout.write(text + "\n")


def tell(text: str) -> None:
    """A line about the work on stderr. Names of files are in it, and none may move the cursor or make a second line."""
    sys.stderr.write("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + "\n")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class TerminalProgress:
    """Progress on stderr: a bar with rate and remaining time on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = (
            Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        self._task: Any = None
        self._what, self._total, self._done = "", 0, 0
        self._began = self._told = time.monotonic()

    def start(self, what: str, total: int | None) -> None:
        """Begin a stage."""
        self._what, self._total, self._done = what, total or 0, 0
        self._began = self._told = time.monotonic()
        if self._bars:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(what, total=total)

    def advance(self, items: int) -> None:
        """So many more items are done."""
        self._done += items
        if self._bars:
            self._bars.advance(self._task, items)
            return
        now = time.monotonic()
        if now - self._told > _QUIET and self._done:
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            tell(f"{self._what}: {self._done:,} of {self._total:,}, {rate:.1f}/s, about {left:.0f} s left")
            self._told = now

    def note(self, text: str) -> None:
        """One line worth telling."""
        if self._bars:
            self._bars.console.print(Text(text, style="dim"))
        else:
            tell(text)

    def __enter__(self) -> TerminalProgress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()


def human_bytes(size: float) -> str:
    """A size in the largest unit that keeps it above one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
