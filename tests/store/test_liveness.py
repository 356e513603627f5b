"""Which runs are still at work: a mistake in one direction keeps rubbish, in the other it removes a job's files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ferstore.store.liveness import alive

HERE = socket.gethostname()
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def now() -> datetime:
    return datetime.now(UTC)


def test_a_process_that_works_is_alive(child: subprocess.Popen[bytes]) -> None:
    assert alive(HERE, os.getpid(), now())
    assert alive(HERE, child.pid, now())
    assert alive(HERE, child.pid, now() + timedelta(days=400))  # however long it works


def test_one_that_ended_is_not(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    assert not alive(HERE, child.pid, now())


@needs_proc
def test_one_killed_and_not_yet_waited_for_is_not(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    os.kill(child.pid, 0)
    assert not alive(HERE, child.pid, now())


@needs_proc
def test_a_process_younger_than_the_run_only_has_its_number(child: subprocess.Popen[bytes]) -> None:
    assert not alive(HERE, child.pid, now() - timedelta(hours=1))
    assert alive(HERE, child.pid, now() - timedelta(seconds=5))  # a clock that was set says nothing


def test_of_another_machine_nothing_is_known(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    assert alive("elsewhere.example", child.pid, now() - timedelta(days=9))


def test_a_process_of_another_user_is_alive_seen_or_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, signal: int) -> None:
        assert signal == 0
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert alive(HERE, os.getppid(), now())
    assert alive(HERE, 2**22 + 1, now())  # no such folder in /proc, as where it hides processes
