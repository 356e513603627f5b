"""Batch entry point: ``python -m jobs.report --config jobs/report.toml``."""

from ferstore.batch import run_job

if __name__ == "__main__":
    run_job("report")
