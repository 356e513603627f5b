"""Batch entry point: ``python -m jobs.ingest --config jobs/ingest.toml``."""

from ferstore.batch import run_job

if __name__ == "__main__":
    run_job("ingest")
