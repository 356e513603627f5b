"""The entry of every job: check all settings, claim the day, work step by step, leave a row, end with an exit code."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from ferstore.batch.jobs import JOBS
from ferstore.batch.settings import Settings, job_settings, usage
from ferstore.cli.entry import stop_on_signal
from ferstore.cli.session import Globals
from ferstore.errors import FerstoreError
from ferstore.redaction import scrub

if TYPE_CHECKING:
    from ferstore.batch.claim import Claim
    from ferstore.batch.log import Level, Log
    from ferstore.store.job_runs import Row
    from ferstore.store.store import Store

_POLL = 5.0  # seconds between two looks at the instance that is waited for
_CODES = {"done": 0, "partly": 3}


def run_job(name: str) -> NoReturn:
    """``python -m jobs.NAME --config FILE [--logical-date YYYY-MM-DD] [OPTION ...]``: run it and exit with its code."""
    sys.exit(job(name, sys.argv[1:], os.environ))


def job(name: str, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a job and return its exit code.

    Args:
        name: of the job.
        words: its command line.
        environment: variables.
    """
    if {"-h", "--help"} & {*words}:
        sys.stdout.write(usage(name, JOBS[name]))
        return 0
    try:
        settings = job_settings(name, words, environment)
    except FerstoreError as error:
        sys.stderr.write(f"ferstore: {' '.join(str(error).split())}\n")
        return error.exit_code
    from ferstore.batch.log import Log

    options = settings.options
    Globals.debug = options.debug
    log = Log(sys.stderr, options.job, options.logical_date, human=options.log == "human")
    stop_on_signal()
    try:
        return _begin(settings, log, environment)
    except (KeyboardInterrupt, SystemExit):
        log.event("ended", "error", state="stopped", exit_code=1, error="stopped before it began; nothing was changed")
        return 1
    except FerstoreError as error:
        log.event("ended", "error", exit_code=error.exit_code, error=str(error))
        return error.exit_code
    except Exception as error:  # nobody watches: whatever it is, it is one line and an exit code
        if options.debug:
            raise
        log.event("ended", "error", state="failed", exit_code=1, error=f"unexpected {type(error).__name__}: {error}")
        return 1


def _begin(settings: Settings, log: Log, environment: Mapping[str, str]) -> int:
    from ferstore import api
    from ferstore.batch.claim import Claim, Heartbeat
    from ferstore.batch.work import Work

    options = settings.options
    if settings.ignored:
        log.event("ignored", "warning", variables=settings.ignored)
    store = api.open(options.store, catalog=options.catalog).store
    if options.dry_run:
        work = Work(store, settings, log, None)
        return _tell(settings, {"state": work.run(), "dry_run": True}, work.results, work.code)
    found = _claim(store, settings, log, environment)
    if not isinstance(found, Claim):
        log.event("done already", state=found["state"], run_ids=found["run_ids"], same_settings=_same(settings, found))
        code = _CODES[found["state"]]
        return _tell(settings, {"state": found["state"], "already": True, "attempts": found["attempts"]}, [], code)
    with Heartbeat(store, found):
        return _work(store, settings, found, log)


def _claim(store: Store, settings: Settings, log: Log, environment: Mapping[str, str]) -> Claim | Row:
    from ferstore.batch.claim import JobBusyError, claim

    options = settings.options
    give_up = time.monotonic() + options.wait_seconds
    told = False
    while True:
        try:
            return claim(
                store,
                options.job,
                options.logical_date,
                arguments=settings.recorded(),
                submission_id=_submission(environment),
                again=options.again,
            )
        except JobBusyError as error:
            left = give_up - time.monotonic()
            if options.on_conflict == "fail" or left <= 0:
                raise
            if not told:
                log.event("waiting", reason=error.problem, seconds=options.wait_seconds)
                told = True
            time.sleep(min(left, _POLL * random.uniform(0.5, 1)))  # noqa: S311


def _same(settings: Settings, row: Row) -> bool:
    return bool(json.loads(row["arguments"]) == json.loads(json.dumps(settings.recorded())))


def _submission(environment: Mapping[str, str]) -> str | None:
    """The id of the Ray job that this process was submitted as, as Ray tells it to its driver."""
    try:
        told = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
        found = told["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)


def _work(store: Store, settings: Settings, claimed: Claim, log: Log) -> int:
    from ferstore.batch.claim import ClaimLostError, record
    from ferstore.batch.work import Work, ended_columns

    log.event("started", attempt=claimed.row["attempts"], store=store.url, steps=[step.name for step in settings.steps])
    work = Work(store, settings, log, claimed)
    state, error = "failed", None
    try:
        state, error = work.run(), work.error
    except (KeyboardInterrupt, SystemExit):  # the second: while Ray starts, its own handler of SIGTERM is in place
        state, error = "stopped", "stopped; the same command continues"
    except ClaimLostError:
        raise
    except FerstoreError as problem:
        error, work.code = str(problem), problem.exit_code
    except Exception as problem:
        if Globals.debug:
            raise
        error, work.code = scrub(f"unexpected {type(problem).__name__}: {problem}"), 1
    code = 1 if state == "stopped" else _CODES.get(state, work.code or 1)
    with _undisturbed():
        row = record(store, claimed, **ended_columns(store, claimed, work, state, error, code))
    level: Level = "info" if state in _CODES else "error"
    said = {"error": error} if error else {}
    log.event("ended", level, state=state, exit_code=code, seconds=round(row["seconds"], 3), **said)
    shown = {name: row[name] for name in ("state", "attempts", "seconds", "run_ids", "error")}
    shown |= {name: json.loads(row[name]) for name in ("inputs", "outputs")}
    return _tell(settings, shown, work.results, code)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second signal must not keep the row from being written."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(settings: Settings, about: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], code: int) -> int:
    """The result on stdout."""
    from ferstore import terminal

    options = settings.options
    whole = {"job": options.job, "logical_date": options.logical_date, **about, "exit_code": code, "steps": steps}
    if options.as_json:
        terminal.print_json(whole)
        return code
    for step in steps:
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in step["counts"].items() if count)
        terminal.say(f"{step['step']}: {step['state']}" + (f"; {counts}" if counts else ""))
    terminal.say(f"{options.job} {options.logical_date}: {about['state']}{' already' if 'already' in about else ''}")
    return code
