"""Job files: TOML whose keys are the long options of commands, those of a step in a table of its own."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError, create_model

from ferstore.errors import InputError

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr | date
Value = Scalar | list[Scalar]
Table = dict[str, Value]


class _Shape(BaseModel):
    """Keys at the top are options; the tables that a job knows are the fields of a subclass."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Value]


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job file says.

    Attributes:
        path: of it, for messages.
        top: options that hold for every step.
        tables: options of single steps by table; a table that is there once is a list of one.
    """

    path: str
    top: Mapping[str, Any]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint that names what was meant, if it can be guessed."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else ""


def read_job_file(path: Path, tables: Mapping[str, bool]) -> JobFile:
    """Read a job file and check its shape: which tables it has, and that their values are plain.

    Args:
        path: of the file.
        tables: those it may have; True where there may be several (``[[name]]``).

    Raises:
        InputError: it cannot be read, is not TOML, or has another shape.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read job file {path}: {error}", hint="check --config") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"job file {path} is not TOML: {error}", hint="mend that line") from error
    fields: dict[str, Any] = {name: (list[Table] if many else Table, ...) for name, many in tables.items()}
    model = create_model("JobShape", __base__=_Shape, **{name: fields[name] for name in tables if name in found})
    try:
        model.model_validate(found)
    except ValidationError as error:
        raise _refusal(path, error.errors()[0]["loc"], found, tables) from error
    for name in tables:
        if found.get(name) == []:
            raise _refusal(path, (name,), found, tables)
    return JobFile(
        str(path),
        {key: value for key, value in found.items() if key not in tables},
        {name: found[name] if many else [found[name]] for name, many in tables.items() if name in found},
    )


def _refusal(
    path: Path, where: Sequence[str | int], found: Mapping[str, Any], tables: Mapping[str, bool]
) -> InputError:
    name, *below = where
    keys: list[str] = [part for part in below if isinstance(part, str) and part in str(found[str(name)])]
    if name in tables and not keys:
        shown = f"[[{name}]]" if tables[str(name)] else f"[{name}]"
        return InputError(f"job file {path} has {name!r} as no table", allowed=f"{shown} and keys below it")
    value = found[str(name)]
    if name not in tables and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))):
        allowed = ", ".join(f"[[{table}]]" if many else f"[{table}]" for table, many in tables.items())
        return InputError(
            f"job file {path} has an unknown table {name!r}",
            allowed=allowed or "keys, no tables",
            hint=nearest(str(name), list(tables)),
        )
    return InputError(
        f"job file {path}: the value of {(keys[0] if keys else name)!r} is of no type an option has",
        allowed="text, a number, true, false, or a list of texts",
    )
