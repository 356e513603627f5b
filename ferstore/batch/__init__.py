"""Commands as batch jobs: checked before they start, one at a time, a row for each logical date."""

from ferstore.batch.entry import run_job

__all__ = ["run_job"]
