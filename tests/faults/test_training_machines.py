"""A training with two workers, each on a machine of its own, of which one is lost: it costs the steps since the last
checkpoint, which lies on the store that both share.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from drawn import noise_store, sql
from extract_driver import until
from filled import fill
from machines import machines

from ferstore.progress import Silent
from ferstore.store.store import Store
from ferstore.store.verify import verify
from ferstore.train.recipe import recipe_of
from ferstore.train.request import TrainReport, TrainRequest
from ferstore.train.run import train
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    # Ray Train 2.60 reads deprecated settings of Ray Data as it starts.
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),
]

STEPS = 2500
RECIPE = recipe_of("modern", ["hidden=64", "patience=0", "batch_size=20"], steps=STEPS)
"""Dropout, norms, decay and schedule: whatever has a state of its own."""
REGISTERED = 2.5
"""Seconds: Ray registers what was reported when it polls, every 2 s."""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two machines of one CPU each: a worker on each."""
    with machines(num_cpus=0) as made:
        for _ in range(2):
            add(made)
        yield made


def add(cluster: Any) -> None:
    """From any thread: Ray would catch signals, which only the main one can."""
    with mock.patch("ray._private.node.Node._register_shutdown_hooks"):
        cluster.add_node(num_cpus=1, include_dashboard=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = noise_store(tmp_path, 200)
    fill(made)
    split(made, SplitRequest("parts", "noise", "random"))
    return made


class LoseOne(Silent):
    """Takes a machine away once the training has a checkpoint, and brings another a while later.

    Attributes:
        kept: update of the newest checkpoint that was registered by then.
        boards: machines of what keeps the workers' words.
    """

    def __init__(self, store: Store, cluster: Any, without: float) -> None:
        self.notes: list[str] = []
        self.kept = 0
        self._folder = Path(store.url.removeprefix("file://")) / "training"
        self._before = set(self._found())
        self._cluster, self._without = cluster, without
        self.came = False
        self.boards: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _found(self) -> list[Path]:
        return sorted(path.parent for path in self._folder.glob("*/checkpoints/checkpoint_*/digests.json"))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _work(self) -> None:
        until(lambda: set(self._found()) - self._before)
        newest = [path for path in self._found() if path not in self._before][-1]
        self.kept = json.loads((newest / "state.json").read_text("utf-8"))["step"]
        time.sleep(REGISTERED)
        actors = self._cluster.global_state.actor_table(None, actor_state_name="ALIVE").values()
        self.boards = [actor["Address"]["NodeID"] for actor in actors if actor["ActorClassName"] == "_Board"]
        self._cluster.remove_node(next(iter(self._cluster.worker_nodes)), allow_graceful=False)
        time.sleep(self._without)
        add(self._cluster)
        self.came = True
        self._end.wait()  # what a thread starts ends with it

    def end(self) -> None:
        self._end.set()
        self._thread.join(60)
        assert self.came


def losses(store: Store, run_id: str | None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    query = f"select loss from metrics where run_id = '{run_id}' and part = 'train' order by step"
    return np.array([row[0] for row in sql(store, query)], float)


@pytest.mark.parametrize("without", [0.0, 75.0], ids=["replaced at once", "replaced after more than a minute"])
def test_a_lost_machine_costs_the_steps_since_the_last_checkpoint(
    night: None, without: float, store: Store, cluster: Any, tally: Callable[[str, int], None]
) -> None:
    asked = TrainRequest("deepest", "parts", recipe=RECIPE, checkpoint_seconds=3, workers=2)

    def run(progress: Silent) -> TrainReport:
        [report] = train(store, asked, address=cluster.address, progress=progress)
        return report

    quiet = run(Silent())
    losing = LoseOne(store, cluster, without)
    try:
        lost = run(losing)
    finally:
        losing.end()
    tally("kills", 1)
    assert losing.boards == [cluster.head_node.node_id], "what the workers said could be lost with a machine"
    note, *_ = [note for note in losing.notes if "a worker was lost" in note]
    [(seen, went_on)] = re.findall(r"after update (\d+); went on from (\d+)", note)
    assert 0 < losing.kept <= int(went_on) <= int(seen) < STEPS
    [(details,)] = sql(store, f"select details from runs where run_id = '{lost.run_id}'")
    assert json.loads(str(details))["restarts"] >= 1
    np.testing.assert_array_equal(losses(store, lost.run_id), losses(store, quiet.run_id))
    assert Path(str(lost.weights)).name == Path(str(quiet.weights)).name  # the digest of the weights
    assert lost.test == quiet.test
    assert verify(store).sound
