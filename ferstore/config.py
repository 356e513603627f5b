"""Job files: TOML whose keys are a command's long options."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ferstore.errors import InputError

_POSITIONAL = {"ingest": ("kind", "url"), "extract": (), "train": ("experiment",)}
_REPEATED = {"set"}  # options that may be given several times
_RUNS = "runs"


def job_commands(command: str, config: Path) -> list[list[str]]:
    """The command lines that a job file stands for.

    ``true`` is a flag, ``false`` leaves it out, a list becomes one value with commas, or for ``set`` one option each. A
    key that is no option of the command is refused by the command line itself. With ``[[runs]]`` the command is run
    once for each of them, with its keys before those at the top: that is how a search is written.

    Args:
        command: ``ingest``, ``extract`` or ``train``.
        config: the job file.

    Raises:
        InputError: it cannot be read, is not TOML, or lacks a positional argument.
    """
    try:
        settings = tomllib.loads(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read job file {config}: {error}", hint="check --config") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"job file {config} is not TOML: {error}", hint="mend that line") from error
    runs = settings.pop(_RUNS, [{}])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs) or not runs:
        raise InputError(f"job file {config} has {_RUNS} that are no tables", allowed=f"[[{_RUNS}]] and keys below it")
    return [_arguments(command, config, {**settings, **run}) for run in runs]


def _arguments(command: str, config: Path, settings: dict[str, Any]) -> list[str]:
    positional = []
    for name in _POSITIONAL[command]:
        if name not in settings:
            raise InputError(f"job file {config} has no {name!r}", allowed="a string", hint=f"add {name} = ...")
        positional.append(str(settings.pop(name)))
    options: list[str] = []
    for key, value in settings.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, dict):
            raise InputError(f"job file {config} has a table {key!r}", allowed="keys that are options of " + command)
        if value is True:
            options.append(option)
        elif key in _REPEATED and isinstance(value, list):
            options += [f"{option}={one}" for one in value]
        elif value is not False:
            options.append(f"{option}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return [command, *options, *positional]
