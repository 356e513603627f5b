"""``ferstore extract``: plan what is missing, compute it on a pool of actors, commit in groups, check the account."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ferstore.cluster import cluster, resources_now
from ferstore.errors import ExtractError, FerstoreError, InputError
from ferstore.extract.calls import NetworkCall
from ferstore.extract.committer import Committer
from ferstore.extract.identity import Extractor
from ferstore.extract.layer import Layer
from ferstore.extract.plan import (
    Plan,
    Shard,
    plan_missing,
    select_images,
    shard_size,
    shards_left,
)
from ferstore.extract.request import ExtractReport, ExtractRequest
from ferstore.extract.staffing import Staffing, staffing
from ferstore.extract.watch import ExtractWatch
from ferstore.extract.weights import Weights, resolve
from ferstore.extract.worker import ShardWorker, Target
from ferstore.image.decode import PREPROCESSING
from ferstore.progress import Progress, Silent
from ferstore.resources import Resources
from ferstore.store.pin import Pin
from ferstore.store.rows import read_keys, read_rows
from ferstore.store.runs import library_versions, new_run, record_run
from ferstore.store.store import Store
from ferstore.watch import ALL, Recorder

if TYPE_CHECKING:
    from ferstore.extract.pool import Pool

VARIANT = "keras.applications.InceptionV3"
_LARGEST_SHARD = {"cpu": 256, "gpu": 1024}  # images: tens of seconds of work at most, tens of MiB of file

NetworkFactory = Callable[[], NetworkCall]
"""Builds a network inside an actor: a test's stand-in for Inception v3."""


def extract(
    store: Store,
    request: ExtractRequest,
    *,
    address: str | None = None,
    insecure: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    network: NetworkFactory | None = None,
    cpus: int | None = None,
) -> ExtractReport:
    """Compute the features that are missing, and only those.

    Args:
        store: where images are listed and features go.
        request: what to compute.
        address: Ray cluster; None is this machine.
        insecure: use a cluster that answers without a token, though others may reach it.
        dry_run: plan only; start nothing, write nothing.
        progress: told of every shard.
        network: another network than Inception v3.
        cpus: logical CPUs of a cluster started here.

    Raises:
        InputError: the request cannot work; nothing was changed.
        ConflictError: other writers kept getting there first.
        ExtractError: the pool could not go on; what was committed stays, and the same command continues.
    """
    progress = progress or Silent()
    request.check()
    job = _prepare(store, request)
    if dry_run and network is None:
        job.weights.load()  # weights that do not fit are refused here already
    if dry_run or not job.plan.todo:
        size = job.shard_size(request.actors or 1)
        return job.report(shards=len(job.plan.places(size)), actors=request.actors or 0)
    weights = job.weights.load() if network is None else None
    with cluster(address, cpus=cpus, insecure=insecure, warn=progress.note) as resources:
        return _compute(job, resources, network, weights, progress)


@dataclass(frozen=True, slots=True)
class _Job:
    """A request with everything that follows from the pinned state."""

    store: Store
    request: ExtractRequest
    pin: Pin
    weights: Weights
    extractor: Extractor
    wanted: pa.Table
    plan: Plan

    def shard_size(self, actors: int) -> int:
        largest = _LARGEST_SHARD["gpu" if self.request.gpus_per_actor else "cpu"]
        return shard_size(self.plan.todo, actors, self.request.batch_size, largest)

    def report(self, **figures: Any) -> ExtractReport:
        sizes = {name: feature.nbytes for name, s in self.store.schemas.items() if (feature := s.feature)}
        base: dict[str, Any] = {
            "extractor": self.extractor,
            "layers": self.request.layers,
            "images": len(self.wanted) // len(self.request.views),
            "wanted": self.plan.wanted,
            "present": self.plan.present,
            "computed": 0,
            "landed_elsewhere": 0,
            "quarantined": 0,
            "held": self.plan.quarantined,
            "beyond_limit": self.plan.beyond_limit,
            "nbytes": sum(len(rows) * sizes[layer] for layers, rows in self.plan.groups for layer in layers),
            "run_id": None,
            "seconds": 0.0,
        }
        return ExtractReport(**{**base, **figures})


def _prepare(store: Store, request: ExtractRequest) -> _Job:
    pin = store.pin()
    images = _images(store, pin, request.dataset)
    weights = resolve(request.weights, sha256=request.weights_sha256, seed=request.seed)
    extractor = Extractor(
        weights=weights.url or weights.name,  # absolute, so that it is found again from another folder
        weights_kind=weights.kind,
        weights_sha256=weights.sha256,
        seed=weights.seed,
        variant=VARIANT,
        preprocessing=PREPROCESSING,
        precision=request.precision,
        map_dtype=store.map_dtype,
    )
    wanted = select_images(images, request.views)
    return _Job(store, request, pin, weights, extractor, wanted, _plan(store, request, pin, extractor, wanted))


def _plan(store: Store, request: ExtractRequest, pin: Pin, extractor: Extractor, wanted: pa.Table) -> Plan:
    own = pc.field("extractor_id") == extractor.extractor_id
    done = {layer: read_keys(pin, layer, extractor.extractor_id) for layer in request.layers}
    failed = read_rows(store, pin, "quarantine", ["image_id", "view"], own & (pc.field("stage") == "extract"))
    held = failed.slice(0, 0) if request.retry_quarantined else failed
    return plan_missing(wanted, done, held, limit=request.limit)


