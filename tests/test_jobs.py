"""Jobs as they are started: a process each, with a real cluster, stopped, and begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn import noise_store, sql

from ferstore.batch.jobs import JOBS
from ferstore.store.job_runs import job_runs
from ferstore.store.verify import verify

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"
WITHIN = 30.0  # seconds from a signal to the end: what a machine gives a job that it stops

Process = subprocess.Popen[str]


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_a_module_that_says_how_it_is_called(name: str) -> None:
    text = (ROOT / "jobs" / f"{name}.py").read_text("utf-8")
    assert f'run_job("{name}")' in text
    assert (ROOT / "jobs" / f"{name}.toml").is_file()


def test_a_job_is_called_by_its_module() -> None:
    words = [sys.executable, "-m", "jobs.nightly", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m jobs.nightly --config FILE")
    assert "--logical-date" in done.stdout


def _plain() -> dict[str, str]:
    """The environment without what says where the shared faces are: no job has such an option, and its log tells."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FERSTORE_")}


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.ray
def test_a_stopped_extract_ends_in_time_keeps_what_is_finished_and_goes_on(
    tmp_path: Path, processes: list[Process]
) -> None:
    store = noise_store(tmp_path, 120)
    config = tmp_path / "extract.toml"
    config.write_text(f'store = "{store.url}"\ndataset = "noise"\nweights = "random"\nbatch-size = 8\nactors = 2\n')

    def start(pause: float) -> Process:
        words = ["--config", str(config), "--logical-date", "2026-11-23", "--json"]
        with (tmp_path / f"log-{pause}").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(SUPPORT / "stub_job.py"), f"ray:{pause}", "extract", *words],
                env={**_plain(), "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        processes.append(process)
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
        return process

    stopped = start(1.0)
    while not sql(store, "select 1 from pool_3 limit 1"):
        assert stopped.poll() is None, (tmp_path / "log-1.0").read_text()
        time.sleep(0.2)
    sent = time.monotonic()
    stopped.send_signal(signal.SIGTERM)
    out, _ = stopped.communicate(timeout=WITHIN)
    assert stopped.returncode == 1
    assert time.monotonic() - sent < WITHIN
    assert json.loads(out.splitlines()[-1])["state"] == "stopped"
    [row] = job_runs(store, store.pin())
    assert (row["state"], row["exit_code"]) == ("stopped", 1)
    events = [json.loads(line) for line in (tmp_path / "log-1.0").read_text().splitlines()]
    assert [event["event"] for event in events[:2]] == ["started", "step started"]
    assert (events[-1]["event"], events[-1]["state"]) == ("ended", "stopped")
    [(kept, again)] = sql(store, "select count(*), count(distinct image_id) from pool_3")
    assert isinstance(kept, int)
    assert 0 < kept == again < 120

    out, _ = (goes_on := start(0.0)).communicate(timeout=150)
    assert goes_on.returncode == 0, (tmp_path / "log-0.0").read_text()
    result = json.loads(out.splitlines()[-1])
    counts = result["steps"][0]["counts"]
    assert (result["state"], result["attempts"]) == ("done", 2)
    assert (counts["present"], counts["computed"]) == (kept, 120 - kept)
    assert sql(store, "select count(*), count(distinct image_id) from mixed_10") == [(120, 120)]
    assert verify(store).sound
    assert len(result["run_ids"]) == 2
