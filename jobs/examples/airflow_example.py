"""An Airflow DAG of the night. Airflow 3 with Ray's client beside it: ``pip install apache-airflow "ray[default]"``.

The wheel of ferstore, or this folder, is on Airflow's Python path. ``RAY_ADDRESS`` and ``RAY_AUTH_TOKEN`` come from the
environment of its workers, not from the DAG.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowFailException
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from jobs.examples.submit import QUARANTINED, JobFailedError, run

CONFIG = "/etc/ferstore/nightly.toml"
_NOT_WORTH_A_RETRY = 2


def nightly(ds: str, **context: Any) -> str:
    """Run the night of a logical date. A conflict (4) or a failure (1) is retried by the task's own retries."""
    from ray.job_submission import JobSubmissionClient

    try:
        code = run(JobSubmissionClient(), "nightly", CONFIG, ds)
    except JobFailedError as error:
        if error.code == _NOT_WORTH_A_RETRY:
            raise AirflowFailException(str(error)) from error
        raise
    if code == QUARANTINED:
        context["ti"].log.warning("%s: some items are in quarantine", ds)
        return "quarantined"
    return "done"


with DAG(
    "ferstore_nightly",
    schedule="15 2 * * *",
    start_date=datetime(2026, 11, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
) as dag:
    PythonOperator(task_id="nightly", python_callable=nightly)
