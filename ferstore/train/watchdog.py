"""Ending a process that no longer gets on."""

from __future__ import annotations

import os
import sys
import threading
import time

STUCK_EXIT = 75


class Watchdog:
    """Ends this process when its updates stop: a collective waits for ever for a worker that is gone."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="ferstore-watchdog").start()

    def beat(self) -> None:
        """There was progress."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """No more progress is to come."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                sys.stderr.write(f"ferstore: no progress for {self._seconds:g} s, this worker ends\n")
                sys.stderr.flush()
                os._exit(STUCK_EXIT)
