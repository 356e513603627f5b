"""Settings of a job: its file, then ``FERSTORE_OPTION`` of the environment, then the command line; all checked at once.

Nothing is opened, started or changed here, and neither Ray nor TensorFlow is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ferstore.batch.jobs import JOBS, Section
from ferstore.batch.options import FILE, Option, options_of, own_options
from ferstore.cli.entry import check, refusing_usage
from ferstore.cli.options import DryRun, Json
from ferstore.config import JobFile, nearest, read_job_file
from ferstore.errors import InputError
from ferstore.image.location import redact

_DATE = "{logical_date}"


class OnConflict(StrEnum):
    """What a job does while another instance of it is at work."""

    fail = "fail"
    wait = "wait"


class LogKind(StrEnum):
    """How a job tells of its work."""

    json = "json"
    human = "human"


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What holds for a job as a whole.

    Attributes:
        job: its name in ``job_runs``.
        logical_date: the day it is run for, ISO 8601.
        again: run it though it is done for that day.
        on_conflict: what to do while another instance is at work.
        wait_seconds: how long to wait for that one at most.
        log: how it tells of its work.
        as_json: print the result as one JSON object.
        dry_run: change nothing.
        store: URL, or None.
        catalog: URI, or None.
        debug: tell errors with a traceback.
    """

    job: str
    logical_date: str
    again: bool
    on_conflict: OnConflict
    wait_seconds: float
    log: LogKind
    as_json: bool
    dry_run: bool
    store: str | None
    catalog: str | None
    debug: bool


