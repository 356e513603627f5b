"""Training on Ray: what a run leaves, the same for any number of workers, and whatever is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import noise_store, sql, tree_digest
from filled import fill
from safetensors.numpy import load_file
from scraped import Values, scrape, scrape_until

from ferstore.cluster import cluster
from ferstore.errors import InputError
from ferstore.progress import Progress, Silent
from ferstore.store.store import Store
from ferstore.store.verify import verify
from ferstore.train.job import Measured, Outcome
from ferstore.train.recipe import recipe_of
from ferstore.train.request import Experiment, TrainReport, TrainRequest
from ferstore.train.run import train
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    # Ray Train 2.60 reads deprecated settings of Ray Data as it starts.
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),
]

MARK = uuid.uuid4().hex
ITEMS = 200
LONG = recipe_of("modern", ["hidden=64", "patience=0", "batch_size=20"], steps=3500)
"""Several seconds of updates, with everything that has a state of its own: dropout, norms, decay, schedule."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = noise_store(tmp_path_factory.mktemp("train"), ITEMS)
    fill(made)
    split(made, SplitRequest("parts", "noise", "random"))
    return made


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FERSTORE_TEST", MARK)
        patch.setenv("RAY_metrics_report_interval_ms", "500")  # else a test of metrics waits 10 s
        with cluster(None, cpus=4):
            yield
    signal.signal(signal.SIGTERM, before)


def request(experiment: Experiment, *changes: str, steps: int = 12, recipe: str = "modern") -> TrainRequest:
    return TrainRequest(experiment, "parts", recipe=recipe_of(recipe, changes, steps=steps), width=8)


def run(store: Store, asked: TrainRequest, progress: Progress | None = None) -> TrainReport:
    [report] = train(store, asked, progress=progress)
    return report


