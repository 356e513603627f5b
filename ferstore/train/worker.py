"""What every worker of a training does, whatever starts it: read, update, validate, keep state, and hand in results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ferstore.store.digests import check_digests
from ferstore.store.files import StoredFile, write_data_file
from ferstore.store.writer import encode
from ferstore.train.conv4 import CONV4_VALUES
from ferstore.train.data import EVALUATED
from ferstore.train.early_stop import Progressed, validate_every
from ferstore.train.job import Job, Measured, Outcome, scores
from ferstore.train.leave import write_events, write_weights
from ferstore.train.order import Indices, Order, rank_span
from ferstore.train.reader import Reader
from ferstore.train.recipe import class_weights, derived_seed
from ferstore.train.state import State
from ferstore.train.trainer import Trainer
from ferstore.train.watchdog import Watchdog

_PREDICT_BATCH = 128
_CONV4_ROWS = 4096  # of a file: 32 MiB before compression


class Link(Protocol):
    """How a worker reaches what started it."""

    def tell(self, point: Measured, total: int) -> None:
        """Show a point of the curve (rank 0 only)."""
        ...

    def updated(self, examples: int, waited: float, stepped: float) -> None:
        """Tell what an update of this worker took: seconds for its examples to come, and for the update itself."""
        ...

    def save(self, arrays: State, rest: dict[str, Any]) -> None:
        """Keep a checkpoint; every rank calls it at the same update, and rank 0's is kept."""
        ...

    def restore(self) -> tuple[State, dict[str, Any]] | None:
        """The newest checkpoint."""
        ...


def work(job: Job, link: Link, *, rank: int = 0, world: int = 1, strategy: Any = None) -> Outcome:
    """Fit a head from its last checkpoint on, then predict with the weights that are kept.

    Args:
        job: what.
        link: to the driver.
        rank: of this worker.
        world: how many there are.
        strategy: of tf.distribute, where there are several.

    Raises:
        TrainError: a checkpoint of another head.
        CorruptionError: features or a checkpoint that cannot be read.
    """
    worker = _Worker(job, link, rank, world, strategy)
    watchdog = Watchdog(job.stuck_seconds)
    try:
        return worker.run(watchdog.beat)
    finally:
        watchdog.stop()
        worker.reader.close()


