"""Calls of the network, in the order batches come, so that it always has the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Features = Mapping[str, npt.NDArray[np.float32]]
NetworkCall = Callable[[Pixels], Features]
"""uint8 (n, 299, 299, 3) to float32 (n, *shape) for each layer."""


@dataclass(frozen=True, slots=True)
class Called:
    """What a call gave.

    Attributes:
        features: float32 (n, *shape) for each layer.
        ended: UTC.
        seconds: it took, less those that a call before it was still at work: their sum is the time of the network.
    """

    features: Features
    ended: datetime
    seconds: float


class NetworkCalls:
    """The network in threads of its own. The first call runs alone: TensorFlow makes its graph fast in it.

    Args:
        network: called by up to ``at_once`` threads at a time.
        at_once: calls at a time.

    Attributes:
        depth: batches to give it at a time, one more than it can begin with: it waits for nobody between two.
    """

    def __init__(self, network: NetworkCall, at_once: int) -> None:
        self._network = network
        self._threads = ThreadPoolExecutor(at_once, "network")
        self._lock = threading.Lock()
        self._asked = False
        self._ready = threading.Event()  # the first call has ended
        self._open = 0
        self._until = 0.0
        self.depth = at_once + 1

    def submit(self, pixels: Pixels) -> Future[Called]:
        """Call it with these when those before them are under way."""
        with self._lock:
            first, self._asked = not self._asked, True
            self._open += 1
        return self._threads.submit(self._call, pixels, first)

    def idle(self, since: float) -> float:
        """Seconds without a call since then, of `time.perf_counter`; 0 while there is one."""
        with self._lock:
            return 0.0 if self._open else time.perf_counter() - max(since, self._until)

    def _call(self, pixels: Pixels, first: bool) -> Called:
        if not first:
            self._ready.wait()
        began = time.perf_counter()
        try:
            features = self._network(pixels)
        finally:
            with self._lock:
                ended = time.perf_counter()
                seconds = ended - max(began, self._until)
                self._until = ended
                self._open -= 1
            self._ready.set()
        return Called(features, datetime.now(UTC), seconds)
