"""Attempts of an optimistic commit: again on the newest state while other writers get there first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from pyiceberg.exceptions import CommitFailedException

from ferstore.errors import ConflictError
from ferstore.store.reach import passes, pause, unavailable, was_tried

_ATTEMPTS = 40
_PATIENCE = 600.0  # seconds; many writers on a slow machine can be quicker than one of them forty times in a row
_FIRST_WAIT = 0.02  # seconds; a commit takes that long
_LONGEST_WAIT = 20.0  # seconds; also where one attempt waited a minute for a lock


class Attempts:
    """The attempts of one commit, with waits between them.

    Each turn plans on the newest state and commits inside `landing`::

        for attempt in (attempts := Attempts("the store")):
            pin = store.pin()
            with attempts.landing():
                commit(...)
            if attempts.landed:
                break

    Attributes:
        landed: the newest attempt was committed.
        unsure: nobody knows whether the newest attempt was committed: its answer was lost.
        was_unsure: that was so of some attempt; look at the state before doing it again.

    Raises:
        ConflictError: by iterating, when other writers kept getting there first.
        UnavailableError: by iterating, when the catalog did not answer the last time.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._problem: Exception | None = None
        self.landed = False
        self.was_unsure = False

    @property
    def unsure(self) -> bool:
        return self._problem is not None

    def __iter__(self) -> Iterator[int]:
        began = time.monotonic()
        for attempt in count():
            started = time.monotonic()
            if attempt >= _ATTEMPTS and (self._problem or started - began > _PATIENCE):
                break
            self._problem = None
            yield attempt
            cost = time.monotonic() - started  # who waits much less than a commit takes finds others at work on theirs
            pause(min(attempt, 8), max(_FIRST_WAIT, cost), min(max(2.0, 8 * cost), _LONGEST_WAIT))
        if self._problem:
            raise unavailable(self._what, self._problem) from self._problem
        raise ConflictError(
            f"other writers changed {self._what} {attempt} times in a row",
            hint="run the same command again; nothing is lost",
        )

    @contextmanager
    def landing(self) -> Iterator[None]:
        """Around the commit: conflicts and lost answers end the attempt, other errors all of them."""
        try:
            yield
        except CommitFailedException:
            return
        except Exception as error:
            if was_tried(error) or not passes(error):  # a file before the catalog was asked: nothing landed
                raise
            self._problem, self.was_unsure = error, True
        else:
            self.landed = True