class _Worker:
    def __init__(self, job: Job, link: Link, rank: int, world: int, strategy: Any) -> None:
        self.job, self.link, self.rank, self.world = job, link, rank, world
        data, recipe = job.data, job.spec.recipe
        self.train = data.examples("train")
        self.order = Order(data.groups(self.train), recipe.batch_size, derived_seed(job.spec.seed, "order"), world)
        self.total = recipe.total_steps(len(self.train))
        mine = self._mine()
        # The driver held them against their digests too; but this may be another machine, or a later attempt.
        check_digests(set().union(*(layer.files_of(mine) for layer in data.layers)))
        self.reader = Reader(data.layers, mine)
        self.targets = data.targets(recipe.targets)
        self.trainer = Trainer(
            job.spec,
            targets=self.targets,
            labels=data.labels,
            weights=class_weights(data.class_counts(), recipe.class_balance),
            total_steps=self.total,
            moments=job.moments,
            strategy=strategy,
        )
        self.curve: list[Measured] = []
        self.progressed = Progressed(recipe.patience)
        self.best: State | None = None
        self.step = 0
        self.attempts = 0

    def run(self, beat: Callable[[], None]) -> Outcome:
        self._restore()
        began = time.monotonic()
        diverged = self._fit(beat)
        seconds = time.monotonic() - began
        if diverged:
            return self._outcome((), None, seconds)
        if self.best is not None:
            self.trainer.load_weights(self.best)
        examples = self.job.data.examples() if self.job.conv4_schema else self._examples(*EVALUATED)
        probabilities, conv4 = self._predict(examples, beat)
        evaluated = np.isin(self.job.data.parts, EVALUATED)
        if not np.isfinite(probabilities[evaluated]).all():
            return self._outcome((), None, seconds)
        return self._outcome(conv4, probabilities, seconds)

    def _fit(self, beat: Callable[[], None]) -> bool:
        """Updates until the end; whether the loss stopped being a number."""
        stream = self.reader.stream(self.order, self.train, self.rank, self.step)
        every = validate_every(self.order.steps)
        validation = self._examples("validation")
        saved, pause = time.monotonic(), self.job.checkpoint_seconds
        try:
            while self.step < self.total and not self.progressed.stop:
                wants = self.rank == 0 and time.monotonic() - saved >= pause
                asked = time.perf_counter()
                batch = next(stream)
                came = time.perf_counter()
                loss, accuracy, flags = self.trainer.step(self.step, batch, float(wants))
                self.link.updated(len(batch.take.examples), came - asked, time.perf_counter() - came)
                self.step += 1
                beat()
                self._note("train", loss, accuracy)
                if not math.isfinite(loss):
                    return True
                if len(validation) and (self.step % every == 0 or self.step == self.total):
                    self._validate(validation, beat)
                if flags:
                    began = time.monotonic()
                    self._save()
                    saved = time.monotonic()
                    pause = max(self.job.checkpoint_seconds, (saved - began) / self.job.checkpoint_share)
                    beat()
        finally:
            stream.close()  # type: ignore[attr-defined]
        return False

    def _validate(self, examples: Indices, beat: Callable[[], None]) -> None:
        probabilities, _ = self._predict(examples, beat, keep_conv4=False)
        items = np.flatnonzero(self.job.data.parts == "validation")
        loss, accuracy = scores(probabilities[items], self.targets[items], self.job.data.labels[items])
        self._note("validation", loss, accuracy)
        self.progressed = self.progressed.after(self.step, loss)
        if self.progressed.patience and self.progressed.improved:
            self.best = self.trainer.weights()

    def _predict(
        self, examples: Indices, beat: Callable[[], None], *, keep_conv4: bool = True
    ) -> tuple[npt.NDArray[np.float32], tuple[StoredFile, ...]]:
        """Mean probabilities over the views of each item, summed over workers; NaN for items not among the examples."""
        data = self.job.data
        first, last = rank_span(len(examples), self.rank, self.world)
        found = np.zeros((data.items, len(data.classes)), np.float32)
        writer = _Conv4Writer(self.job) if keep_conv4 and self.job.conv4_schema else None
        for batch in self.reader.once(examples[first:last], _PREDICT_BATCH):
            probabilities, conv4 = self.trainer.predict(batch.features)
            np.add.at(found, batch.take.examples % data.items, probabilities / len(data.views))
            if writer and conv4 is not None:
                writer.add(batch.take.examples, conv4)
            beat()
        found = self.trainer.total(found).copy()
        asked = np.zeros(data.items, bool)
        asked[examples % data.items] = True
        found[~asked] = np.nan
        return found, writer.finish() if writer else ()

    def _outcome(
        self, conv4: tuple[StoredFile, ...], probabilities: npt.NDArray[np.float32] | None, seconds: float
    ) -> Outcome:
        if self.rank:
            return Outcome(conv4)
        url, digest = "", ""
        if probabilities is not None:
            url, digest = write_weights(self.job, self.trainer.weights())
        write_events(self.job, self.curve)
        return Outcome(
            conv4=conv4,
            curve=tuple(self.curve),
            probabilities=probabilities,
            weights=url,
            weights_sha256=digest,
            steps=self.step,
            best_step=self.progressed.best_step if self.best is not None else self.step,
            parameters=sum(math.prod(variable.shape) for variable in self.trainer.model.trainable_variables),
            seconds=seconds,
            attempts=self.attempts,
        )

    def _note(self, part: str, loss: float, accuracy: float) -> None:
        point = Measured(self.step, -(-self.step // self.order.steps), part, loss, accuracy)
        self.curve.append(point)
        if self.rank == 0:
            self.link.tell(point, self.total)

    def _save(self) -> None:
        if self.rank:
            self.link.save({}, {})
            return
        best = {f"best/{name}": value for name, value in (self.best or {}).items()}
        rest = {
            "step": self.step,
            "progressed": asdict(self.progressed),
            "curve": [list(asdict(point).values()) for point in self.curve],
            "attempts": self.attempts,
        }
        self.link.save({**self.trainer.state(), **best}, rest)

    def _restore(self) -> None:
        if (found := self.link.restore()) is None:
            return
        arrays, rest = found
        best = {name.removeprefix("best/"): value for name, value in arrays.items() if name.startswith("best/")}
        self.trainer.load_state({name: value for name, value in arrays.items() if not name.startswith("best/")})
        self.best = best or None
        self.step = rest["step"]
        self.progressed = Progressed(**rest["progressed"])
        self.curve = [Measured(*point) for point in rest["curve"]]
        self.attempts = rest["attempts"] + 1

    def _examples(self, *parts: str) -> Indices:
        data = self.job.data
        chosen = np.isin(data.parts, parts)
        every = data.examples()
        return every[chosen[every % data.items]]

    def _mine(self) -> Indices:
        """Examples whose features this worker reads."""
        bounds = np.arange(self.order.lanes + 1) * len(self.train) // self.order.lanes
        lanes = [self.train[bounds[n] : bounds[n + 1]] for n in range(self.rank, self.order.lanes, self.world)]
        for examples in (self._examples("validation"), self._examples(*EVALUATED), self.job.data.examples()):
            first, last = rank_span(len(examples), self.rank, self.world)
            lanes.append(examples[first:last])
        return np.unique(np.concatenate(lanes))


class _Conv4Writer:
    """Rows of conv4 into files of the table, a few thousand at a time."""

    def __init__(self, job: Job) -> None:
        assert job.conv4_schema is not None  # noqa: S101
        self._job = job
        self._schema = job.conv4_schema
        self._rows: list[pa.Table] = []
        self._first = np.zeros(job.data.items, bool)  # an image that is several items has one row
        self._first[np.unique(np.asarray(job.data.image_ids), return_index=True)[1]] = True
        self._files: list[StoredFile] = []

    def add(self, examples: Indices, conv4: npt.NDArray[np.float32]) -> None:
        data = self._job.data
        kept = self._first[examples % data.items]
        examples, conv4 = examples[kept], conv4[kept]
        images = [data.image_ids[example % data.items] for example in examples.tolist()]
        views = [data.views[example // data.items] for example in examples.tolist()]
        offsets = np.arange(0, conv4.size + 1, CONV4_VALUES, dtype=np.int32)
        self._rows.append(
            pa.table(
                {
                    "image_id": images,
                    "run_id": [self._job.run_id] * len(images),
                    "view": views,
                    "conv4": pa.ListArray.from_arrays(offsets, np.ascontiguousarray(conv4).ravel()),
                }
            )
        )
        if sum(map(len, self._rows)) >= _CONV4_ROWS:
            self._write()

    def finish(self) -> tuple[StoredFile, ...]:
        if self._rows:
            self._write()
        return tuple(self._files)

    def _write(self) -> None:
        rows = pa.concat_tables(self._rows).cast(self._schema.arrow())
        self._files.append(write_data_file(self._job.conv4_folder, "conv4", encode(self._schema, rows), len(rows)))
        self._rows = []
