"""The command line: parse, call the API, print, exit. No logic lives here."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import typer

from ferstore.cli.options import BAD_INPUT, DONE, FAILED
from ferstore.cli.root import app
from ferstore.cli.session import Checked, Globals
from ferstore.errors import FerstoreError, InputError, StoppedError
from ferstore.redaction import scrub

# Each adds its commands; help shows the groups in this order.
# isort: off
from ferstore.cli import fill, learn, look, ask, keep  # noqa: F401

# isort: on

_HOISTED = {"--store": 1, "--catalog": 1, "--debug": 0}


def _hoist(arguments: Sequence[str]) -> list[str]:
    """Move the global options before the command, so that they may also come after it."""
    front: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        name, given, _ = word.partition("=")
        if word == "--":
            rest += [word, *left]
            break
        if name in _HOISTED:
            take = 0 if given else _HOISTED[name]
            front += [word, *left[:take]]
            del left[:take]
        else:
            rest.append(word)
    return front + rest


@cache
def command_line() -> Any:
    """All commands with their options, as Click has them."""
    return typer.main.get_command(app)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def stop_on_signal() -> None:
    """SIGTERM ends the work at hand as Ctrl-C does: what is finished is kept."""
    signal.signal(signal.SIGTERM, _stop)


# Typer keeps Click's exceptions private; this one covers unknown commands, options and missing arguments.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        error: what it has to say, in a line.
        stopped: by a signal: the same command, or the one in ``error``, continues.
    """

    code: int
    error: str | None = None
    stopped: bool = False


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    ended = invoke(arguments)
    if ended.error is not None:
        sys.stderr.write(f"ferstore: {ended.error}\n")
    return ended.code


def invoke(arguments: Sequence[str]) -> Ended:
    """Run one command line in this process."""
    stop_on_signal()
    logging.basicConfig(level=logging.ERROR, handlers=[logging.NullHandler()])
    given = _hoist(arguments)
    for word in given:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # bytes of the shell that are no text
            return _ended(BAD_INPUT, f"argument {word!r}; allowed: UTF-8 text; rename what is called so")
    code = DONE
    try:
        with refusing_usage():
            code = command_line()(given, prog_name="ferstore", standalone_mode=False) or DONE
    except FerstoreError as error:
        return _ended(error.exit_code, str(error), stopped=isinstance(error, StoppedError))
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as head, has seen enough
    except OSError as error:
        return _ended(FAILED, f"{error}; mend the cause and run the same command again")
    except Exception as error:
        return _ended(FAILED, f"unexpected {type(error).__name__}: {error}; run again with --debug and report it")
    if code == 130:  # Typer's code for Ctrl-C
        return _ended(FAILED, "stopped; what was finished is kept, and the same command continues", stopped=True)
    return Ended(code)


def check(arguments: Sequence[str]) -> Any:
    """Parse a command line and let the command check what it is asked for, up to where it would open a store.

    Returns:
        What it would be asked for: its request, where it has one.

    Raises:
        InputError: it would refuse this.
    """
    Globals.checking = True
    try:
        command_line()(_hoist(arguments), prog_name="ferstore", standalone_mode=False)
    except Checked as checked:
        return checked.asked
    finally:
        Globals.checking = False
    return None


@contextmanager
def refusing_usage(where: str = "") -> Iterator[None]:
    """Tell what a parser refuses as bad input.

    Args:
        where: it was given, for the message.

    Raises:
        InputError: in the parser's words.
    """
    said = f"{where}: " if where else ""
    try:
        yield
    except _UsageError as error:
        problem = error.format_message().rstrip(".") or "no command given"  # type: ignore[attr-defined]
        raise InputError(said + " ".join(problem.split()), hint="see: ferstore --help") from error
    except InputError as error:
        if not where:
            raise
        raise InputError(said + error.problem, allowed=error.allowed, hint=error.hint) from error


def _ended(code: int, text: str, *, stopped: bool = False) -> Ended:
    if Globals.debug or "--debug" in sys.argv:
        sys.stderr.write(scrub(traceback.format_exc()))
    return Ended(code, scrub(" ".join(text.split())), stopped)
