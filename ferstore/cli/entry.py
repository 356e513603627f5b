"""The command line: parse, call the API, print, exit. No logic lives here."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import typer

from ferstore.cli.options import BAD_INPUT, DONE, FAILED, SOME_QUARANTINED
from ferstore.cli.root import app
from ferstore.cli.session import Globals
from ferstore.config import job_commands
from ferstore.errors import FerstoreError, InputError
from ferstore.redaction import scrub

# Each adds its commands; help shows the groups in this order.
# isort: off
from ferstore.cli import fill, learn, look, ask, keep  # noqa: F401

# isort: on

_HOISTED = {"--store": 1, "--catalog": 1, "--debug": 0}


def _hoist(arguments: list[str]) -> list[str]:
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


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


# Typer keeps Click's exceptions private; this one covers unknown commands, options and missing arguments.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def run_job(command: str) -> None:
    """``python -m jobs.COMMAND --config FILE [OPTION ...]``: the file's options, then those given, which win."""
    given = sys.argv[1:]
    try:
        if len(given) < 2 or given[0] != "--config":
            raise InputError(f"jobs.{command} {' '.join(given)}".strip(), allowed="--config FILE, then more options")
        commands = job_commands(command, Path(given[1]))
    except FerstoreError as error:
        sys.exit(_fail(error.exit_code, str(error)))
    codes = [DONE]
    for arguments in commands:
        codes.append(_run([*arguments, *given[2:]]))
        if codes[-1] not in (DONE, SOME_QUARANTINED):
            break
    sys.exit(codes[-1] or max(codes))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.ERROR, handlers=[logging.NullHandler()])
    given = _hoist(arguments)
    for word in given:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # bytes of the shell that are no text
            return _fail(BAD_INPUT, f"argument {word!r}; allowed: UTF-8 text; rename what is called so")
    try:
        code: int = app(given, prog_name="ferstore", standalone_mode=False) or DONE
    except _UsageError as error:
        problem = error.format_message().rstrip(".") or "no command given"  # type: ignore[attr-defined]
        code = _fail(BAD_INPUT, f"{problem}; see: ferstore --help")
    except FerstoreError as error:
        code = _fail(error.exit_code, str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as head, has seen enough
        code = DONE
    except OSError as error:
        code = _fail(FAILED, f"{error}; mend the cause and run the same command again")
    except Exception as error:
        code = _fail(FAILED, f"unexpected {type(error).__name__}: {error}; run again with --debug and report it")
    if code == 130:  # Typer's code for Ctrl-C
        code = _fail(FAILED, "stopped; what was finished is kept, and the same command continues")
    return code


def _fail(code: int, text: str) -> int:
    if Globals.debug or "--debug" in sys.argv:
        sys.stderr.write(scrub(traceback.format_exc()))
    line = scrub(" ".join(text.split()))
    sys.stderr.write(f"ferstore: {line}\n")
    return code
