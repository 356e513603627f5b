"""Whatever is killed, and whenever: every image once in every layer, and no commit is ever seen in part.

``FERSTORE_KILLS`` sets how many processes are killed, ``FERSTORE_KILLS_SEED`` which and when.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn import noise_files, noise_store, sql, write

from ferstore.sources.ingest import ingest
from ferstore.store.doctor import doctor
from ferstore.store.rows import read_rows
from ferstore.store.store import Store
from ferstore.store.verify import verify

KILLS = int(os.environ.get("FERSTORE_KILLS", "4"))
SEED = int(os.environ.get("FERSTORE_KILLS_SEED", "1"))
SUPPORT = Path(__file__).parents[1] / "support"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(120 + 40 * KILLS),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]

Key = tuple[str, str, str]


class Driver:
    """One process that extracts, with the processes of its Ray cluster, which inherit its environment."""

    def __init__(self, store: Store, pause: float) -> None:
        self.mark = f"FERSTORE_TEST={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        paths = [str(SUPPORT), str(SUPPORT.parents[1])]
        self.process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "stub_extract.py"), store.url, str(pause)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def family(self) -> dict[int, str]:
        """Command line of every process that this one started, and of itself."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and folder.name != str(os.getpid()):
                try:
                    if self.mark.encode() in (folder / "environ").read_bytes():
                        found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except (OSError, UnicodeDecodeError):
                    continue  # it ended, or is not ours
        return found

    def pids(self, kind: str) -> list[int]:
        if kind == "driver":
            return [self.process.pid]
        words = {"actor": "ray::_Host", "raylet": "/raylet/raylet"}
        return [pid for pid, line in self.family().items() if words[kind] in line.split(" -")[0]]

    def started(self) -> bool:
        """Wait until shards are handed out; False if it ended before."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "started\n"

    def finish(self) -> dict[str, int]:
        """Wait for the end, which must be a good one, and return the account."""
        out, err = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, err
        report: dict[str, int] = json.loads(out.splitlines()[-1])
        return report

    def end(self) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def committed(store: Store) -> set[Key]:
    """Keys of one pin, which must be the same in both layers and each there once."""
    pin = store.pin()
    layers = {}
    for layer in ("pool_3", "mixed_10"):
        rows = read_rows(store, pin, layer, ["image_id", "extractor_id", "view"]).to_pylist()
        layers[layer] = [(row["image_id"], row["extractor_id"], row["view"]) for row in rows]
        assert len(set(layers[layer])) == len(layers[layer]), f"a row twice in {layer}"
    assert set(layers["pool_3"]) == set(layers["mixed_10"]), "a commit seen in part"
    return set(layers["pool_3"])


def check_whole(store: Store, images: int) -> None:
    assert len(committed(store)) == images
    query = "select count(*), count(distinct image_id) from {} semi join images using (image_id)"
    for layer in ("pool_3", "mixed_10"):
        assert sql(store, query.format(layer)) == [(images, images)]
    report = verify(store)
    assert report.sound
    assert report.rows["pool_3"] == report.rows["mixed_10"] == images
    assert [finding for finding in doctor(store) if finding.state == "fail"] == []


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        driver.end()


def test_kills_at_any_moment_lose_nothing_committed_and_repeat_nothing(
    tmp_path: Path, drivers: list[Driver], capsys: pytest.CaptureFixture[str]
) -> None:
    print(f"seed {SEED}")  # shown when this fails
    chance = random.Random(SEED)
    images = 300
    store = noise_store(tmp_path, images)
    killed: Counter[str] = Counter()
    before: set[Key] = set()
    while killed.total() < KILLS:
        if len(committed(store)) == images:  # the last run was quicker than its killer
            ingest(store, "folder", str(write(tmp_path / "noise", noise_files(100, first=images))))
            images += 100
        driver = Driver(store, 0.1)
        drivers.append(driver)
        kinds = [*chance.choices(["actor", "raylet"], [3, 1], k=chance.randrange(4)), "driver"]
        if chance.random() < 0.8:
            driver.started()
        for kind in kinds:
            time.sleep(chance.uniform(0.0, 1.5))
            pids = driver.pids(kind)
            if killed.total() >= KILLS or driver.process.poll() is not None or not pids:
                continue
            os.kill(chance.choice(pids), signal.SIGKILL)
            killed[kind] += 1
            after = committed(store)
            assert after >= before, "what was committed is gone"
            before = after
        driver.end()
    driver = Driver(store, 0.0)
    drivers.append(driver)
    report = driver.finish()
    assert report["present"] >= len(before)
    assert report["present"] + report["computed"] == images
    check_whole(store, images)
    states = Counter(state for (state,) in sql(store, "select state from runs where command = 'extract'"))
    with capsys.disabled():
        victims = ", ".join(f"{count} {kind}" for kind, count in sorted(killed.items()))
        print(
            f"\nkilled {victims} (seed {SEED}) in {len(drivers) - 1} runs {dict(states)}; then {images} images, "
            "each once in pool_3 and mixed_10"
        )


def test_two_extracts_at_once_store_every_image_once(tmp_path: Path, drivers: list[Driver]) -> None:
    store = noise_store(tmp_path, 600)
    drivers += [Driver(store, 0.05) for _ in range(2)]
    reports = [driver.finish() for driver in drivers]
    assert sum(report["computed"] for report in reports) == 600
    for report in reports:
        assert report["computed"] + report["landed_elsewhere"] + report["present"] == 600
    assert sum(report["landed_elsewhere"] for report in reports), "they never met: nothing was tried"
    check_whole(store, 600)
