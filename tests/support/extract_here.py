"""An extract in this process, with the stub network and no cluster: for jobs, which call it by `ferstore.api`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from stub_network import stub_factory

from ferstore.extract.committer import Committer
from ferstore.extract.request import ExtractReport, ExtractRequest
from ferstore.extract.run import _prepare
from ferstore.extract.worker import ShardWorker, Target
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store


def extract_here(
    store: Store,
    request: ExtractRequest,
    *,
    shards: int = 1,
    on_shard: Callable[[int], None] = lambda _: None,
    **_: Any,
) -> ExtractReport:
    """In the place of `ferstore.extract.run.extract`; every shard is a commit of its own.

    Args:
        store: as there.
        request: as there.
        shards: about how many.
        on_shard: called with the number of shards that are committed, after each.
    """
    job = _prepare(store, request)
    if not job.plan.todo:
        return job.report(shards=0, actors=0)
    run = new_run("extract", asdict(request), dataset=request.dataset, extractor_id=job.extractor.extractor_id)
    record_run(store, run, "running")
    worker = ShardWorker(
        stub_factory()(),
        {layer: Target(store.schemas[layer], store.data_folder(layer)) for layer in request.layers},
        extractor_id=job.extractor.extractor_id,
        run_id=run.run_id,
        batch_size=8,
        decode_threads=2,
    )
    committer = Committer(store, run, job.extractor, job.pin)
    began = time.monotonic()
    size = -(-job.plan.todo // shards)
    places = job.plan.places(size)
    for number, place in enumerate(places, 1):
        committer.add(worker.run(job.plan.shard(place, size)))
        committer.flush()
        on_shard(number)
    record_run(store, run, "done", committer.counts.asdict())
    seconds = time.monotonic() - began
    return job.report(**committer.counts.asdict(), shards=len(places), actors=1, run_id=run.run_id, seconds=seconds)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extracts of this process run in it."""
    monkeypatch.setattr("ferstore.extract.run.extract", extract_here)
