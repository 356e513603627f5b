"""Hand a job of a logical date to a Ray cluster and wait for its end: what the examples for Airflow and Dagster share.

``RAY_ADDRESS`` is the job server (``http://head:8265``); with ``RAY_AUTH_MODE=token`` Ray's client sends
``RAY_AUTH_TOKEN``.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from typing import Any, Protocol

QUARANTINED = 3
CONFLICT = 4


class Jobs(Protocol):
    """What is used of ``ray.job_submission.JobSubmissionClient``."""

    def list_jobs(self) -> Any:
        """All jobs the cluster knows."""

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any] | None = None) -> str:
        """Start one."""

    def get_job_info(self, job_id: str) -> Any:
        """Its state."""


class JobFailedError(Exception):
    """It ended with an exit code that is neither 0 nor 3, or without one; trying again is safe.

    Args:
        submission: its id on the cluster.
        code: exit code; None where it was stopped or its machine is gone.
        message: Ray's.
    """

    def __init__(self, submission: str, code: int | None, message: str) -> None:
        super().__init__(f"{submission} ended with exit code {code}: {message}")
        self.code = code


def run(
    jobs: Jobs,
    job: str,
    config: str,
    logical_date: str,
    *,
    runtime_env: Mapping[str, Any] | None = None,
    poll: float = 5.0,
) -> int:
    """Submit ``python -m jobs.JOB`` and wait: the exit code, 0 or 3 (done, some items are in quarantine).

    The submission id is ``ferstore-JOB-DATE``; Ray refuses one that was used, so later tries are ``...-2``, ``...-3``.
    One that is still at work is waited for instead, as after a restart of the orchestrator: the job's row in
    ``job_runs`` keeps the date to one result however often it is submitted.

    Args:
        jobs: a client of the cluster's job server.
        job: ingest, extract, train, report, nightly or maintain.
        config: job file, as the cluster sees it.
        logical_date: ISO 8601.
        runtime_env: of Ray, such as ``{"working_dir": CHECKOUT}`` where the cluster has no ferstore, or another one.
        poll: seconds between two looks.

    Raises:
        JobFailedError: with its exit code: 4 is a conflict, and worth another try; 2 never is.
    """
    name = f"ferstore-{job}-{logical_date}"
    tries = [one for one in jobs.list_jobs() if re.fullmatch(rf"{re.escape(name)}(-\d+)?", one.submission_id or "")]
    working = [one.submission_id for one in tries if not one.status.is_terminal()]
    if working:
        submission = str(working[0])
    else:
        submission = jobs.submit_job(
            entrypoint=shlex.join(["python", "-m", f"jobs.{job}", "--config", config, "--logical-date", logical_date]),
            submission_id=f"{name}-{len(tries) + 1}" if tries else name,
            runtime_env=dict(runtime_env) if runtime_env else None,
        )
    while not (info := jobs.get_job_info(submission)).status.is_terminal():
        time.sleep(poll)
    code = info.driver_exit_code
    if code not in (0, QUARANTINED):
        raise JobFailedError(submission, code, info.message)
    return int(code)
