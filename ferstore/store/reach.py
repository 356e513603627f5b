"""Reaching files and the catalog: what passes by itself is tried again, what stays is told as it is.

A busy object store (503), a timeout, a lost connection or a locked database is gone a moment later. Anything else that
the file system or the database says, such as a full disk, is for the user to read, in one line.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyiceberg.exceptions import (
    CommitStateUnknownException,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from ferstore import driver_errors
from ferstore.driver_errors import as_os_error
from ferstore.errors import CorruptionError, UnavailableError

_T = TypeVar("_T")

_TRIES = 5
_TRIED = "_ferstore_tried"  # marks an error that was tried: five times of five times would be minutes
_FIRST_WAIT = 0.1  # seconds; doubled at each try, with full jitter


def passes(error: BaseException) -> bool:
    """Whether the same call may be answered a moment later. What it did may still have happened."""
    if isinstance(error, OperationalError | InterfaceError | CommitStateUnknownException):
        return True
    if isinstance(error, ServiceUnavailableError | TooManyRequestsError | ServerError):  # of a REST catalog
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return driver_errors.passes(error)


def pause(attempt: int, first: float = _FIRST_WAIT, longest: float = 2.0) -> None:
    """Wait before another attempt: seconds doubled each time, with full jitter."""
    time.sleep(random.uniform(0, min(longest, first * 2**attempt)))  # noqa: S311


def patiently(work: Callable[[], _T]) -> _T:
    """Do what may be done twice, again while its error passes; one of a storage driver's own becomes an OSError."""
    for attempt in range(_TRIES):
        try:
            return work()
        except Exception as error:
            if attempt == _TRIES - 1 or not passes(error) or was_tried(error):
                told = as_os_error(error)
                setattr(told, _TRIED, True)
                if told is error:
                    raise
                raise told from error
        pause(attempt)
    raise AssertionError("not reached")


def was_tried(error: BaseException) -> bool:
    """Whether `patiently` has given up on it: whoever called that need not."""
    return bool(getattr(error, _TRIED, False))


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
    except (OSError, SQLAlchemyError, RESTError) as error:
        raise unavailable(what, error) from error
    except Exception as error:
        if (told := as_os_error(error)) is error:
            raise
        raise unavailable(what, told) from error


def unavailable(what: str, error: BaseException) -> UnavailableError:
    """The error to tell. A driver's own message may quote a URI with its password; only its type is shown."""
    if isinstance(error, RESTError):
        reason = f"its catalog answers {type(error).__name__}: {str(error)[:200]}"
    elif isinstance(error, SQLAlchemyError):
        reason = f"its catalog does not answer ({type(error).__name__})"
    else:
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return UnavailableError(
        f"{what} cannot be reached: {reason}", hint="mend the cause and run the same command again; nothing is lost"
    )
