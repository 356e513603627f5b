"""One piece of work in a fresh process: its seconds, and the most memory the process held."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Apart:
    """What became of it.

    Attributes:
        seconds: of the work, imports before it left out.
        peak: most bytes the process held, imports included.
        base: bytes it held before the work began.
        said: what the function returned.
    """

    seconds: float
    peak: int
    base: int
    said: Any


def apart(module: str, function: str, *arguments: Any, timeout: float = 600) -> Apart:
    """Call a function of a benchmark module in a process of its own; arguments and result are JSON."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from tests.benchmarks.apart import serve; serve(*sys.argv[2:])"
    words = [sys.executable, "-c", code, str(ROOT), module, function, json.dumps(arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{module}.{function} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Apart(**json.loads(done.stdout.splitlines()[-1]))


def serve(module: str, function: str, arguments: str) -> None:
    """The other end."""
    work = getattr(importlib.import_module(module), function)
    base = _peak()
    began = time.perf_counter()
    said = work(*json.loads(arguments))
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": _peak(), "base": base, "said": said}))


def _peak() -> int:
    """Not ``ru_maxrss``, which begins with what the parent held."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
