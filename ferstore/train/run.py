"""``ferstore train``: check everything, train on Ray's workers, commit what came of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferstore.cluster import cluster, died
from ferstore.errors import FerstoreError, TrainError
from ferstore.progress import Progress, Silent
from ferstore.stderr import without_remarks
from ferstore.store.files import filesystem
from ferstore.store.runs import Run, library_versions, new_run, record_run
from ferstore.store.store import Store
from ferstore.train.conv4 import CONV4
from ferstore.train.job import HeadSpec, Job
from ferstore.train.moments import Moments, train_moments
from ferstore.train.outcome import commit_outcome, part_scores
from ferstore.train.past import PastRun, check_resumable, find_run
from ferstore.train.plan import Plan, cpus_of_worker, described, plan_folds, resume_command
from ferstore.train.request import WIDTH, TrainReport, TrainRequest, request_of
from ferstore.train.shown import Shown
from ferstore.train.watch import TrainWatch
from ferstore.watch import COMMIT_SECONDS, Recorder

if TYPE_CHECKING:
    from ferstore.train.job import Measured, Outcome

_FAILURES = 3
_STARTS = 10  # Ray Train waits a minute each time for machines: as long as an extract does
_POLL = 0.5


def train(
    store: Store,
    request: TrainRequest,
    *,
    resume: str | None = None,
    address: str | None = None,
    insecure: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    cpus: int | None = None,
) -> list[TrainReport]:
    """Fit one of the three heads on a frozen training set, fold by fold.

    Args:
        store: where features are, and where results go.
        request: what to train.
        resume: a run to continue; all its settings are taken from it. Experiment and training set must agree.
        address: Ray cluster; None is this machine.
        insecure: use a cluster that answers without a token, though others may reach it.
        dry_run: check and plan only.
        progress: told of every update.
        cpus: logical CPUs of a cluster started here.

    Returns:
        A report a fold.

    Raises:
        InputError: it cannot be done; nothing was changed.
        TrainError: the workers could not go on; ``resume`` continues.
        KeyboardInterrupt: as it came, with notes that say how to continue.
        ConflictError: other writers kept getting there first.
    """
    progress = progress or Silent()
    past = None
    if resume is not None:
        past = find_run(store, resume)
        check_resumable(past, request)
        request = request_of(past.arguments)
    request.check()
    plans = plan_folds(store, request, began_with=past.details.get("snapshots") if past else None)
    if dry_run:
        return [plan.report() for plan in plans]
    reports = []
    with cluster(address, cpus=cpus, insecure=insecure, warn=progress.note) as resources:
        worker_cpus = cpus_of_worker(request, resources)
        for plan in plans:
            try:
                reports.append(_train_one(store, plan, past, worker_cpus, progress))
            except KeyboardInterrupt as error:
                if left := [str(other.request.fold) for other in plans[len(reports) + 1 :]]:
                    error.add_note(f"then train the folds that are left, each with --fold: {', '.join(left)}")
                raise
    return reports


def _train_one(store: Store, plan: Plan, past: PastRun | None, cpus: int, progress: Progress) -> TrainReport:
    request = plan.request
    arguments = request.arguments()
    run = new_run("train", arguments, dataset=plan.dataset, extractor_id=plan.data.extractor_id)
    if past is not None:
        run = replace(run, run_id=past.run_id)  # begun now: by its time and its process it is known to be at work
    progress.note(f"run {run.run_id}: {described(plan)}")
    moments = train_moments(plan.data) if request.recipe.standardise else {}
    details: dict[str, Any] = {
        "workers": request.workers,
        "cpus_each": cpus,
        "gpus_each": request.gpus_per_worker,
        "device": "gpu" if request.gpus_per_worker else "cpu",
        "versions": library_versions(),
        "snapshots": plan.snapshots,
        "conv4_run": plan.conv4_run,
        "weights_kind": plan.weights_kind,
        "classes": list(plan.data.classes),
        "shapes": {name: list(shape) for name, shape in plan.data.shapes.items()},
    }
    record_run(store, run, "running", details=details)
    try:
        outcomes = _fit(store, plan, run, moments, cpus, progress)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        state, reason = ("stopped", "stopped") if stopped else ("failed", str(error) or type(error).__name__)
        with contextlib.suppress(FerstoreError, OSError):  # the first error is the one to tell
            record_run(store, run, state, None, reason, details=details)
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"continue from the last checkpoint: {resume_command(plan, run)}")
        raise
    return _commit(store, plan, run, outcomes, details)


def _commit(store: Store, plan: Plan, run: Run, outcomes: list[Outcome], details: Mapping[str, Any]) -> TrainReport:
    first = outcomes[0]
    targets = plan.data.targets(plan.request.recipe.targets)
    diverged = first.probabilities is None
    figures: dict[str, Any] = {
        "run_id": run.run_id,
        "steps": first.steps,
        "best_step": first.best_step,
        "parameters": first.parameters,
        "validation": part_scores(plan.data, first, targets, "validation"),
        "test": part_scores(plan.data, first, targets, "test"),
        "weights": first.weights or None,
        "state": "diverged" if diverged else "done",
        "seconds": first.seconds,
    }
    report = plan.report(**figures)
    error = f"diverged: the loss of update {first.steps} is not a number" if diverged else None
    began = time.monotonic()
    commit_outcome(
        store,
        run,
        plan.data,
        outcomes,
        since=plan.pin,
        state="failed" if diverged else "done",
        counts={"steps": first.steps, **{f"{part}_items": count for part, count in report.items.items()}},
        error=error,
        details={
            **details,
            "weights": first.weights,
            "weights_sha256": first.weights_sha256,
            "parameters": first.parameters,
            "best_step": first.best_step,
            "validation": report.validation,
            "test": report.test,
            "restarts": first.attempts,
            "seconds": first.seconds,
        },
    )
    Recorder(dataset=plan.dataset).record(COMMIT_SECONDS, time.monotonic() - began, command="train")
    with contextlib.suppress(OSError):  # checkpoints are of no more use
        fs = filesystem(_folder(store))
        fs.rm(f"{_folder(store)}/{run.run_id}/checkpoints", recursive=True)
    return report


def _folder(store: Store) -> str:
    return f"{store.url}/training"


def _fit(
    store: Store, plan: Plan, run: Run, moments: Mapping[str, Moments], cpus: int, progress: Progress
) -> list[Outcome]:
    """Train on Ray.

    Raises:
        TrainError: it failed too often.
        FerstoreError: what a worker raised.
    """
    import ray

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_remarks():  # it imports TensorFlow
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.tensorflow import TensorflowTrainer
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    request = plan.request
    # On the driver's machine: any other may be lost, and what the workers said with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
    resources = {"CPU": cpus} | ({"GPU": request.gpus_per_worker} if request.gpus_per_worker else {})
    location, kind = _storage(f"{_folder(store)}/{run.run_id}")
    trainer = TensorflowTrainer(
        _train_worker,
        train_loop_config={
            "job": [ray.put(_job(store, plan, run, moments))],
            "board": board,
            "threads": cpus,
            "tags": {"dataset": plan.dataset, "experiment": request.experiment},
        },
        scaling_config=ScalingConfig(
            num_workers=request.workers, use_gpu=request.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=location,
            storage_filesystem=kind,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=_FAILURES, controller_failure_limit=_STARTS),
        ),
    )
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failed.append(error)

    # In a thread of its own: there fit() leaves the handling of signals alone.
    thread = threading.Thread(target=fit, daemon=True, name="ferstore-fit")
    with _quiet_train():
        thread.start()
        shown = Shown(progress, plan)
        while thread.is_alive():
            thread.join(_POLL)
            if died():
                raise TrainError("Ray was killed on this machine", hint=f"continue: {resume_command(plan, run)}")
            points, error = ray.get(board.news.remote())
            shown.show(points)
            if error is not None:
                raise error  # it would be the same at every attempt
    if failed:
        error = failed[0]
        causes = list(getattr(error, "worker_failures", {}).values())
        why = " ".join(str(causes[0] if causes else error).split())[-300:]
        times = f" {_FAILURES + 1} times" if causes else ""
        raise TrainError(
            f"training failed{times}: {why}",
            hint=f"mend the cause and continue: {resume_command(plan, run)}",
        ) from error
    found: dict[int, Outcome] = ray.get(board.outcomes.remote())
    return [found[rank] for rank in sorted(found)]


def _job(store: Store, plan: Plan, run: Run, moments: Mapping[str, Moments]) -> Job:
    request = plan.request
    saves = request.experiment == "sub_deep"
    return Job(
        run_id=run.run_id,
        data=plan.data,
        spec=HeadSpec(
            request.experiment,
            plan.data.shapes,
            len(plan.data.classes),
            request.width or WIDTH,
            request.recipe,
            request.seed,
            request.precision,
        ),
        moments=moments,
        folder=f"{_folder(store)}/{run.run_id}",
        conv4_schema=store.schemas[CONV4] if saves else None,
        conv4_folder=store.data_folder(CONV4) if saves else "",
        checkpoint_seconds=request.checkpoint_seconds,
    )


def _storage(url: str) -> tuple[str, Any]:
    """Where Ray Train keeps checkpoints: a path, and a filesystem where it is not the machine's own."""
    if url.startswith("file://"):
        return url.removeprefix("file://"), None
    import pyarrow.fs

    fs = filesystem(url)
    return fs._strip_protocol(url), pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


