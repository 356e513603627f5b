"""Reaching Ray: a cluster that runs, or one on this machine for the length of a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ferstore.errors import FerstoreError

_OBJECT_STORE = 512 << 20  # bytes; it holds the weights once, never features


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cluster has: logical CPUs and GPUs, and bytes of memory for workers."""

    cpus: float
    gpus: float
    memory: int


@contextmanager
def cluster(address: str | None, *, cpus: int | None = None) -> Iterator[Resources]:
    """Connect to Ray, and take down what was started here.

    Args:
        address: an existing cluster (``auto``, ``host:port``, ``ray://host:port``); None uses the one this process is
            in (a submitted job), else starts one on this machine.
        cpus: logical CPUs of a cluster started here; None is the machine's.

    Raises:
        FerstoreError: it cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # never a word home, unless the user turns it on
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # its remarks about itself are not the user's result
    address = address or os.environ.get("RAY_ADDRESS")
    ours = not ray.is_initialized()
    if ours:
        options = {} if address else {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE}
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                **options,
            )
        except Exception as error:
            raise FerstoreError(
                f"cannot {'reach the Ray cluster at ' + address if address else 'start Ray here'}: {error}",
                hint="check --address, or leave it out to use this machine",
            ) from error
    try:
        found = ray.cluster_resources()
        yield Resources(found.get("CPU", 1.0), found.get("GPU", 0.0), int(found.get("memory", 0)))
    finally:
        if ours:
            ray.shutdown()