_own = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_own.command()
def _job_options(
    config: Annotated[Path, typer.Option(help="The job file.")],  # noqa: ARG001  read before all others
    job: Annotated[str, typer.Option(help="Its name in job_runs, where a file is a job of its own.")],
    logical_date: Annotated[str | None, typer.Option(help="The day it is run for; today in UTC otherwise.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run it though it is done for that day.")] = False,
    on_conflict: Annotated[OnConflict, typer.Option(help="While another instance is at work.")] = OnConflict.fail,
    wait_seconds: Annotated[float, typer.Option(help="How long to wait for that one.")] = 3600.0,
    log: Annotated[LogKind, typer.Option(help="How it tells of its work on stderr.")] = LogKind.json,
    store: Annotated[str | None, typer.Option(help="As for every command.")] = None,
    catalog: Annotated[str | None, typer.Option(help="As for every command.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> JobOptions:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", job):
        raise InputError(f"job = {job!r}", allowed="1 to 64 of a-z, 0-9, - and _")
    if not 0 <= wait_seconds <= 7 * 86_400:
        raise InputError(f"wait-seconds {wait_seconds:g}", allowed="0 to 604800")
    day = datetime.now(UTC).date().isoformat() if logical_date is None else logical_date
    try:
        fine = date.fromisoformat(day).isoformat() == day
    except ValueError:
        fine = False
    if not fine:
        raise InputError(f"logical-date {day!r}", allowed="a day such as 2026-11-23")
    return JobOptions(job, day, again, on_conflict, wait_seconds, log, as_json, dry_run, store, catalog, debug)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a job, checked.

    Attributes:
        name: its table, with a number where there are several.
        section: what it is.
        template: its command line, as it is the same every day.
        arguments: the same for the job's logical date, globals included.
        asked: what the command makes of it.
    """

    name: str
    section: Section
    template: tuple[str, ...]
    arguments: tuple[str, ...]
    asked: Any = None


def redact_word(word: str) -> str:
    """A word of a command line without the credentials of a URL in it."""
    name, given, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{name}{given}{redact(value)}"


@dataclass(frozen=True, slots=True)
class Settings:
    """A job with all that it needs.

    Attributes:
        options: of the job.
        steps: in order.
        ignored: variables of the environment that look like settings and are none.
    """

    options: JobOptions
    steps: tuple[Step, ...]
    ignored: tuple[str, ...]

    def recorded(self) -> dict[str, list[str]]:
        """The command line of each step as it may be kept and shown."""
        return {step.name: [redact_word(word) for word in step.template] for step in self.steps}


@dataclass(frozen=True, slots=True)
class _Setting:
    value: Any
    where: str


_Layer = dict[str, _Setting]


def job_settings(name: str, words: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read, merge and check all that a job is told.

    Args:
        name: of the job.
        words: its command line.
        environment: variables.

    Raises:
        InputError: the first thing that is wrong with it; nothing was opened or started.
    """
    job = JOBS[name]
    own = own_options(_own)
    known = {table: _without(options_of(section.command), own) for table, section in job.items()}
    everything = {**{option.name: option for options in known.values() for option in options.values()}, **own}
    given = _command_line(name, words, everything)
    if "config" not in given:
        raise InputError(f"jobs.{name} without --config", allowed="--config FILE, then more options")
    file = read_job_file(Path(given["config"].value), {table: section.several for table, section in job.items()})
    top = _layer(file.top, f"{FILE} {file.path}", everything)
    variables, ignored = _environment(environment, everything)
    options = _options(name, own, {**top, **variables, **given})
    steps = []
    for table, section in job.items():
        tables = file.tables.get(table, [{}] if section.always else [])
        for number, keys in enumerate(tables, 1):
            label = section.command + (f" {number}" if len(tables) > 1 else "")
            layer = _layer(keys, f"{FILE} {file.path} [{table}]", known[table])
            merged = {**top, **layer, **variables, **given}
            steps.append(_step(label, section, known[table], merged, options))
    if not steps:
        raise InputError(f"{FILE} {file.path} has no step", allowed=", ".join(f"[{table}]" for table in job))
    used = {setting for table in job if table in file.tables or job[table].always for setting in known[table]}
    _check_used(file, {**top, **given}, used | own.keys(), job)
    return Settings(options, tuple(steps), ignored)


def _without(options: Mapping[str, Option], own: Mapping[str, Option]) -> dict[str, Option]:
    """Options of a step: what holds for a job as a whole is said once."""
    return {name: option for name, option in options.items() if name not in own}


def _check_used(file: JobFile, settings: _Layer, used: set[str], job: Mapping[str, Section]) -> None:
    for name, setting in settings.items():
        if name not in used:
            tables = ", ".join(f"[{table}]" for table in job if table in file.tables)
            raise InputError(f"{setting.where}: no step has the option {name!r}", allowed=f"options of {tables}")


def _layer(keys: Mapping[str, Any], where: str, known: Mapping[str, Option]) -> _Layer:
    found: _Layer = {}
    for key, value in keys.items():
        name = key.replace("_", "-")
        if name not in known:
            raise InputError(f"{where}: unknown key {key!r}", allowed=", ".join(known), hint=nearest(name, list(known)))
        if name in found:
            raise InputError(f"{where}: {key!r} is there twice", allowed="with - or with _, once")
        known[name].words(value, where)
        found[name] = _Setting(value, where)
    return found


def _environment(environment: Mapping[str, str], known: Mapping[str, Option]) -> tuple[_Layer, tuple[str, ...]]:
    variables = {f"FERSTORE_{name.upper().replace('-', '_')}": option for name, option in known.items()}
    found: _Layer = {}
    for variable, option in variables.items():
        if text := environment.get(variable):
            value: Any = text.split() if option.repeated else text
            option.words(value, variable)
            found[option.name] = _Setting(value, variable)
    return found, tuple(sorted(name for name in environment if name.startswith("FERSTORE_") and name not in variables))


def _command_line(name: str, words: Sequence[str], known: Mapping[str, Option]) -> _Layer:
    where = "command line"
    found: _Layer = {}
    left = list(words)
    while left:
        word, given, value = left.pop(0).partition("=")
        option = known.get(word.removeprefix("--")) if word.startswith("--") else None
        if option is None:
            hint = nearest(word, [f"--{other}" for other in known])
            raise InputError(f"jobs.{name} {word}: no such option", allowed="--config FILE, then options", hint=hint)
        if option.kind == "flag":
            if given:
                raise InputError(f"jobs.{name} {word}={value}", allowed=f"{word} alone")
            found[option.name] = _Setting(True, where)
            continue
        if not given and not left:
            raise InputError(f"jobs.{name} {word} without a value", allowed=f"{word} VALUE")
        text = value if given else left.pop(0)
        before = found[option.name].value if option.repeated and option.name in found else []
        found[option.name] = _Setting([*before, text] if option.repeated else text, where)
    return found


def _options(name: str, own: Mapping[str, Option], settings: _Layer) -> JobOptions:
    words = [
        word
        for option in own.values()
        if option.name in settings
        for word in option.words(settings[option.name].value, settings[option.name].where)
    ]
    words += [] if "job" in settings else [f"--job={name}"]
    with refusing_usage(f"jobs.{name}"):
        found: JobOptions = typer.main.get_command(_own).main(words, standalone_mode=False)
    return found


def _step(label: str, section: Section, known: Mapping[str, Option], settings: _Layer, options: JobOptions) -> Step:
    words: list[str] = []
    places: list[str] = []
    for option in known.values():
        if option.name in settings:
            setting = settings[option.name]
            (places if option.argument else words).extend(option.words(setting.value, setting.where))
    template = (section.command, *words, *(["--", *places] if places else []))
    whole = [f"--{name}={value}" for name, value in (("store", options.store), ("catalog", options.catalog)) if value]
    whole += ["--debug"] if options.debug else []
    command, *rest = (word.replace(_DATE, options.logical_date) for word in template)
    switches = ["--json", *(["--dry-run"] if options.dry_run and "dry-run" in options_of(command) else [])]
    arguments = (*whole, command, *switches, *rest)
    with refusing_usage(label):
        asked = check(arguments)
    return Step(label, section, template, arguments, asked)


def usage(name: str, job: Mapping[str, Section]) -> str:
    """How a job is called."""
    commands = ", ".join(f"ferstore {section.command}" for section in job.values())
    own = "\n".join(
        f"  --{option.name:<14} {getattr(parameter, 'help', '')}"
        for option, parameter in zip(own_options(_own).values(), typer.main.get_command(_own).params, strict=True)
    )
    return (
        f"Usage: python -m jobs.{name} --config FILE [--logical-date YYYY-MM-DD] [OPTION ...]\n\n{own}\n\n"
        f"and the options of {commands}; \nalso as keys of FILE, or as FERSTORE_OPTION in the environment.\n"
    )
