"""The options of commands, read off the command line itself, so that there is no second list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, Literal

import typer

from ferstore.cli.entry import command_line
from ferstore.errors import InputError

FILE = "job file"
"""How places in a job file begin in messages: there a number is no text."""

Kind = Literal["flag", "int", "float", "text"]

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_ALLOWED: Mapping[Kind, str] = {
    "flag": "true or false",
    "int": "a whole number",
    "float": "a number",
    "text": "text in quotes",
}


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command, or one of its arguments, which a job file sets by name too.

    Attributes:
        name: without dashes in front.
        kind: what it holds.
        repeated: it may be given several times.
        argument: it is given by its place.
        metavar: what help calls its value: with ``N`` also a number is text, with a comma also a list.
    """

    name: str
    kind: Kind
    repeated: bool = False
    argument: bool = False
    metavar: str = ""

    def words(self, value: Any, where: str) -> list[str]:
        """The value as words of a command line.

        Args:
            value: from a job file, or text from the environment or a command line.
            where: it came from, for messages.

        Raises:
            InputError: it is of another type.
        """
        if self.kind == "flag":
            return [f"--{self.name}"] if self._truth(value, where) else []
        if self.repeated:
            return [
                f"--{self.name}={self._text(one, where)}" for one in (value if isinstance(value, list) else [value])
            ]
        if isinstance(value, list) and "," in self.metavar:
            text = ",".join(self._text(one, where) for one in value)
        else:
            text = self._text(value, where)
        return [text] if self.argument else [f"--{self.name}={text}"]

    def _truth(self, value: Any, where: str) -> bool:
        if isinstance(value, bool):
            return value
        if where.startswith("FERSTORE_") and str(value).casefold() in (*_TRUE, *_FALSE):
            return str(value).casefold() in _TRUE
        raise self._refusal(value, where)

    def _text(self, value: Any, where: str) -> str:
        if isinstance(value, str) and not where.startswith(FILE):
            fine = self._reads(value)
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fine = {
                "flag": False,
                "int": number and isinstance(value, int),
                "float": number,
                "text": isinstance(value, str | date) or (number and "N" in self.metavar.split("|")),
            }[self.kind]
        if not fine:
            raise self._refusal(value, where)
        return value.isoformat() if isinstance(value, date) else str(value)

    def _reads(self, text: str) -> bool:
        """Whether text is a number where one is wanted."""
        try:
            {"int": int, "float": float}.get(self.kind, str)(text)
        except ValueError:
            return False
        return True

    def _refusal(self, value: Any, where: str) -> InputError:
        allowed = _ALLOWED[self.kind] + (", or a list of texts" if self.repeated or "," in self.metavar else "")
        return InputError(f"{where}: {self.name} = {value!r}", allowed=allowed)


@cache
def options_of(command: str) -> dict[str, Option]:
    """Options and arguments of a command of ``ferstore``, by name, in order."""
    return _options(command_line().commands[command].params)


def own_options(function: typer.Typer) -> dict[str, Option]:
    """Options of a program with one command."""
    return _options(typer.main.get_command(function).params)


def _options(parameters: Sequence[Any]) -> dict[str, Option]:
    found = {}
    for parameter in parameters:
        argument = parameter.param_type_name == "argument"
        name = parameter.name if argument else parameter.opts[0].removeprefix("--")
        annotation = parameter.type_descriptor.annotation
        kinds: dict[object, Kind] = {int: "int", float: "float"}
        kind: Kind = "flag" if not argument and parameter.is_flag else kinds.get(annotation, "text")
        metavar = parameter.metavar or ""
        found[name] = Option(name, kind, parameter.multiple if not argument else False, argument, metavar)
    return found