def _images(store: Store, pin: Pin, dataset: str | None) -> pa.Table:
    """Rows of ``images`` to work on.

    Raises:
        InputError: there is no such data set; the message names those there are.
    """
    columns = ["image_id", "source_url", "dataset", "item_id"]
    where = pc.field("dataset") == dataset if dataset is not None else None
    images = read_rows(store, pin, "images", columns, where)
    if dataset is not None and not len(images):
        known = sorted(set(read_rows(store, pin, "images", ["dataset"])["dataset"].to_pylist()))
        raise InputError(
            f"no data set {dataset!r} in this store",
            allowed=", ".join(known) or "none yet",
            hint="" if known else "ingest one first: ferstore ingest --help",
        )
    return images


def _compute(
    job: _Job, resources: Resources, network: NetworkFactory | None, weights: Any, progress: Progress
) -> ExtractReport:
    from ferstore.extract.pool import Pool

    request, store = job.request, job.store
    staff = staffing(request, resources, todo=job.plan.todo)
    size = job.shard_size(staff.first)
    run = new_run("extract", asdict(request), dataset=request.dataset, extractor_id=job.extractor.extractor_id)
    committer = Committer(store, run, job.extractor, job.pin)
    watch = ExtractWatch(Recorder(dataset=request.dataset or ALL), job.plan.todo)
    committer.told = watch.committed
    settings = _WorkerSettings(
        targets={layer: Target(store.schemas[layer], store.data_folder(layer)) for layer in request.layers},
        extractor_id=job.extractor.extractor_id,
        run_id=run.run_id,
        request=request,
        staff=staff,
    )

    def wanted(held: int, withdrawn: int) -> int:
        now = resources_now(may_grow=resources.may_grow)
        return staff.wanted(now, left=watch.planned + held, withdrawn=withdrawn)

    pool = Pool(
        partial(_build_worker, settings, network),
        weights,
        actors=staff.first,
        cpus=staff.cpus,
        gpus=staff.gpus,
        largest_shard=size,
        in_flight=staff.shards_at_once + 1,
        wanted=wanted,
    )
    done_how = {"actors": staff.first, "cpus_each": staff.cpus, "shard_size": size, "versions": library_versions()}
    record_run(store, run, "running", details=done_how)
    progress.start("extract", job.plan.todo)
    shards = len(job.plan.places(size))
    progress.note(f"{job.plan.todo} image views in {shards} shards on {staff.first} actors x {staff.cpus} CPUs")
    began = time.monotonic()
    try:
        _work(pool, job.plan, size, committer, watch, progress)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        state, reason = ("stopped", "stopped") if stopped else ("failed", str(error) or type(error).__name__)
        with contextlib.suppress(FerstoreError, OSError):  # the first error is the one to tell
            committer.flush()  # what is finished is kept
            told = {**done_how, **_places(pool)}
            record_run(store, run, state, committer.counts.asdict(), reason, details=told)
        raise
    finally:
        watch.end()
    seconds = time.monotonic() - began
    report = job.report(
        **committer.counts.asdict(),
        shards=shards,
        actors=max(staff.first, pool.most),
        run_id=run.run_id,
        seconds=seconds,
    )
    record_run(store, run, "done", committer.counts.asdict(), details={**done_how, **_places(pool)})
    _check_account(job, report)
    return report


def _work(pool: Pool, plan: Plan, size: int, committer: Committer, watch: ExtractWatch, progress: Progress) -> None:
    """Hand out shards, take what comes back, and commit it."""
    for result in pool.run(_shards(plan, size, committer, watch)):
        watch.finished(result)
        committer.add(result)
        progress.advance(len(result.done) + len(result.failures))
    committer.flush()


def _places(pool: Pool) -> dict[str, Any]:
    """For the record: what each machine had and did, by Ray's id of it."""
    return {"nodes": {node: dict(counts) for node, counts in pool.places.items()}}


def _shards(plan: Plan, size: int, committer: Committer, watch: ExtractWatch) -> Iterator[Shard]:
    """What is to be computed; items another job has committed meanwhile are counted as landed elsewhere."""
    for shard, landed in shards_left(plan, size, committer.landed, random.Random()):  # noqa: S311
        committer.counts.landed_elsewhere += landed
        watch.given(len(shard.items), landed)
        if shard.items:
            yield shard


def _check_account(job: _Job, report: ExtractReport) -> None:
    """Look again at the store: what is still missing must be exactly what was left out or failed.

    Raises:
        ExtractError: the account does not add up, which is a fault of ferstore.
    """
    after = _plan(job.store, job.request, job.store.pin(), job.extractor, job.wanted)
    expected = report.wanted - report.in_quarantine - report.beyond_limit
    if after.present < expected:
        raise ExtractError(
            f"of {report.wanted} image views {after.present} have features, expected {expected}",
            hint="run the same command again, then: ferstore verify",
        )


@dataclass(frozen=True, slots=True)
class _WorkerSettings:
    targets: Mapping[str, Target]
    extractor_id: str
    run_id: str
    request: ExtractRequest
    staff: Staffing


def _build_worker(settings: _WorkerSettings, network: NetworkFactory | None, weights: Any) -> ShardWorker:
    """Runs inside the actor."""
    request = settings.request
    return ShardWorker(
        network() if network else _inception(settings, weights),
        settings.targets,
        extractor_id=settings.extractor_id,
        run_id=settings.run_id,
        batch_size=request.batch_size,
        decode_threads=max(2, settings.staff.cpus),
        calls_at_once=settings.staff.calls_at_once,
        shards_at_once=settings.staff.shards_at_once,
    )


def _inception(settings: _WorkerSettings, weights: Any) -> NetworkCall:
    from ferstore.extract import inception

    request = settings.request
    features = {name: target.schema.feature for name, target in settings.targets.items()}
    layers = [Layer(name, f.node, f.pool, f.shape) for name, f in features.items() if f]
    inception.configure(request.precision, gpus=0 if not request.gpus_per_actor else 1, threads=settings.staff.cpus)
    return inception.Network(layers, weights, batch_size=request.batch_size, precision=request.precision)
