"""A worker that gets no further ends itself; one that does, or has finished, is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ferstore.train import watchdog
from ferstore.train.watchdog import STUCK_EXIT, Watchdog

PATIENCE = 30.0


class Clock:
    """Time that a test moves; it knows when the watch has looked at it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._looks = 0
        self._changed = threading.Condition()

    def monotonic(self) -> float:
        with self._changed:
            if threading.current_thread().name == "ferstore-watchdog":
                self._looks += 1
                self._changed.notify_all()
            return self._now

    def move(self, seconds: float) -> None:
        with self._changed:
            self._now += seconds

    def wait_until_looked_at(self) -> None:
        """The first look may have begun before the last move; the second has not, and a third ends it."""
        with self._changed:
            seen = self._looks
            assert self._changed.wait_for(lambda: self._looks >= seen + 3, PATIENCE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(watchdog, "time", found)
    return found


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes the watch asked for."""
    found: list[int] = []
    monkeypatch.setattr(os, "_exit", found.append)
    return found


@pytest.fixture
def watch(clock: Clock, exits: list[int]) -> Iterator[Watchdog]:
    found = Watchdog(0.04)  # it looks every 10 ms of real time at a clock that stands still
    yield found
    found.stop()
    for thread in threading.enumerate():
        if thread.name == "ferstore-watchdog":
            thread.join(PATIENCE)


def test_a_worker_that_beats_is_left_alone(watch: Watchdog, clock: Clock, exits: list[int]) -> None:
    for _ in range(5):
        clock.move(0.03)
        watch.beat()
        clock.wait_until_looked_at()
    assert exits == []


def test_a_worker_is_left_alone_until_its_seconds_are_over(watch: Watchdog, clock: Clock, exits: list[int]) -> None:
    clock.move(0.03)
    clock.wait_until_looked_at()
    assert exits == []
    clock.move(0.02)
    clock.wait_until_looked_at()
    assert exits[0] == STUCK_EXIT


def test_a_worker_that_has_finished_is_watched_no_longer(watch: Watchdog, clock: Clock, exits: list[int]) -> None:
    clock.wait_until_looked_at()
    watch.stop()
    for thread in threading.enumerate():
        if thread.name == "ferstore-watchdog":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    clock.move(100)
    assert exits == []


def test_a_stuck_process_ends_with_its_own_exit_code_and_says_why() -> None:
    code = (
        "import threading\n"
        "from ferstore.train.watchdog import Watchdog\n"
        "watch = Watchdog(0.2)\n"
        "watch.beat()\n"
        f"threading.Event().wait({PATIENCE})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == STUCK_EXIT
    assert done.stderr == "ferstore: no progress for 0.2 s, this worker ends\n"
