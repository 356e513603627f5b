"""Whether the process of a run still works, told without asking it."""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime
from pathlib import Path

_SLACK = 60.0  # seconds; clocks are set while jobs run, and a job taken for alive costs less than one taken for dead


def alive(host: str, pid: int, started_at: datetime) -> bool:
    """Whether a run may still be at work: True wherever that cannot be ruled out.

    A process id is used again, after a restart of the machine at the latest, so a process that began after the run did
    is another one.

    Args:
        host: machine of the run, as `socket.gethostname` named it.
        pid: its process there.
        started_at: when the run began, which was after its process did.
    """
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's: it is there
    try:
        state, began = _state_and_start(Path("/proc") / str(pid) / "stat")
    except OSError:
        return True  # hidden from us, or a system without /proc: that it can be signalled must do
    return state not in "ZX" and began <= started_at.timestamp() + _SLACK


def _state_and_start(stat: Path) -> tuple[str, float]:
    """State letter of a process, and when it began (POSIX time)."""
    fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()  # its name, before, may hold anything
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0], time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
