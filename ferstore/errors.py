"""The errors of ferstore: one family, one line each, safe to pickle.

Every message says what was given, what is allowed and what to do next. The class decides the exit code of the
command line (``design.md``, "Command line"), so that a caller never parses text.
"""

from __future__ import annotations

from typing import ClassVar

from ferstore.redaction import scrub


class FerstoreError(Exception):
    """Base of every error ferstore raises on purpose. Exit code 1: the work failed.

    Args:
        problem: what was given and what is wrong with it, without a final full stop.
        allowed: what would have been accepted.
        hint: what to do next, as an imperative.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, allowed: str = "", hint: str = "") -> None:
        # Messages end in logs and tables; whatever a driver or a user put into one, a credential does not get there.
        self.problem, self.allowed, self.hint = scrub(problem), scrub(allowed), scrub(hint)
        parts = [self.problem, f"allowed: {self.allowed}" if allowed else "", self.hint]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        # Exception pickles by its args, which would lose the keywords; Ray sends errors between processes.
        return (_rebuild, (type(self), self.problem, self.allowed, self.hint))


def _rebuild(kind: type[FerstoreError], problem: str, allowed: str, hint: str) -> FerstoreError:
    return kind(problem, allowed=allowed, hint=hint)


class InputError(FerstoreError):
    """What the user gave cannot be used. Exit code 2: nothing was changed."""

    exit_code = 2


class SourceError(InputError):
    """A data set's location or layout is not what its loader reads."""


class WeightsError(InputError):
    """Weights that cannot be reached, do not have the digest asked for, or do not fit the network."""


class QueryError(InputError):
    """A query that is not one read-only statement over the store, or that DuckDB refuses."""


class SchemaError(InputError):
    """A schema file, or a table or file that does not conform to its schema."""


class StoreError(InputError):
    """A store that is not there, was made by another version, or cannot be written."""


class ConflictError(FerstoreError):
    """Another writer got there first, and retries did not help. Exit code 4: trying again is safe."""

    exit_code = 4


class UnavailableError(FerstoreError):
    """Files of the store or its catalog cannot be reached, read or written just now; what was committed stays."""


class CorruptionError(FerstoreError):
    """A file of the store is missing or differs from its recorded digest."""


class FetchError(FerstoreError):
    """The bytes of one item cannot be read; the item goes to quarantine."""


class DecodeError(FerstoreError):
    """The bytes of one item are not an image ferstore reads; the item goes to quarantine."""


class ExtractError(FerstoreError):
    """The pool of actors cannot go on."""


class TrainError(FerstoreError):
    """A training cannot go on."""


class StoppedError(FerstoreError):
    """The user stopped it, and the same command would not continue it: the hint says what does."""
