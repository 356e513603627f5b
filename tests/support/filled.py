"""Features in a store without a cluster: the worker and the committer of an extract, with the stub network."""

from __future__ import annotations

from dataclasses import asdict

from stub_network import stub_factory

from ferstore.extract.committer import Committer
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import _prepare
from ferstore.extract.worker import ShardWorker, Target
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store

REQUEST = ExtractRequest(weights="random")


def fill(store: Store, request: ExtractRequest = REQUEST) -> str:
    """Compute and commit what is missing; returns the extractor's id."""
    job = _prepare(store, request)
    run = new_run("extract", asdict(request), extractor_id=job.extractor.extractor_id)
    worker = ShardWorker(
        stub_factory()(),
        {layer: Target(store.schemas[layer], store.data_folder(layer)) for layer in request.layers},
        extractor_id=job.extractor.extractor_id,
        run_id=run.run_id,
        batch_size=8,
        decode_threads=2,
    )
    committer = Committer(store, run, job.extractor, job.pin)
    for place in job.plan.places(64):
        committer.add(worker.run(job.plan.shard(place, 64)))
    committer.flush()
    record_run(store, run, "done", committer.counts.asdict())
    return job.extractor.extractor_id
