"""Places where a process may end, lose an answer or be overtaken: around every file written and database commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from ferstore.store import attempts as attempts_module
from ferstore.store import files

Kind = Literal["crash", "overtaken", "busy", "answer lost"]


class Crash(BaseException):
    """The end of the process: no ``except Exception`` sees it."""


class FaultPoints:
    """Counts the points that a piece of work passes and lets one fault happen at the n-th.

    Crashes and overtakings happen before or after a write of a file or a commit of the catalog; a busy catalog refuses
    the n-th commit, and a lost answer fails after it. Nobody overtakes between the statements of a database
    transaction: it would wait for the end of it.
    """

    def __init__(self) -> None:
        self._kind: Kind | None = None
        self._left = 0
        self._meanwhile: Callable[[], object] | None = None
        self.happened = False

    def arm(self, kind: Kind, at: int, meanwhile: Callable[[], object] | None = None) -> None:
        """Let a fault happen at a point, from 1."""
        self._kind, self._left, self._meanwhile, self.happened = kind, at, meanwhile, False

    def disarm(self) -> bool:
        """Let nothing more happen; whether something did."""
        self._kind = None
        return self.happened

    @contextmanager
    def installed(self) -> Iterator[FaultPoints]:
        """Watch the store's code; what is planned again is not waited for."""
        with (
            mock.patch.object(files, "write_file", self._around(files.write_file, False)),
            mock.patch.object(Session, "commit", self._around(Session.commit, True)),
            mock.patch.object(attempts_module, "pause"),
        ):
            yield self

    def _around(self, step: Callable[..., Any], commits: bool) -> Callable[..., Any]:
        before: tuple[Kind, ...] = ("crash", "busy") if commits else ("crash", "overtaken")
        after: tuple[Kind, ...] = ("crash", "overtaken", "answer lost") if commits else ("crash", "overtaken")

        def watched(*arguments: Any, **options: Any) -> Any:
            self._tick(*before)
            result = step(*arguments, **options)
            self._tick(*after)
            return result

        return watched

    def _tick(self, *kinds: Kind) -> None:
        if self._kind not in kinds:
            return
        self._left -= 1
        if self._left:
            return
        kind, self._kind, self.happened = self._kind, None, True
        if kind == "crash":
            raise Crash
        if kind == "overtaken":
            assert self._meanwhile is not None
            self._meanwhile()
        else:
            raise OperationalError(kind, None, Exception())
