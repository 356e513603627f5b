"""Job files: TOML whose keys are a command's long options."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ferstore.errors import InputError

_POSITIONAL = {"ingest": ("kind", "url"), "extract": ()}


def job_arguments(command: str, config: Path) -> list[str]:
    """The command line that a job file stands for.

    ``true`` is a flag, ``false`` leaves it out, a list becomes one value with commas. A key that is no option of the
    command is refused by the command line itself.

    Args:
        command: ``ingest`` or ``extract``.
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
        elif value is not False:
            options.append(f"{option}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return [command, *options, *positional]
