"""A Dagster job and schedule of the night, with a partition a day: ``pip install dagster "ray[default]"``.

``dagster dev -m jobs.examples.dagster_example``. ``RAY_ADDRESS`` and ``RAY_AUTH_TOKEN`` come from the environment.
"""

# No `from __future__ import annotations`: Dagster reads the annotation of `context` as it is.
import dagster

from jobs.examples.submit import CONFLICT, QUARANTINED, JobFailedError, run

CONFIG = "/etc/ferstore/nightly.toml"


@dagster.op
def nightly(context: dagster.OpExecutionContext) -> None:
    """Run the night of the partition's date; a conflict (4) is tried again, a failure is left to a person."""
    from ray.job_submission import JobSubmissionClient

    try:
        code = run(JobSubmissionClient(), "nightly", CONFIG, context.partition_key)
    except JobFailedError as error:
        if error.code == CONFLICT:
            raise dagster.RetryRequested(max_retries=3, seconds_to_wait=600) from error
        raise
    if code == QUARANTINED:
        context.log.warning(f"{context.partition_key}: some items are in quarantine")


@dagster.job(partitions_def=dagster.DailyPartitionsDefinition(start_date="2026-11-01"))
def ferstore_nightly() -> None:
    """All of a night is one job of ferstore's, which knows its own steps."""
    nightly()


definitions = dagster.Definitions(
    jobs=[ferstore_nightly],
    schedules=[dagster.build_schedule_from_partitioned_job(ferstore_nightly, hour_of_day=2, minute_of_hour=15)],
)
