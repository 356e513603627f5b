"""Batch entry point: ``python -m jobs.train --config jobs/train.toml``."""

from ferstore.batch import run_job

if __name__ == "__main__":
    run_job("train")
