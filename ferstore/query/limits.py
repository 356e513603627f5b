"""What one query may use of the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ferstore.errors import InputError

GIB = 1 << 30
_LEAST_MEMORY = 64 << 20
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_memory() -> int:
    """Bytes this process may use: the machine's, or its container's where that has fewer."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUPS:
        try:
            found = min(found, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return found


def default_memory() -> int:
    """Half of the memory, at most 4 GiB: a query that needs more should be asked for by someone who knows."""
    return max(_LEAST_MEMORY, min(machine_memory() // 2, 4 * GIB))


def default_threads() -> int:
    """All cores, at most 4: each holds a vector of values, and 2,048 maps are half a gigabyte."""
    return min(os.cpu_count() or 1, 4)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one query, each with a default that a stranger may be given.

    Attributes:
        seconds: time the query may work; what its reader takes between batches does not count. None is no limit.
        memory: bytes its process may hold, and bytes of a result that is held in memory.
        threads: it runs on.
        rows: of a result that is held in memory; what is written to a file has no limit. None is no limit.
    """

    seconds: float | None = 60.0
    memory: int = 0
    threads: int = 0
    rows: int | None = 1_000_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", self.memory or default_memory())
        object.__setattr__(self, "threads", self.threads or default_threads())
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"a limit of {self.seconds} seconds", allowed="more than 0, or none")
        if self.memory < _LEAST_MEMORY:
            raise InputError(f"a limit of {self.memory:,} bytes of memory", allowed=f"{_LEAST_MEMORY:,} and more")
        if self.threads < 1:
            raise InputError(f"a limit of {self.threads} threads", allowed="1 and more")
        if self.rows is not None and self.rows < 1:
            raise InputError(f"a limit of {self.rows} rows", allowed="1 and more, or none")
