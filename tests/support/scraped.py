"""What Prometheus would read from the node of this process's Ray cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from urllib.request import urlopen

import ray
from prometheus_client.parser import text_string_to_metric_families

Values = Counter[tuple[str, ...]]
"""By name and the values of ferstore's own tags in order of their names; summed over processes."""
_OWN = ("command", "dataset", "experiment", "layer", "outcome", "state")


def scrape() -> Values:
    """All of ferstore's metrics."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found: Values = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_ferstore_") and not sample.name.endswith("_bucket"):
                tags = [sample.labels[name] for name in _OWN if name in sample.labels]
                found[sample.name, *tags] += sample.value
    return found


def scrape_until(enough: Callable[[Values], bool], seconds: float = 30) -> Values:
    """The first scrape that is enough, or the last of all: processes report once in a while."""
    end = time.monotonic() + seconds
    while not enough(found := scrape()) and time.monotonic() < end:
        time.sleep(0.2)
    return found
