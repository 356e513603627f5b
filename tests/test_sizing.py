"""The model of how large a job is: it multiplies what was measured, and names what is reached first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.sizing import Given, Measured, sized, table

FOUND = Measured(
    plan_seconds=1e-5, plan_bytes=1000, driver_bytes=1e8, driver_shards=100, shards_a_commit=10, decode_seconds=1e-3,
    encode_seconds=3e-3,
    image_bytes=80_000, layers=2, commit_gets=20, commit_puts=6, shard_gets=4, shard_puts=2, metadata_bytes=1000,
)  # fmt: skip
GIVEN = Given(gpu_images=1000, shard=1000, gpu_hour=3.6, prefixes=100, start=0, driver_memory=1.1e9)


@pytest.mark.parametrize(
    ("gpus", "change", "rate", "first"),
    [
        (1, {}, 1000, "the network, on 1 GPU"),
        (64, {}, 64_000, "the network, on 64 GPUs"),
        (200, {}, 100_000, "the driver"),
        (64, {"prefixes": 2}, 11_000, "GETs of pictures from 2 prefixes"),
        (2, {"gpu_cores": 3}, 1500, "the 6 cores beside"),
    ],
)
def test_the_slowest_part_sets_the_rate_and_is_named(
    gpus: int, change: dict[str, int], rate: float, first: str
) -> None:
    job = sized(1_000_000, gpus, FOUND, replace(GIVEN, **change))
    assert (job.rate, job.first) == (rate, first)
    assert job.seconds == pytest.approx(20 + 1_000_000 / rate)


def test_requests_commits_bytes_and_cost_follow_from_shards() -> None:
    job = sized(100_000, 1, FOUND, replace(GIVEN, put_thousand=0, get_thousand=0))
    assert (job.commits, job.gets, job.puts) == (10, 100_000 + 400 + 200, 200 + 60)
    assert (job.nbytes, job.driver) == (8e9, 2e8)
    assert job.cost == pytest.approx((100 + 2) / 1000)


def test_what_one_driver_does_not_hold_is_several_jobs() -> None:
    assert sized(1_000_000, 1, FOUND, GIVEN).jobs == 1
    job = sized(10_000_000, 1, FOUND, GIVEN)
    assert job.jobs == 10
    assert job.first == "the driver's memory: 10 jobs, a data set each; then the network, on 1 GPU"
    assert job.driver <= GIVEN.driver_memory


def test_the_table_has_a_row_a_size_and_says_what_was_given() -> None:
    said = table(FOUND, GIVEN)
    assert said.count("\n| ") == 10 - 1
    assert "gpu_hour 3.6" in said