def losses(store: Store, run_id: str | None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    query = f"select loss from metrics where run_id = '{run_id}' and part = 'train' order by step"
    return np.array([row[0] for row in sql(store, query)], float)


def test_the_three_experiments_leave_all_that_is_promised(store: Store, ray_here: None) -> None:
    reports = [run(store, request(experiment, "hidden=16")) for experiment in ("deepest", "sub_deep", "fusion")]
    assert [report.state for report in reports] == ["done"] * 3
    assert reports[2].conv4_run == reports[1].run_id
    parts = reports[0].items
    for report in reports:
        mine = f"where run_id = '{report.run_id}'"
        assert sql(store, f"select count(*) from metrics {mine} and part = 'train'") == [(12,)]
        assert sql(store, f"select count(*) from metrics {mine} and part = 'validation'") == [(1,)]
        counted = dict(sql(store, f"select part, count(*) from predictions {mine} group by part"))
        assert counted == {part: parts[part] for part in ("validation", "test")}
        assert sql(store, f"select count(*) from predictions {mine} and abs(list_sum(probabilities) - 1) > 1e-5") == [
            (0,)
        ]
        right = sql(store, f"select avg((predicted = label)::int) from predictions {mine} and part = 'test'")
        assert right[0][0] == pytest.approx(report.test["accuracy"])
        [(state, arguments, details)] = sql(store, f"select state, arguments, details from runs {mine}")
        assert state == "done"
        assert json.loads(str(arguments))["options"]["dropout"] == 0.5
        said = json.loads(str(details))
        assert said["weights_sha256"] in said["weights"]
        assert said["device"] == "cpu"
        folder = Path(str(report.weights).removeprefix("file://")).parent
        assert len(load_file(next(folder.glob("weights-*.safetensors")))) > 2
        assert {path.parent.name for path in folder.rglob("*tfevents*")} == {"train", "validation"}
        assert not (folder / "checkpoints").exists()
    assert sql(store, "select count(*), count(distinct (image_id, view)) from conv4") == [(ITEMS, ITEMS)]
    assert sql(store, "select distinct len(conv4) from conv4") == [(2048,)]
    found = sql(store, "select experiment, width, runs, weights_kind from table_2 order by experiment")
    assert found == [("deepest", None, 1, "random"), ("fusion", 8, 1, "random"), ("sub_deep", 8, 1, "random")]
    assert verify(store).sound


def test_two_workers_make_the_curve_of_one_and_prometheus_sees_them(store: Store, ray_here: None) -> None:
    before = scrape()
    asked = request("deepest", "hidden=64", "batch_size=30", steps=50)
    one, two = run(store, asked), run(store, replace(asked, workers=2))
    np.testing.assert_allclose(losses(store, two.run_id), losses(store, one.run_id), atol=1e-3)
    check_watched(before, updates=150, examples=2 * 50 * one.items["train"] / math.ceil(one.items["train"] / 30))
    asked = request("sub_deep", "batch_size=30", "learning_rate=0.001", recipe="paper", steps=50)
    one, two = run(store, asked), run(store, replace(asked, workers=2))
    assert len(losses(store, one.run_id)) == 50
    np.testing.assert_allclose(losses(store, two.run_id), losses(store, one.run_id), rtol=1e-3, atol=1e-3)
    assert sql(store, f"select count(*) from conv4 where run_id = '{two.run_id}'") == [(ITEMS,)]


def check_watched(before: Values, *, updates: int, examples: float) -> None:
    """What Prometheus sees of two trainings of deepest, in all their workers."""
    name, tags = "ray_ferstore_train_{}_total", ("noise", "deepest")
    commits = ("ray_ferstore_commit_seconds_count", "train", "noise")

    def all_there(now: Values) -> bool:
        return (now - before)[name.format("updates"), *tags] >= updates and (now - before)[commits] >= 2

    seen = scrape_until(all_there) - before
    assert seen[name.format("updates"), *tags] == updates
    assert seen[name.format("examples"), *tags] == examples  # 50 updates are whole epochs
    assert seen[name.format("step_seconds"), *tags] > 0
    assert seen[name.format("wait_seconds"), *tags] > 0
    assert seen[commits] == 2


def test_every_fold_is_trained_and_jointly_too(store: Store, ray_here: None) -> None:
    split(store, SplitRequest("folded", "noise", "random", folds=2))
    asked = replace(request("fusion", "dropout=0.1", "hidden=0", steps=3), training_set="folded", joint=True)
    first, second = train(store, asked)
    assert (first.fold, second.fold) == (0, 1)
    assert first.items != second.items or first.run_id != second.run_id
    query = "select runs, folds, settings, accuracy_sd is not null from table_2 where training_set = 'folded'"
    assert sql(store, query) == [(2, 2, "steps=3 dropout=0.1 hidden=0 joint", True)]
    tested = "select count(*), count(distinct item_id) from predictions join runs using (run_id) "
    tested += "where part = 'test' and arguments ->> 'training_set' = 'folded'"
    assert sql(store, tested) == [(ITEMS, ITEMS)]  # each item is in the test part of one fold


def workers() -> list[int]:
    """Processes of this module's cluster that train; others on this machine are not ours to kill."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            ours = f"FERSTORE_TEST={MARK}".encode() in (folder / "environ").read_bytes()
            if ours and b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


class KillAfterCheckpoint(Silent):
    """Kills a worker soon after its run has a checkpoint."""

    def __init__(self, store: Store) -> None:
        self.folder = Path(store.url.removeprefix("file://")) / "training"
        self.left = set(self.folder.glob("*/checkpoints/checkpoint_*"))
        self.killed = 0
        self.notes: list[str] = []
        threading.Thread(target=self._kill, daemon=True).start()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _kill(self) -> None:
        while not set(self.folder.glob("*/checkpoints/checkpoint_*")) - self.left:
            time.sleep(0.05)
        time.sleep(2.5)  # Ray registers what was reported when it polls, every 2 s
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
            self.killed += 1


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds workers in /proc")
def test_a_killed_worker_costs_nothing_but_time(store: Store, ray_here: None) -> None:
    asked = TrainRequest("deepest", "parts", recipe=LONG, checkpoint_seconds=3)
    quiet = run(store, asked)
    killer = KillAfterCheckpoint(store)
    killed = run(store, asked, killer)
    assert killer.killed == 1
    assert any("a worker was lost" in note for note in killer.notes)
    assert Path(str(killed.weights)).name == Path(str(quiet.weights)).name  # the digest of the weights
    np.testing.assert_array_equal(losses(store, killed.run_id), losses(store, quiet.run_id))
    [(details,)] = sql(store, f"select details from runs where run_id = '{killed.run_id}'")
    assert json.loads(str(details))["restarts"] == 1


def command(store: Store, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ferstore.cli", "--store", store.url, "train", "deepest", "--training-set", "parts"),
        *("--recipe", "modern", "--steps", str(LONG.steps), "--checkpoint-seconds", "3", "--json"),
        *("--set", "hidden=64", "--set", "patience=0", "--set", "batch_size=20", *more),
    ]


def test_a_killed_driver_is_resumed_to_the_same_weights(store: Store, ray_here: None) -> None:
    quiet = run(store, TrainRequest("deepest", "parts", recipe=LONG, checkpoint_seconds=3))
    before = {row[0] for row in sql(store, "select run_id from runs")}
    process = subprocess.Popen(command(store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = Path(store.url.removeprefix("file://")) / "training"
    left = set(folder.glob("*/checkpoints/checkpoint_*"))
    while not set(folder.glob("*/checkpoints/checkpoint_*")) - left:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(2.5)
    process.kill()
    process.wait()
    [(killed, state)] = [row for row in sql(store, "select run_id, state from runs") if row[0] not in before]
    assert state == "running"
    assert not len(losses(store, str(killed)))

    done = subprocess.run(command(store, "--resume", str(killed)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)["trainings"]
    assert report["run_id"] == killed
    assert Path(report["weights"]).name == Path(str(quiet.weights)).name
    np.testing.assert_array_equal(losses(store, str(killed)), losses(store, quiet.run_id))
    assert sql(store, f"select state from runs where run_id = '{killed}'") == [("done",)]
    assert not (folder / str(killed) / "checkpoints").exists()


def test_a_loss_that_is_no_number_leaves_a_curve_and_no_prediction(
    store: Store, ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = (Measured(1, 1, "train", 2.0, 0.5), Measured(2, 1, "train", float("nan"), 0.5))
    monkeypatch.setattr("ferstore.train.run._fit", lambda *_: [Outcome((), curve, None, steps=2, best_step=2)])
    asked = request("deepest", steps=7)
    report = run(store, asked)
    assert (report.state, report.steps, report.test) == ("diverged", 2, {})
    mine = f"where run_id = '{report.run_id}'"
    assert sql(store, f"select step from metrics {mine} and not isfinite(loss)") == [(2,)]
    assert sql(store, f"select count(*) from predictions {mine}") == [(0,)]
    [(state, error)] = sql(store, f"select state, error from runs {mine}")
    assert state == "failed"
    assert "diverged: the loss of update 2" in str(error)
    with pytest.raises(InputError, match="diverged"):
        train(store, asked, resume=report.run_id)


def test_a_stopped_training_says_how_to_go_on(store: Store, ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    split(store, SplitRequest("three", "noise", "random", folds=3))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ferstore.train.run._fit", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(store, replace(request("deepest"), training_set="three"))
    [(run_id, state)] = sql(store, "select run_id, state from runs where arguments ->> 'training_set' = 'three'")
    assert state == "stopped"
    assert stopped.value.__notes__ == [
        f"continue from the last checkpoint: ferstore train deepest --training-set three --resume {run_id}",
        "then train the folds that are left, each with --fold: 1, 2",
    ]


def test_nothing_is_started_for_what_cannot_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr("ferstore.train.run.cluster", refuse)
    folder = Path(store.url.removeprefix("file://"))
    before = tree_digest(folder)
    plain = request("deepest")
    for asked, match in [
        (replace(plain, training_set="nowhere"), "no training set 'nowhere'"),
        (replace(plain, fold=3), "fold 3"),
        (replace(plain, views=("identity", "hflip")), r"\d+ images of the training set have no pool_3 \(hflip\)"),
        (replace(plain, layers=("mixed_9_mean",)), "have no mixed_9_mean"),
        (replace(plain, extractor="0" * 16), "have no pool_3 .* of extractor 0000000000000000"),
        (replace(request("fusion"), conv4="20260101T000000-00000000"), "is no finished sub_deep training"),
        (replace(plain, workers=1000), "1000 workers"),
    ]:
        with pytest.raises(InputError, match=match):
            train(store, asked)
    with pytest.raises(InputError, match="no training '20260101T000000-00000000'"):
        train(store, plain, resume="20260101T000000-00000000")
    assert tree_digest(folder) == before


def test_a_dry_run_plans_and_starts_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferstore.train.run.cluster", lambda *_: pytest.fail("Ray was started"))
    [plan] = train(store, request("sub_deep", steps=7), dry_run=True)
    assert (plan.run_id, plan.total_steps, plan.width) == (None, 7, 8)
    assert plan.examples == plan.items["train"]
