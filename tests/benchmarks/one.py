"""One benchmark in a process of its own: ``python -m tests.benchmarks.one MODULE INPUTS OUT``.

TensorFlow is set up once a process, and what one benchmark leaves in memory is not the next one's.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.inputs import ROOT, Inputs
from tests.benchmarks.row import Row


def measure(name: str, module: str, inputs: Inputs, *, timeout: float = 3600) -> tuple[list[Row], float]:
    """Rows of a benchmark, and seconds it took. One that fails gives the rows it had, and one that says why."""
    out = inputs.folder / f"{name}.jsonl"
    out.unlink(missing_ok=True)
    fields = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(inputs).items()}
    command = [sys.executable, "-m", "tests.benchmarks.one", module, json.dumps(fields), str(out)]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=timeout)
        problem = errors.strip().splitlines()[-1:] if process.returncode else []
    except subprocess.TimeoutExpired:
        problem = [f"it did not end in {timeout:.0f} s"]
    finally:
        process.terminate()  # it ends what it has started
        process.communicate()
    rows = [_row(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    if problem or not rows:
        rows.append(Row(name, (), (), "", None, missing=(problem or ["it gave no row"])[0][:400]))
    return rows, time.perf_counter() - began


def _row(line: str) -> Row:
    fields = json.loads(line)
    return Row(**{**fields, "ours": tuple(fields["ours"]), "other": tuple(fields["other"])})


def main(module: str, inputs: str, out: str) -> None:
    """Write the rows of a module."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    fields = json.loads(inputs)
    given = Inputs(**{**fields, "faces": Path(fields["faces"]), "folder": Path(fields["folder"])})
    with Path(out).open("w", encoding="utf-8") as stream:
        for row in importlib.import_module(module).rows(given):
            stream.write(json.dumps(asdict(row)) + "\n")
            stream.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
