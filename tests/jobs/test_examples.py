"""The examples for orchestrators, imported against stand-ins: Airflow and Dagster are 447 MB of packages.

Both were parsed by the real ones too (Airflow 3.3.2, Dagster 1.13.29), which no test repeats.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from jobs.examples.submit import JobFailedError, run

NIGHT = ("nightly", "/etc/ferstore/nightly.toml", "2026-11-23")


@dataclass
class Cluster:
    """A job server that refuses used ids, as Ray's does. ``codes`` are the exit codes of the jobs to come."""

    codes: list[int | None]
    jobs: dict[str, SimpleNamespace] = field(default_factory=dict)

    def list_jobs(self) -> list[SimpleNamespace]:
        driver = SimpleNamespace(submission_id=None, status=JobStatus.RUNNING)  # somebody's ray.init()
        return [driver, *self.jobs.values()]

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any] | None = None) -> str:
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists")
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            entrypoint=entrypoint,
            status=JobStatus.RUNNING,
            driver_exit_code=None,
            message="",
        )
        return submission_id

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        job = self.jobs[submission_id]
        code = self.codes.pop(0)
        job.status = JobStatus.SUCCEEDED if code == 0 else JobStatus.STOPPED if code is None else JobStatus.FAILED
        job.driver_exit_code = code
        return job


def test_a_night_is_submitted_under_its_name_and_date() -> None:
    cluster = Cluster([0])
    assert run(cluster, *NIGHT) == 0
    [(submission, job)] = cluster.jobs.items()
    assert submission == "ferstore-nightly-2026-11-23"
    assert job.entrypoint == "python -m jobs.nightly --config /etc/ferstore/nightly.toml --logical-date 2026-11-23"


def test_quarantined_items_are_success() -> None:
    assert run(Cluster([3]), *NIGHT) == 3


@pytest.mark.parametrize("code", [1, 2, 4, None])
def test_any_other_end_is_an_error_and_a_later_try_has_an_id_of_its_own(code: int | None) -> None:
    cluster = Cluster([code, code, 0, 0])
    for _ in range(2):
        with pytest.raises(JobFailedError, match=f"exit code {code}") as caught:
            run(cluster, *NIGHT)
        assert caught.value.code == code
    assert run(cluster, *NIGHT) == 0
    assert run(cluster, "nightly", NIGHT[1], "2026-11-2") == 0  # another date, though its name begins like this one's
    first = "ferstore-nightly-2026-11-2"
    assert list(cluster.jobs) == [f"{first}3", f"{first}3-2", f"{first}3-3", first]


def test_a_try_that_is_still_at_work_is_waited_for() -> None:
    cluster = Cluster([0])
    cluster.submit_job(entrypoint="as before", submission_id="ferstore-nightly-2026-11-23")
    assert run(cluster, *NIGHT) == 0
    assert len(cluster.jobs) == 1


class FailForGoodError(Exception):
    """Airflow's way to say that no retry helps."""


class Dag:
    """A DAG that keeps its tasks."""

    tasks: list[dict[str, Any]]

    def __init__(self, name: str, **settings: Any) -> None:
        self.name, self.settings = name, settings
        Dag.tasks = []

    def __enter__(self) -> Dag:
        return self

    def __exit__(self, *_: object) -> None: ...


class RetryError(Exception):
    """Dagster's way to ask for one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(str(settings))


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Cluster], ModuleType]:
    """Imports an example with stand-ins for its orchestrator and for Ray's client."""

    def stand_in(name: str, **contents: Any) -> None:
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    def load(name: str, cluster: Cluster) -> ModuleType:
        for package in ("airflow", "airflow.providers", "airflow.providers.standard"):
            stand_in(package)
        stand_in("airflow.providers.standard.operators")
        stand_in("airflow.exceptions", AirflowFailException=FailForGoodError)
        stand_in("airflow.providers.standard.operators.python", PythonOperator=lambda **task: Dag.tasks.append(task))
        stand_in("airflow.sdk", DAG=Dag)
        stand_in(
            "dagster",
            op=lambda function: function,
            job=lambda **settings: lambda function: function,
            OpExecutionContext=object,
            DailyPartitionsDefinition=lambda **settings: settings,
            RetryRequested=RetryError,
            Definitions=SimpleNamespace,
            build_schedule_from_partitioned_job=lambda job, **when: when,
        )
        monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda: cluster)
        monkeypatch.delitem(sys.modules, f"jobs.examples.{name}", raising=False)
        module = importlib.import_module(f"jobs.examples.{name}")
        monkeypatch.delitem(sys.modules, f"jobs.examples.{name}")
        return module

    return load


def warnings_of(said: list[str]) -> SimpleNamespace:
    return SimpleNamespace(warning=lambda text, *values: said.append(text % values))


@pytest.mark.parametrize(
    ("code", "raised"), [(0, None), (3, None), (1, JobFailedError), (4, JobFailedError), (2, FailForGoodError)]
)
def test_airflow_retries_what_may_help_and_warns_of_quarantine(
    code: int, raised: type[Exception] | None, imported: Callable[[str, Cluster], ModuleType]
) -> None:
    module = imported("airflow_example", Cluster([code]))
    assert module.dag.settings["default_args"]["retries"] == 3
    [task] = Dag.tasks
    said: list[str] = []
    context = {"ti": SimpleNamespace(log=warnings_of(said))}
    if raised is None:
        task["python_callable"](ds="2026-11-23", **context)
    else:
        with pytest.raises(raised, match=f"exit code {code}"):
            task["python_callable"](ds="2026-11-23", **context)
    assert bool(said) == (code == 3)


@pytest.mark.parametrize(("code", "raised"), [(0, None), (3, None), (1, JobFailedError), (4, RetryError)])
def test_dagster_retries_a_conflict_and_warns_of_quarantine(
    code: int, raised: type[Exception] | None, imported: Callable[[str, Cluster], ModuleType]
) -> None:
    module = imported("dagster_example", Cluster([code]))
    assert module.definitions.schedules == [{"hour_of_day": 2, "minute_of_hour": 15}]
    said: list[str] = []
    context = SimpleNamespace(partition_key="2026-11-23", log=warnings_of(said))
    if raised is None:
        module.nightly(context)
    else:
        with pytest.raises(raised):
            module.nightly(context)
    assert bool(said) == (code == 3)
