"""Threads that step back: only they, and below what they were."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ferstore.background import step_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_steps_back_and_no_other_does() -> None:
    before = own()
    with ThreadPoolExecutor(1, initializer=step_back) as stepped, ThreadPoolExecutor(1) as other:
        assert stepped.submit(own).result() == min(before + 10, 19)
        assert other.submit(own).result() == before
    assert own() == before


def test_a_thread_of_a_low_priority_never_gets_a_higher_one() -> None:
    def twice() -> tuple[int, int]:
        step_back()
        step_back()
        last = own()
        step_back()
        return last, own()

    with ThreadPoolExecutor(1) as thread:
        last, then = thread.submit(twice).result()
    assert last == then == 19
