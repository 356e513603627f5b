"""Batch entry point: ``python -m jobs.extract --config jobs/extract.toml``."""

from ferstore.cli import run_job

if __name__ == "__main__":
    run_job("extract")
