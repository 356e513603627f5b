"""The steps of a job, one after another, in this process."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ferstore.batch.claim import Claim, record
from ferstore.batch.log import Level, Log
from ferstore.batch.settings import Settings, Step, redact_word
from ferstore.batch.upstream import last_done, unchanged
from ferstore.cli.entry import Ended, invoke
from ferstore.cli.options import DONE, SOME_QUARANTINED
from ferstore.store.job_runs import TABLE
from ferstore.store.pin import Pin
from ferstore.store.store import Store


@dataclass(frozen=True, slots=True)
class _Done:
    """How a step went, and what it printed."""

    ended: Ended
    printed: Sequence[Mapping[str, Any]]


class Work:
    """Runs the steps of a job until one fails.

    Args:
        store: it works on.
        settings: what to do.
        log: what is told of it.
        claimed: the job's claim; None in a dry run, which records nothing.

    Attributes:
        results: a record of each step so far.
        error: of the step that failed.
        code: exit code of the last step that was run; of a job that is done, the greatest.
    """

    def __init__(self, store: Store, settings: Settings, log: Log, claimed: Claim | None) -> None:
        self._store, self._settings, self._log, self._claim = store, settings, log, claimed
        self.results: list[dict[str, Any]] = []
        self.error: str | None = None
        self.code = DONE

    def run(self) -> str:
        """Work.

        Returns:
            done, partly, failed or stopped.

        Raises:
            ClaimLostError: another instance took its place; the step at work was the last.
        """
        for step in self._settings.steps:
            began = time.monotonic()
            pin = self._store.pin()
            upstream = {name: pin.snapshots[name] for name in step.section.after}
            words = [redact_word(word) for word in step.template]
            about: dict[str, Any] = {"step": step.name, "arguments": words, "upstream": upstream}
            if self._claim and not self._settings.options.again and self._skips(step, pin, self._claim):
                self._log.event("skipped", step=step.name, reason=f"{', '.join(upstream)}: as when it was last done")
                self._note({**about, "state": "skipped", "seconds": 0.0, "counts": {}})
                continue
            self._log.event("step started", step=step.name, command=step.section.command)
            done = self._run(step)
            code, counts = done.ended.code, counts_of(done.printed)
            seconds = round(time.monotonic() - began, 3)
            state = {DONE: "done", SOME_QUARANTINED: "partly"}.get(code, "stopped" if done.ended.stopped else "failed")
            said = {"error": done.ended.error} if done.ended.error else {}
            level: Level = "info" if state in ("done", "partly") else "error"
            self._log.event(
                "step ended", level, step=step.name, state=state, exit_code=code, seconds=seconds, counts=counts, **said
            )
            if code in (DONE, SOME_QUARANTINED):
                self.code = max(self.code, code)
            else:
                self.code, self.error = code, done.ended.error or f"{step.name} ended with exit code {code}"
            self._note({**about, "state": state, "seconds": seconds, "counts": counts}, done.printed)
            if self.error is not None:
                return state
        return "partly" if self.code == SOME_QUARANTINED else "done"

    def _skips(self, step: Step, pin: Pin, claimed: Claim) -> bool:
        needs = [other for other in self._settings.steps if other.section.command in step.section.needed_by]
        return all(_nothing_to_do(one, pin, claimed) for one in (step, *needs))

    def _note(self, about: dict[str, Any], printed: Sequence[Mapping[str, Any]] = ()) -> None:
        self.results.append({**about, "result": list(printed)})
        ended = self.error is not None or len(self.results) == len(self._settings.steps)  # then the job's end tells it
        if self._claim and not ended and about["state"] != "skipped":
            record(self._store, self._claim, steps=json.dumps(self.steps), counts=json.dumps(self.counts))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The records as they go into the row: results are in the tables."""
        return [{name: value for name, value in step.items() if name != "result"} for step in self.results]

    @property
    def counts(self) -> dict[str, Any]:
        """What each step counted."""
        return {step["step"]: step["counts"] for step in self.results}

    def _run(self, step: Step) -> _Done:
        printed: list[Mapping[str, Any]] = []
        ended = Ended(DONE)
        for more in self._left(step):
            out, said = io.StringIO(), self._log.lines(step.name)
            with redirect_stdout(out), redirect_stderr(said):
                ended = invoke([*_before_places(step.arguments, more)])
            said.finish()
            printed += [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
            if ended.code not in (DONE, SOME_QUARANTINED):
                break
        return _Done(ended, printed)

    def _left(self, step: Step) -> list[list[str]]:
        """More options, for each time the command is to be run: what an earlier attempt did is not done again."""
        claimed = self._claim
        if step.section.command != "train" or claimed is None or _resumes(step):
            return [[]]
        from ferstore.batch.trainings import left_to_train

        left = left_to_train(self._store, step.asked, finished_in=claimed.own_runs, begun_in=claimed.earlier)
        if left != [[]]:
            self._log.event("continued", step=step.name, left=[" ".join(more) for more in left])
        return left


def _resumes(step: Step) -> bool:
    return any(word.startswith("--resume") for word in step.template)


def _before_places(arguments: Sequence[str], more: Sequence[str]) -> list[str]:
    """Options go before ``--`` and what is given by its place."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], *more, *arguments[end:]]


def _nothing_to_do(step: Step, pin: Pin, claimed: Claim) -> bool:
    if not step.section.after:
        return False
    records = [record for row in claimed.rows for record in reversed(json.loads(row["steps"]))]
    before = last_done(records, step.name, [redact_word(word) for word in step.template])
    return before is not None and unchanged(pin, before["upstream"]) and _output_is_there(step)


def _output_is_there(step: Step) -> bool:
    """A report that was thrown away is made again."""
    outputs = [word.removeprefix("--output=") for word in step.arguments if word.startswith("--output=")]
    return all(Path(output).exists() for output in outputs)


def counts_of(printed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Whole numbers at the top of what a command printed as JSON, summed, and the lengths of its lists of results."""
    found: dict[str, int] = {}
    for one in printed:
        for name, value in one.items():
            if isinstance(value, int) and not isinstance(value, bool):
                found[name] = found.get(name, 0) + value
            elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
                found[name] = found.get(name, 0) + len(value)
    return found


def ended_columns(store: Store, claimed: Claim, work: Work, state: str, error: str | None, code: int) -> dict[str, Any]:
    """What the row says at the end."""
    now = datetime.now(UTC)
    inputs = json.loads(claimed.row["inputs"])
    changed = {
        name: snapshot
        for name, snapshot in store.pin().snapshots.items()
        if snapshot is not None and snapshot != inputs.get(name) and name != TABLE
    }
    return {
        "state": state,
        "ended_at": now,
        "seconds": (now - claimed.row["started_at"]).total_seconds(),
        "outputs": json.dumps(changed),
        "steps": json.dumps(work.steps),
        "counts": json.dumps(work.counts),
        "error": error,
        "exit_code": code,
    }
