"""Dashboard, alerts and code name the same metrics; what is recorded is cheap and stays bounded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ferstore.extract.committer import Counts
from ferstore.extract.plan import WorkItem
from ferstore.extract.watch import ExtractWatch
from ferstore.extract.worker import Failure, ShardResult
from ferstore.store.files import StoredFile
from ferstore.train.watch import TrainWatch
from ferstore.watch import METRICS, QUEUE, TRAIN_UPDATES, Metric, Recorder

GRAFANA = Path(__file__).parents[2] / "jobs" / "grafana"
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
EXPORTED = {f"ray_{metric.name}{suffix}": metric for metric in METRICS for suffix in SUFFIXES[metric.kind]}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "ferstore.json").read_text("utf-8"))
    return found


def expressions() -> list[str]:
    board = dashboard()
    rules = yaml.safe_load((GRAFANA / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
    return [
        *(target["expr"] for panel in board["panels"] for target in panel["targets"]),
        *(rule["expr"] for rule in rules),
        *(variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"),
    ]


def named(text: str) -> set[str]:
    return set(re.findall(r"\w*ferstore_\w+", text))


def test_dashboard_and_alerts_name_all_metrics_and_no_others() -> None:
    names = {name for text in expressions() for name in named(text)}
    assert names <= set(EXPORTED)
    assert {EXPORTED[name] for name in names} == set(METRICS)


def test_expressions_use_only_labels_that_their_metrics_have() -> None:
    for text in expressions():
        tags = [set(EXPORTED[name].tags) | {"le"} for name in named(text)]
        used = re.findall(r"by \(([^)]*)\)", text) + re.findall(r"(\w+)=~?\"", text)
        for label in {word.strip() for group in used for word in group.split(",")}:
            assert all(label in own for own in tags), (label, text)


def test_readme_names_only_metrics_there_are() -> None:
    text = (GRAFANA.parents[1] / "README.md").read_text("utf-8")
    assert set(re.findall(r"ray_ferstore_\w+", text)) <= set(EXPORTED)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_have_units_as_prometheus_wants_them(metric: Metric) -> None:
    assert re.fullmatch(r"ferstore_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert re.search("_(seconds|bytes|images|updates|examples)(_total)?$", metric.name)
    # Nothing that there may be any number of: no run, image, shard, node or actor.
    assert set(metric.tags) <= {"command", "dataset", "experiment", "layer", "outcome", "state"}


def test_grafana_can_import_the_dashboard() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 36
    assert board["uid"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        assert panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert {variable["name"] for variable in board["templating"]["list"]} == {"source", "dataset"}


class Noted(Recorder):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[tuple[Metric, float, dict[str, str]]] = []

    def record(self, metric: Metric, value: float, **tags: str) -> None:
        assert set(tags) <= set(metric.tags)
        self.values.append((metric, value, tags))

    def last(self, metric: Metric, **tags: str) -> float:
        return [value for one, value, own in self.values if one is metric and own == tags][-1]


def test_the_queue_follows_shards_and_a_shard_costs_no_value_an_image() -> None:
    noted = Noted()
    watch = ExtractWatch(noted, planned=100)

    def queue() -> tuple[float, float]:
        return noted.last(QUEUE, state="planned"), noted.last(QUEUE, state="in_flight")

    watch.given(40, landed=10)
    assert queue() == (50, 40)
    items = [WorkItem(str(number), "identity", (), "d", str(number)) for number in range(40)]
    file = StoredFile("u", "s", 77, 39)
    before = len(noted.values)
    watch.finished(ShardResult(("pool_3",), (file,), tuple(items[:39]), (Failure(items[39], "bad"),), 2.0, 1.0))
    assert queue() == (50, 0)
    watch.committed(0.1, Counts(39, 0, 1))
    assert len(noted.values) - before < 10
    watch.given(50, landed=0)
    watch.end()
    assert queue() == (0, 0)


def test_updates_are_added_up_and_none_is_lost() -> None:
    noted, now = Noted(), [100.0]
    watch = TrainWatch(noted, clock=lambda: now[0])
    for _ in range(1000):
        watch.updated(20, 0.001, 0.003)
        now[0] += 0.004
    watch.flush()
    told = [value for metric, value, _ in noted.values if metric is TRAIN_UPDATES]
    assert sum(told) == 1000
    assert len(told) < 12  # four seconds, twice a second


def test_a_process_without_a_cluster_records_nothing() -> None:
    recorder = Recorder(dataset="d")
    recorder.record(QUEUE, 1, state="planned")
    assert recorder._made == {}
