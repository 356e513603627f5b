"""A Ray cluster of several machines on this one, and a network that tells where it runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stub_network import stub_factory

from ferstore.cluster_access import own_token


@contextmanager
def machines(**head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`, closed to others, whose machines end with it.

    Args:
        head: resources of the first machine, such as ``num_cpus``.
    """
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    terminate = signal.getsignal(signal.SIGTERM)
    with own_token():
        made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        signal.signal(signal.SIGTERM, terminate)  # Ray puts its own there
        try:
            yield made
        finally:
            made.shutdown()


@dataclass(frozen=True, slots=True)
class Seen:
    """An actor as it saw itself.

    Attributes:
        node: Ray's id of its machine.
        visible: ``CUDA_VISIBLE_DEVICES``; None where it is not set.
    """

    node: str
    visible: str | None


class Places:
    """Networks that leave a note of where they run in a folder, work at the pace of their machine, and wait.

    Args:
        folder: for notes; made here.
        pauses: seconds a batch takes longer, by node id; ``""`` is any other's.
        batches: that a network computes before it waits for `go`.
    """

    def __init__(self, folder: Path, pauses: Mapping[str, float], *, batches: int | None = None) -> None:
        folder.mkdir()
        self._folder, self._pauses, self._batches = folder, dict(pauses), batches

    def go(self) -> None:
        """Nobody waits any more."""
        (self._folder / "go").touch()

    def seen(self) -> list[Seen]:
        """The actors that were built."""
        return [Seen(**json.loads(path.read_text("utf-8"))) for path in self._folder.glob("*.json")]

    def factory(self) -> Callable[[], Callable[[Any], Mapping[str, Any]]]:
        """A factory of networks; nested, so that it is sent by value."""
        stub = stub_factory()
        folder, pauses, batches = str(self._folder), self._pauses, self._batches

        def factory() -> Callable[[Any], Mapping[str, Any]]:
            import json
            import os
            import time
            from pathlib import Path

            import ray

            network = stub()
            node = ray.get_runtime_context().get_node_id()
            note = json.dumps({"node": node, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")})
            partial = Path(folder, f"{os.getpid()}.partial")
            partial.write_text(note, "utf-8")
            partial.rename(partial.with_suffix(".json"))
            computed = 0

            def placed(pictures: Any) -> Mapping[str, Any]:
                nonlocal computed
                time.sleep(pauses.get(node, pauses[""]))
                end = time.monotonic() + 90
                while batches is not None and computed >= batches and not Path(folder, "go").exists():
                    assert time.monotonic() < end, "nobody said go"
                    time.sleep(0.05)
                computed += 1
                return network(pictures)

            return placed

        return factory
