"""How an extract is watched: what goes to Ray's metrics as shards are given out, come back and are committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ferstore.extract.committer import Counts
from ferstore.extract.worker import ShardResult
from ferstore.watch import (
    COMMIT_SECONDS,
    FEATURE_BYTES,
    IMAGES,
    NETWORK_SECONDS,
    QUEUE,
    WAIT_SECONDS,
    Recorder,
)


@dataclass(slots=True)
class ExtractWatch:
    """Counts image views on their way through the pool.

    Attributes:
        recorder: where values go.
        planned: image views not yet given to an actor.
    """

    recorder: Recorder
    planned: int
    _in_flight: int = field(default=0, init=False)

    def given(self, items: int, landed: int) -> None:
        """A shard of so many image views was taken, less those another job had committed."""
        self.planned -= items + landed
        self._in_flight += items
        self.recorder.record(IMAGES, landed, outcome="elsewhere")
        self._queue()

    def finished(self, result: ShardResult) -> None:
        """A shard came back."""
        self._in_flight -= len(result.done) + len(result.failures)
        for layer, file in zip(result.layers, result.files, strict=False):
            self.recorder.record(FEATURE_BYTES, file.nbytes, layer=layer)
        self.recorder.record(NETWORK_SECONDS, result.seconds)
        self.recorder.record(WAIT_SECONDS, result.waited)
        self._queue()

    def committed(self, seconds: float, counts: Counts) -> None:
        """A commit landed."""
        self.recorder.record(COMMIT_SECONDS, seconds, command="extract")
        self.recorder.record(IMAGES, counts.computed, outcome="computed")
        self.recorder.record(IMAGES, counts.quarantined, outcome="quarantined")
        self.recorder.record(IMAGES, counts.landed_elsewhere, outcome="elsewhere")

    def end(self) -> None:
        """The run is over: a gauge would keep its last value for as long as the node lives."""
        self.planned = self._in_flight = 0
        self._queue()

    def _queue(self) -> None:
        self.recorder.record(QUEUE, self.planned, state="planned")
        self.recorder.record(QUEUE, self._in_flight, state="in_flight")
