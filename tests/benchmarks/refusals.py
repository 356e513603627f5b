"""How soon a job refuses settings that cannot work: from the start of its process to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row

ROOT = Path(__file__).parents[2]
WRONG: Mapping[str, Mapping[str, str]] = {
    "ingest": {
        "unknown key": 'kind = "folder"\nurl = "faces"\nnmae = "x"',
        "wrong type": 'kind = "folder"\nurl = "faces"\nname = 5',
        "impossible request": 'kind = "folder"\nurl = "faces"\nwait-seconds = 1e9',
    },
    "extract": {
        "unknown key": "batchsize = 64",
        "wrong type": 'batch-size = "many"',
        "impossible request": "gpus-per-actor = 1.5",
    },
    "train": {
        "unknown key": 'training-set = "parts"\nexperiment = "deepest"\nepoch = 1',
        "wrong type": 'training-set = "parts"\nexperiment = "deepest"\nworkers = "two"',
        "impossible request": 'training-set = "parts"\nexperiment = "deepest"\nworkers = 0',
    },
    "report": {
        "unknown key": 'output = "report"\nface = true',
        "wrong type": 'output = "report"\nfaces = "yes"',
        "impossible request": 'output = "report"\nwait-seconds = -1',
    },
    "nightly": {
        "unknown key": "batchsize = 1\n[extract]",
        "wrong type": 'batch-size = "1"\n[extract]',
        "impossible request": "actors = 0\n[extract]",
    },
    "maintain": {
        "unknown key": "kep = 1",
        "wrong type": "grace = 1",
        "impossible request": "wait-seconds = -1",
    },
}
"""Of each job, a file of each kind of mistake. What one cluster lacks is known only when it was looked at;
what no cluster has, such as one and a half GPUs, is refused before."""


def refusal(job: str, text: str, folder: Path) -> tuple[float, int, str]:
    """Seconds, exit code and words of a job with such a file, at a cluster and a store that are not there."""
    path = folder / "job.toml"
    nowhere = 'store = "/nowhere/at/all"\n' + (
        "" if job in ("ingest", "report", "maintain") else 'address = "127.0.0.1:1"\n'
    )
    path.write_text(nowhere + text + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FERSTORE_")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", "--config", str(path)], cwd=ROOT, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    return time.perf_counter() - began, done.returncode, done.stderr


def rows(inputs: Inputs) -> Iterator[Row]:
    """The slowest of all jobs and kinds of mistake, each time."""
    folder, full = inputs.folder, inputs.size == "full"
    slowest = []
    for _ in range(3 if full else 1):
        times = []
        for job, kinds in WRONG.items():
            for kind, text in kinds.items():
                seconds, code, said = refusal(job, text, folder)
                if code != 2 or said.count("\n") != 1:
                    raise AssertionError(f"{job}, {kind}: exit code {code}, {said!r}")
                times.append(seconds)
        slowest.append(max(times))
    count = sum(len(kinds) for kinds in WRONG.values())
    yield Row(
        "a job refuses wrong settings, from its start to its end: the slowest", tuple(slowest), (), "s", 2.0, False,
        f"{count}: an unknown key, a wrong type and an impossible request of each job; exit code 2, one line",
    )  # fmt: skip
