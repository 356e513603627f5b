"""Running ``ferstore`` and other commands as a user does, with their time and the peak memory of what they start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.inputs import ROOT

_PAUSE = 0.25  # seconds between looks at the processes; their high-water marks miss nothing but the last of these


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended well.

    Attributes:
        began: UTC seconds.
        seconds: it took.
        output: its standard output.
        peaks: largest resident bytes of each process it started, by pid, with the process's title: Ray names a worker
            by what it runs. The command's own process is called ``driver``.
    """

    began: float
    seconds: float
    output: str
    peaks: dict[int, tuple[str, int]]

    def peak(self, title: str) -> int:
        """The largest of the processes whose title holds this."""
        return max((size for name, size in self.peaks.values() if title in name), default=0)

    @property
    def json(self) -> Any:
        """The output of a command with ``--json``."""
        return json.loads(self.output)


def ferstore(store: Path, command: str, *arguments: str | Path | int, timeout: float = 900) -> Done:
    """``ferstore COMMAND ARGUMENTS --json`` on a store.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    line = [sys.executable, "-m", "ferstore.cli", "--store", str(store), command, *map(str, arguments), "--json"]
    return run(line, timeout=timeout)


def run(command: Sequence[str], *, timeout: float = 900, environment: dict[str, str] | None = None) -> Done:
    """A command to its end.

    Raises:
        RuntimeError: it failed, or did not end in time.
    """
    peaks: dict[int, tuple[str, int]] = {}
    began, clock = time.time(), time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended), daemon=True)
    watcher.start()
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException as error:
        for pid in family(process.pid):
            _kill(pid)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"{' '.join(command[:6])} … did not end in {timeout:.0f} s") from error
        raise
    finally:
        seconds = time.perf_counter() - clock
        ended.set()
        watcher.join()
    if process.returncode not in (0, 3):
        words = (errors.strip() or output.strip()).splitlines()[-3:]
        raise RuntimeError(f"{' '.join(command[:6])} … ended with {process.returncode}: {' '.join(words)[-400:]}")
    return Done(began, seconds, output, peaks)


def peak_of_this_process() -> int:
    """Largest resident bytes so far."""
    found = _status(os.getpid())
    assert found is not None
    return found[1]


def _watch(pid: int, peaks: dict[int, tuple[str, int]], ended: threading.Event) -> None:
    while not ended.wait(_PAUSE):
        for found in family(pid):
            status = _status(found)
            if status is not None and status[1] >= peaks.get(found, ("", 0))[1]:
                title, size = status
                known = peaks.get(found, (title, 0))[0]
                # A worker is called by what it does only while it does it.
                name = "driver" if found == pid else title if "::" in title and "IDLE" not in title else known
                peaks[found] = name, size


def family(pid: int) -> list[int]:
    """A process and all that it has started, by pid."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in _glob(f"/proc/{one}/task"):
            try:
                waiting += map(int, (task / "children").read_text().split())
            except OSError:
                continue
    return found


def _glob(path: str) -> list[Path]:
    try:
        return list(Path(path).iterdir())
    except OSError:
        return []


def _status(pid: int) -> tuple[str, int] | None:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return (title, int(peak[1]) * 1024) if peak else None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except OSError:
        return
