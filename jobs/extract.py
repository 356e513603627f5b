"""Batch entry point: ``python -m jobs.extract --config jobs/extract.toml``."""

from ferstore.batch import run_job

if __name__ == "__main__":
    run_job("extract")