@contextmanager
def _quiet_train() -> Iterator[None]:
    """Ray Train's own remarks are not the user's result."""
    import logging

    logger = logging.getLogger("ray.train")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Board:
    """An actor that the driver reads: what the workers have to say, and what they hand in."""

    def __init__(self) -> None:
        self._points: list[Measured] = []
        self._outcomes: dict[int, Outcome] = {}
        self._error: FerstoreError | None = None

    def tell(self, points: list[Measured]) -> None:
        self._points += points

    def news(self) -> tuple[list[Measured], FerstoreError | None]:
        points, self._points = self._points, []
        return points, self._error

    def fail(self, error: FerstoreError) -> None:
        self._error = error

    def finish(self, rank: int, outcome: Outcome) -> None:
        self._outcomes[rank] = outcome

    def outcomes(self) -> dict[int, Outcome]:
        return self._outcomes


class _RayLink:
    """A worker's way to the driver and to Ray's checkpoints."""

    def __init__(self, board: Any, rank: int, watch: TrainWatch) -> None:
        self._board = board
        self.updated = watch.updated
        self._rank = rank
        self._points: list[Measured] = []
        self._told = 0.0

    def tell(self, point: Measured, total: int) -> None:
        self._points.append(point)
        if time.monotonic() - self._told > _POLL or point.step == total or point.part != "train":
            self._board.tell.remote(self._points)
            self._points, self._told = [], time.monotonic()

    def save(self, arrays: Any, rest: dict[str, Any]) -> None:
        import tempfile
        from pathlib import Path

        from ray import train as ray_train

        if self._rank:
            ray_train.report({})
            return
        from ferstore.train.state import write_state

        with tempfile.TemporaryDirectory() as folder:
            write_state(Path(folder), arrays, rest)
            ray_train.report({"step": rest["step"]}, checkpoint=ray_train.Checkpoint.from_directory(folder))

    def restore(self) -> Any:
        from pathlib import Path

        from ray import train as ray_train

        from ferstore.train.state import read_state

        found = ray_train.get_checkpoint()
        if found is None:
            return None
        with found.as_directory() as folder:
            return read_state(Path(folder))


def _train_worker(config: dict[str, Any]) -> None:
    """Runs in every worker of Ray Train."""
    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # Ray's backend asks for Keras 2, which is not there
    import ray
    from ray import train as ray_train

    from ferstore.train.trainer import configure, peer_lost, strategy_of
    from ferstore.train.worker import work

    job = ray.get(config["job"][0])
    context = ray_train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    gpus = len(ray.get_gpu_ids())
    configure(gpus=gpus, threads=None if gpus else config["threads"])
    watch = TrainWatch(Recorder(**config["tags"]))
    link = _RayLink(config["board"], rank, watch)
    try:
        outcome = work(job, link, rank=rank, world=world, strategy=strategy_of(world))
    except peer_lost():
        raise  # Ray Train starts all workers again from the last checkpoint
    except Exception as error:
        own = error if isinstance(error, FerstoreError) else TrainError(f"{type(error).__name__}: {error}")
        ray.get(config["board"].fail.remote(own))
        raise
    finally:
        watch.flush()
    ray.get(config["board"].finish.remote(rank, outcome))
