"""Jobs on a real Ray job server that asks for a token: killed and submitted again, a date has one result.

ferstore comes to the cluster as a working folder; its Python has none. The job is ``python -m jobs.extract`` with a
stub in the place of Inception v3; in the fault suite's long mode it is Inception v3 with random weights, and stopped
once more.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_python import bare_python
from drawn import noise_store, sql
from extract_driver import check_whole, marked, until
from ray.exceptions import AuthenticationError
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
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]

STUBBED = """
from functools import partial
from pathlib import Path

from stub_network import stub_factory

from ferstore.batch import run_job
from ferstore.extract import committer, run

stub = stub_factory(pause=0.3)


def factory():
    import ferstore
    Path({note!r}).write_text(ferstore.__file__)
    return stub()


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
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for given, said in (({"RAY_AUTH_MODE": "disabled"}, "Missing"), (wrong, "Invalid")):
        with _environment(given), pytest.raises(AuthenticationError, match=f"{said} authentication token"):
            JobSubmissionClient(server.jobs).submit_job(entrypoint="true")
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


def test_a_date_whose_job_was_killed_has_one_result(
    server: Head,
    client: JobSubmissionClient,
    folder: Path,
    tmp_path: Path,
    level: str,
    tally: Callable[[str, int], None],
) -> None:
    images, batch = (88, 4) if level == "night" else (120, 8)
    store = noise_store(tmp_path, images)
    config = tmp_path / "extract.toml"
    config.write_text(
        f'store = "{store.url}"\ndataset = "noise"\nweights = "random"\nbatch-size = {batch}\nactors = 2\n'
    )
    note = tmp_path / "note"
    if level != "night":
        (folder / "jobs" / "extract.py").write_text(STUBBED.format(note=str(note)))
        shutil.copy(ROOT / "tests" / "support" / "stub_network.py", folder)
    submissions = (f"{FIRST}{suffix}" for suffix in ("", "-2", "-3", "-4"))
    before, attempts = 0, 0

    def state(submission: str) -> tuple[str, int]:
        [row] = job_runs(store, store.pin())
        assert row["submission_id"] == submission
        return row["state"], row["attempts"]

    if level == "night":
        waiting, ended = submit(client, config, folder)
        stopped = next(submissions)
        until(lambda: rows(store) > 0)
        assert client.stop_job(stopped)
        waiting.join(60)
        assert [type(end) for end in ended] == [JobFailedError]
        assert client.get_job_status(stopped) == JobStatus.STOPPED
        attempts += 1
        assert state(stopped) == ("stopped", attempts)
        before = rows(store)
        assert before < images

    waiting, ended = submit(client, config, folder)
    killed = next(submissions)
    until(lambda: rows(store) > before)
    [pid] = drivers(server)
    os.kill(pid, signal.SIGKILL)
    tally("kills", 1)
    waiting.join(60)
    assert [type(end) for end in ended] == [JobFailedError]
    assert client.get_job_status(killed) == JobStatus.FAILED
    attempts += 1
    assert state(killed) == ("running", attempts)  # it could not say so any more
    assert rows(store) < images

    waiting, ended = submit(client, config, folder)
    last = next(submissions)
    waiting.join(200)
    assert ended == [0], client.get_job_logs(last)
    attempts += 1
    assert state(last) == ("done", attempts)
    check_whole(store, images)
    if level != "night":
        assert "working_dir_files" in note.read_text(), "ferstore came from somewhere else"
        return
    waiting, ended = submit(client, config, folder)
    waiting.join(60)
    assert ended == [0]
    logged = client.get_job_logs(next(submissions)).splitlines()
    assert "done already" in {json.loads(line)["event"] for line in logged if line.startswith("{")}
    assert state(last) == ("done", attempts)
