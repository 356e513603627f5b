"""``ferstore demo``: from drawn faces to the report, with a stub for the network and trainings in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filled import fill
from train_job import MemoryLink

import ferstore
from ferstore import demo
from ferstore.cluster import Resources
from ferstore.progress import Silent
from ferstore.train import run as run_module
from ferstore.train.worker import work

pytestmark = pytest.mark.timeout(400)  # some hundred faces are drawn, ingested and shown
SAID = "say nothing about people"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Experiments that were trained, of two updates each."""
    done: list[str] = []

    @contextmanager
    def no_cluster(*_: Any, **__: Any) -> Iterator[Resources]:
        yield Resources(((2.0, 0.0),), 0)

    def fit(store: Any, plan: Any, run: Any, moments: Any, *rest: Any) -> Any:
        done.append(plan.request.experiment)
        job = run_module._job(store, plan, run, moments)
        short = replace(job.spec.recipe, epochs=None, steps=2, hidden=8)
        return [work(replace(job, spec=replace(job.spec, width=2, recipe=short)), MemoryLink())]

    monkeypatch.setattr(demo, "cluster", no_cluster)
    monkeypatch.setattr(run_module, "cluster", no_cluster)
    monkeypatch.setattr(run_module, "_fit", fit)
    monkeypatch.setattr(demo, "_extract", lambda store, *_: bool(fill(store.store)))
    return done


def test_a_demo_ends_in_a_report_that_says_what_it_is_worth(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run_demo(tmp_path / "demo", address=None, progress=Silent())
    out = capsys.readouterr().out
    page = tmp_path / "demo" / "report" / "report.html"
    assert f"The report: {page}" in out
    assert "RANDOM WEIGHTS. Drawn faces" in out
    assert SAID in out
    text = page.read_text("utf-8")
    assert SAID in text
    assert "drawn faces" in text.lower()
    assert trained == ["deepest", "sub_deep", "fusion"]
    store = ferstore.open(str(tmp_path / "demo" / "store"))
    assert {row[0] for row in store.sql("select experiment from table_2").rows()} == set(trained)

    demo.run_demo(tmp_path / "demo", address=None, progress=Silent())
    assert len(trained) == 3  # nothing is trained again
    assert store.sql("select count(*) from images").rows() == [(330,)]
    assert "added 0, changed 0" in capsys.readouterr().out
