"""An executor without threads, for PyIceberg's reading of many small files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Inline(Executor):
    """Work done where it is asked for: a file of a few hundred bytes is read before a thread is woken."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*given, **named))
        except BaseException as error:  # as a thread does; `Crash` is one
            done.set_exception(error)
        return done
