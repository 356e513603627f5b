"""Batch entry point: ``python -m jobs.maintain --config jobs/maintain.toml``."""

from ferstore.batch import run_job

if __name__ == "__main__":
    run_job("maintain")
