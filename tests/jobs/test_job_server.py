"""Jobs on a real Ray job server that asks for a token: killed and submitted again, a date has one result.

ferstore comes to the cluster as a working folder; its Python has none. The job is ``python -m jobs.extract`` with a
stub in the place of Inception v3, unless the fault suite runs: then it is Inception v3 with random weights.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_python import bare_python
from drawn import noise_store, sql
from extract_driver import check_whole, marked, until
from ray.job_submission import JobStatus, JobSubmissionClient
from ray_head import Head, head

from ferstore.cluster_access import _environment
from ferstore.store.job_runs import job_runs
from ferstore.store.store import Store
from jobs.examples.submit import JobFailedError, run

ROOT = Path(__file__).parents[2]
TOKEN = secrets.token_hex(32)
DATE = "2026-11-23"
FIRST = f"ferstore-extract-{DATE}"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]

STUBBED = """
from functools import partial
from pathlib import Path

from stub_network import stub_factory

from ferstore.batch import run_job
from ferstore.extract import committer, run

stub = stub_factory(pause=0.5)


def factory():
    import ferstore, time
    Path({note!r}).write_text(ferstore.__file__)
    network = stub()

    def paused(pictures):
        end = time.monotonic() + 60
        while Path({hold!r}).exists() and time.monotonic() < end:
            time.sleep(0.05)
        return network(pictures)

    return paused


if __name__ == "__main__":
    committer._GROUP = 1
    run.extract = partial(run.extract, network=factory)
    run_job("extract")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head whose Python has no ferstore."""
    bare = bare_python(tmp_path_factory.mktemp("bare") / "venv")
    found = subprocess.run([bare, "-c", "import ferstore"], capture_output=True, text=True, check=False, cwd="/")
    assert "No module named 'ferstore'" in found.stderr, "the cluster would have one of its own"
    asked = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    with head(asked, cpus=2, jobs=True, python=bare) as made:
        yield made


@pytest.fixture
def client(server: Head) -> Iterator[JobSubmissionClient]:
    with _environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}):
        yield JobSubmissionClient(server.jobs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project as a working folder: what a checkout has, without tests."""
    made = tmp_path / "checkout"
    for name in ("ferstore", "jobs", "schemas"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


def asked(server: Head, token: str | None) -> int:
    """Status of a request for the list of jobs."""
    request = urllib.request.Request(f"{server.jobs}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_stranger_is_refused(server: Head) -> None:
    assert asked(server, None) == 401
    assert asked(server, secrets.token_hex(32)) == 403
    assert asked(server, TOKEN) == 200
    for given in ({}, {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        with (
            _environment({"RAY_AUTH_MODE": "token" if given else "disabled", **given}),
            pytest.raises(RuntimeError) as no,
        ):
            JobSubmissionClient(server.jobs).submit_job(entrypoint="true")
        assert any(said in str(no.value) for said in ("401", "403", "nauthenticated", "nauthorized", "orbidden"))
    with _environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}):
        assert JobSubmissionClient(server.jobs).list_jobs() == []


def drivers(server: Head) -> list[int]:
    """Processes of the job itself, without the shell that started it."""
    return [pid for pid, line in marked(server.mark).items() if "-m jobs.extract" in line and "/sh" not in line]


def submit(client: JobSubmissionClient, config: Path, folder: Path) -> tuple[threading.Thread, list[Any]]:
    """Submit and wait in a thread, as an orchestrator does."""
    ended: list[Any] = []

    def work() -> None:
        try:
            ended.append(run(client, "extract", str(config), DATE, runtime_env={"working_dir": str(folder)}, poll=0.3))
        except JobFailedError as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, ended


def rows(store: Store) -> int:
    [(count,)] = sql(store, "select count(*) from pool_3")
    return int(str(count))


def test_a_date_that_was_stopped_and_killed_has_one_result(
    server: Head, client: JobSubmissionClient, folder: Path, tmp_path: Path
) -> None:
    images = 120
    store = noise_store(tmp_path, images)
    config = tmp_path / "extract.toml"
    config.write_text(f'store = "{store.url}"\ndataset = "noise"\nweights = "random"\nbatch-size = 8\nactors = 2\n')
    note, hold = tmp_path / "note", tmp_path / "hold"
    if os.environ.get("FERSTORE_FAULTS", "ci") == "ci":
        stubbed = STUBBED.format(note=str(note), hold=str(hold))
        (folder / "jobs" / "extract.py").write_text(stubbed)
        shutil.copy(ROOT / "tests" / "support" / "stub_network.py", folder)

    waiting, ended = submit(client, config, folder)
    until(lambda: rows(store) > 0)
    assert client.stop_job(FIRST)
    waiting.join(60)
    assert [type(end) for end in ended] == [JobFailedError]
    assert client.get_job_status(FIRST) == JobStatus.STOPPED
    [row] = job_runs(store, store.pin())
    assert (row["state"], row["submission_id"], row["attempts"]) == ("stopped", FIRST, 1)
    kept = rows(store)
    assert 0 < kept < images

    waiting, ended = submit(client, config, folder)
    until(lambda: rows(store) > kept)
    [pid] = drivers(server)
    os.kill(pid, signal.SIGKILL)
    waiting.join(60)
    [error] = ended
    assert isinstance(error, JobFailedError)
    assert client.get_job_status(f"{FIRST}-2") == JobStatus.FAILED
    assert rows(store) < images

    for attempt in (3, 4):  # the last finds that it was done
        waiting, ended = submit(client, config, folder)
        waiting.join(120)
        assert ended == [0], client.get_job_logs(f"{FIRST}-{attempt}")
    [row] = job_runs(store, store.pin())
    assert (row["state"], row["submission_id"], row["attempts"]) == ("done", f"{FIRST}-3", 3)
    check_whole(store, images)
    said = [json.loads(line) for line in client.get_job_logs(f"{FIRST}-4").splitlines() if line.startswith("{")]
    assert "done already" in {line["event"] for line in said}
    if note.exists():
        assert "working_dir_files" in note.read_text(), "ferstore came from somewhere else"
    assert [one.submission_id for one in sorted(client.list_jobs(), key=lambda one: one.start_time or 0)] == [
        FIRST,
        *(f"{FIRST}-{attempt}" for attempt in (2, 3, 4)),
    ]
