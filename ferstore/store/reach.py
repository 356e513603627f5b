"""Reaching files and the catalog: what passes by itself is tried again, what stays is told as it is.

A busy object store (503), a timeout, a lost connection or a locked database is gone a moment later. Anything else that
the file system or the database says, such as a full disk, is for the user to read, in one line.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyiceberg.exceptions import CommitStateUnknownException
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from ferstore.errors import CorruptionError, UnavailableError

_T = TypeVar("_T")

_TRIES = 5
_FIRST_WAIT = 0.1  # seconds; doubled at each try, with full jitter
_PASSING = frozenset(
    {
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),  # s3fs makes EBUSY of a 503
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH),
    }
)
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def passes(error: BaseException) -> bool:
    """Whether the same call may be answered a moment later. What it did may still have happened."""
    if isinstance(error, TimeoutError | ConnectionError | OperationalError | InterfaceError):
        return True
    if isinstance(error, CommitStateUnknownException):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    # gcsfs, adlfs and aiohttp have errors of their own, with the status of the answer.
    status = getattr(error, "status", None) or getattr(error, "status_code", None) or getattr(error, "code", None)
    return isinstance(status, int) and status in _PASSING_STATUS


def pause(attempt: int, first: float = _FIRST_WAIT, longest: float = 2.0) -> None:
    """Wait before another attempt: seconds doubled each time, with full jitter."""
    time.sleep(random.uniform(0, min(longest, first * 2**attempt)))  # noqa: S311


def patiently(work: Callable[[], _T]) -> _T:
    """Do what may be done twice, again while its error passes."""
    for attempt in range(_TRIES - 1):
        try:
            return work()
        except Exception as error:
            if not passes(error):
                raise
        pause(attempt)
    return work()


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Tell errors of the file system and of the catalog as ferstore's.

    Raises:
        CorruptionError: a file is missing.
        UnavailableError: it cannot be reached, read or written.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptionError(
            f"{what}: {error.filename or error} is missing", hint="restore the store's folder from a backup"
        ) from error
    except (OSError, SQLAlchemyError, CommitStateUnknownException) as error:
        raise unavailable(what, error) from error


def unavailable(what: str, error: BaseException) -> UnavailableError:
    """The error to tell. A driver's own message may quote a URI with its password; only its type is shown."""
    if isinstance(error, SQLAlchemyError):
        reason = f"its catalog does not answer ({type(error).__name__})"
    else:
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return UnavailableError(
        f"{what} cannot be reached: {reason}", hint="mend the cause and run the same command again; nothing is lost"
    )
