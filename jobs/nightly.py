"""Batch entry point: ``python -m jobs.nightly --config jobs/nightly.toml``."""

from ferstore.batch import run_job

if __name__ == "__main__":
    run_job("nightly")
