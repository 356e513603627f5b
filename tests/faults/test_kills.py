"""Whatever is killed, and whenever: every image once in every layer, and no commit is ever seen in part.

``FERSTORE_KILLS`` sets how many processes of extracts are killed, ``FERSTORE_KILLS_SEED`` which and when.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drawn import noise_files, noise_store, sql, write
from extract_driver import Driver, Key, check_whole, committed, signal_all, until

from ferstore.sources.ingest import ingest
from ferstore.store.doctor import doctor
from ferstore.store.store import Store, init_store

SEED = int(os.environ.get("FERSTORE_KILLS_SEED", "1"))
Tally = Callable[[str, int], None]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        driver.end()


def test_kills_at_any_moment_lose_nothing_committed_and_repeat_nothing(
    tmp_path: Path, drivers: list[Driver], level: str, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("FERSTORE_KILLS") or {"ci": 4, "full": 10, "night": 80}[level])
    print(f"seed {SEED}")  # shown when this fails
    chance = random.Random(SEED)
    images = 300
    store = noise_store(tmp_path, images)
    killed: Counter[str] = Counter()
    before: set[Key] = set()
    while killed.total() < kills:
        if len(committed(store)) == images:  # the last run was quicker than its killer
            ingest(store, "folder", str(write(tmp_path / "noise", noise_files(100, first=images))))
            images += 100
        driver = Driver(store, 0.1)
        drivers.append(driver)
        kinds = [*chance.choices(["actor", "raylet"], [3, 1], k=chance.randrange(4)), "driver"]
        if chance.random() < 0.8 and driver.started():
            until(lambda driver=driver: driver.pids("actor") or driver.process.poll() is not None)
        for kind in kinds:
            time.sleep(chance.uniform(0.0, 1.5))
            pids = driver.pids(kind)
            if killed.total() >= kills or driver.process.poll() is not None or not pids:
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
    tally("kills", killed.total())
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


@pytest.mark.parametrize("whole", [False, True], ids=["the driver", "it and its cluster"])
def test_an_extract_frozen_while_another_ends_its_work_doubles_nothing(
    whole: bool, tmp_path: Path, drivers: list[Driver], level: str
) -> None:
    if level == "ci" or (whole and level != "night"):
        pytest.skip(f"takes long: FERSTORE_FAULTS={'night' if whole else 'full'} has it")
    store = noise_store(tmp_path, 300)
    frozen = Driver(store, 0.1)
    drivers.append(frozen)
    assert frozen.started()
    until(lambda: len(committed(store)) > 0)
    victims = list(frozen.family()) if whole else [frozen.process.pid]
    signal_all(victims, signal.SIGSTOP)
    before = committed(store)
    assert len(before) < 300, "it was done already"
    other = Driver(store, 0.0)
    drivers.append(other)
    report = other.finish()
    assert report["present"] == len(before)
    assert report["computed"] == 300 - len(before)
    signal_all(victims, signal.SIGCONT)
    if whole:
        _, said = frozen.process.communicate(timeout=100)  # Ray may take its own for dead meanwhile
        assert frozen.process.returncode in (0, 1), said
    else:
        late = frozen.finish()
        assert late["computed"] == len(before)
        assert late["computed"] + late["landed_elsewhere"] == 300
    check_whole(store, 300)


def test_nothing_is_left_of_the_cluster_of_a_killed_extract(
    tmp_path: Path, drivers: list[Driver], full: None, tally: Tally
) -> None:
    store = noise_store(tmp_path, 300)
    driver = Driver(store, 0.1)
    drivers.append(driver)
    assert driver.started()
    until(lambda: len(driver.pids("actor")) == 2)
    os.kill(driver.process.pid, signal.SIGKILL)
    tally("kills", 1)
    driver.process.communicate()
    until(lambda: not driver.family())
    assert [f.detail for f in doctor(store) if f.check == "runs" and f.state == "warn"]


@pytest.mark.parametrize("victim", ["raylet", "gcs"])
def test_an_extract_whose_ray_is_killed_says_so_and_ends(
    victim: str, tmp_path: Path, drivers: list[Driver], full: None, tally: Tally
) -> None:
    store = noise_store(tmp_path, 300)
    driver = Driver(store, 1.0)
    drivers.append(driver)
    assert driver.started()
    until(lambda: len(committed(store)) > 0)
    [pid] = driver.pids(victim)
    os.kill(pid, signal.SIGKILL)
    tally("kills", 1)
    _, said = driver.process.communicate(timeout=60)
    assert driver.process.returncode == 1
    assert "ExtractError: Ray was killed on this machine; run the same command again, it continues" in said
    assert sql(store, "select state from runs where command = 'extract'") == [("failed",)]
    until(lambda: not driver.family())


def ferstore(store: Store, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ferstore.cli", "--store", store.url, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_writers_killed_at_any_moment_lose_nothing_and_leave_no_part(
    tmp_path: Path, full: None, level: str, tally: Tally
) -> None:
    """Each adds a data set of its own: all of it is there, or nothing."""
    kills = {"full": 6, "night": 40}[level]
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    store = init_store(str(tmp_path / "store"))
    folder = write(tmp_path / "noise", noise_files(40))
    words = ("ingest", "folder", str(folder), "--json", "--name")
    began = time.monotonic()
    whole = ferstore(store, *words, "first")
    whole.communicate(timeout=60)
    assert whole.returncode == 0
    length = time.monotonic() - began
    killed, tries, landed = 0, 0, 1
    while killed < kills:
        tries += 1
        assert tries < 10 * kills, "always too late"
        process = ferstore(store, *words, f"set-{tries}")
        time.sleep(chance.uniform(0.3, 1.0) * length)
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate()
        counts = dict(sql(store, "select dataset, count(*) from images group by dataset"))  # type: ignore[arg-type]
        assert set(counts.values()) == {40}, counts
        assert len(counts) >= landed, "what was committed is gone"
        landed = len(counts)
    for number in range(1, tries + 1):
        again = ferstore(store, *words, f"set-{number}")
        assert again.wait(60) == 0
        again.communicate()
    assert sql(store, "select count(*), count(distinct dataset || item_id) from images") == [(40 * (tries + 1),) * 2]
    assert [finding for finding in doctor(store) if finding.state == "fail"] == []
    tally("kills", killed)
