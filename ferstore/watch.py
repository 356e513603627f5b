"""What a run on a Ray cluster tells Ray's metrics, which Prometheus reads from every node.

Ray exports a metric under its name with ``ray_`` before it. Values are recorded once a shard, a commit or half a
second, never once an image, and no tag has more values than there are data sets, layers or experiments.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

ALL = "all"
"""The ``dataset`` of an extract that is not given one."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with its unit, as Prometheus wants it, and the tags it is given with."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()


IMAGES = Metric(
    "ferstore_extract_images_total",
    "counter",
    "Image views committed, by outcome: computed, quarantined, or elsewhere (another job was first)",
    ("dataset", "outcome"),
)
FEATURE_BYTES = Metric(
    "ferstore_extract_bytes_total", "counter", "Bytes of feature files written", ("dataset", "layer")
)
NETWORK_SECONDS = Metric(
    "ferstore_extract_network_seconds_total", "counter", "Seconds in the network, of all actors", ("dataset",)
)
WAIT_SECONDS = Metric(
    "ferstore_extract_wait_seconds_total", "counter", "Seconds the network waited for pictures", ("dataset",)
)
QUEUE = Metric(
    "ferstore_extract_queue_images",
    "gauge",
    "Image views not yet computed, by state: planned, or in_flight (given to an actor)",
    ("dataset", "state"),
)
COMMIT_SECONDS = Metric(
    "ferstore_commit_seconds",
    "histogram",
    "Seconds a commit took, with its retries",
    ("command", "dataset"),
    (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
TRAIN_UPDATES = Metric("ferstore_train_updates_total", "counter", "Updates, of all workers", ("dataset", "experiment"))
TRAIN_EXAMPLES = Metric(
    "ferstore_train_examples_total", "counter", "Examples in updates, of all workers", ("dataset", "experiment")
)
STEP_SECONDS = Metric(
    "ferstore_train_step_seconds_total", "counter", "Seconds in updates, of all workers", ("dataset", "experiment")
)
TRAIN_WAIT_SECONDS = Metric(
    "ferstore_train_wait_seconds_total",
    "counter",
    "Seconds workers waited for their next batch",
    ("dataset", "experiment"),
)
METRICS = (
    IMAGES,
    FEATURE_BYTES,
    NETWORK_SECONDS,
    WAIT_SECONDS,
    QUEUE,
    COMMIT_SECONDS,
    TRAIN_UPDATES,
    TRAIN_EXAMPLES,
    STEP_SECONDS,
    TRAIN_WAIT_SECONDS,
)


class Recorder:
    """Records values of this process where it is connected to Ray; elsewhere nobody looks.

    Args:
        tags: given with every value, where the metric has them.
    """

    def __init__(self, **tags: str) -> None:
        self._tags = tags
        self._made: dict[str, Any] = {}

    def record(self, metric: Metric, value: float, **tags: str) -> None:
        """Add to a counter, set a gauge, or observe in a histogram."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _make(metric)
        every = {name: tag for name, tag in (self._tags | tags).items() if name in metric.tags}
        if metric.kind == "gauge":
            made.set(value, tags=every)
        elif metric.kind == "histogram":
            made.observe(value, tags=every)
        elif value:  # Ray refuses to add nothing
            made.inc(value, tags=every)


def _make(metric: Metric) -> Any:
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.text, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge}
    return kinds[metric.kind](metric.name, metric.text, tag_keys=metric.tags)
