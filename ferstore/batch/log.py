"""What a job says of itself on stderr: a JSON object a line, or plain lines for people."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime
from typing import IO, Any, Literal

from ferstore.redaction import scrub
from ferstore.terminal import jsonable

Level = Literal["info", "warning", "error"]


class Log:
    """Events of one job.

    Args:
        stream: where to.
        job: its name.
        logical_date: the day it is run for.
        human: plain lines instead of JSON.
    """

    def __init__(self, stream: IO[str], job: str, logical_date: str, *, human: bool = False) -> None:
        self._stream, self._human = stream, human
        self._job, self._date = job, logical_date
        self._lock = threading.Lock()

    def event(self, event: str, level: Level = "info", **details: Any) -> None:
        """One line."""
        now = datetime.now(UTC)
        details = {name: scrub(value) if isinstance(value, str) else value for name, value in details.items()}
        if self._human:
            said = details.pop("line", None)
            step = f"{details.pop('step')} " if "step" in details else ""
            rest = " ".join(f"{name}={json.dumps(jsonable(value))}" for name, value in details.items())
            line = said or f"{now:%H:%M:%S} {self._job} {self._date}: {step}{event} {rest}".rstrip()
        else:
            about = {"time": now.isoformat(), "level": level, "job": self._job, "logical_date": self._date}
            line = json.dumps({**about, "event": event, **jsonable(details)}, ensure_ascii=False)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def lines(self, step: str) -> Lines:
        """A stream that makes an event of every line that a step writes for people."""
        return Lines(self, step)


class Lines(io.TextIOBase):
    """Collects text and logs it line by line."""

    def __init__(self, log: Log, step: str) -> None:
        self._log, self._step, self._rest = log, step, ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if line.strip():
                self._log.event("said", step=self._step, line=line.rstrip())
        return len(text)

    def writable(self) -> bool:
        return True

    def finish(self) -> None:
        """Log what has no end of line."""
        if self._rest:
            self.write("\n")
