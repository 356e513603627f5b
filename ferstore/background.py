"""Threads that prepare work for others step back behind those that compute."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICER = 10


def step_back() -> None:
    """Give the calling thread what others leave of the cores, for good.

    The threads of a network or of an update wait for one another at every layer, so one that has to share its core
    holds up all. While they wait for something else, reading, decoding and encoding go on at full speed. Where a thread
    has no priority of its own, nothing changes.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            # Relative: Ray's workers are at 15 already. The system keeps it at 19 at most.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)
