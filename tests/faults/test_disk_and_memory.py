"""A disk without room and a machine without memory: one line, nothing torn, and the same command continues."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drawn import flat_picture, noise_files, sql, write
from extract_driver import Driver, check_whole, committed
from stub_network import POISON

from ferstore.sources.ingest import ingest
from ferstore.store.doctor import doctor
from ferstore.store.store import Store, init_store
from ferstore.store.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
Tally = Callable[[str, int], None]
IMAGES = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill the disk up to so many bytes."""
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(max(0, free - room)))


def ferstore(store: Store, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ferstore.cli", "--store", store.url, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def sound(store: Store) -> None:
    assert verify(store).sound
    assert [finding for finding in doctor(store) if finding.state == "fail"] == []


def test_a_full_disk_is_one_line_and_the_same_commands_continue(
    disk: Path, tmp_path: Path, level: str, tally: Tally
) -> None:
    store = init_store(str(disk / "store"))
    noise = write(tmp_path / "noise", noise_files(IMAGES))
    words = ("ingest", "folder", str(noise), "--name", "noise")
    rooms = {"ci": [0], "full": range(0, 200_000, 40_000), "night": range(0, 200_000, 4_000)}[level]
    failed = 0
    for room in rooms:
        leave(disk, room)
        done = ferstore(store, *words)
        (disk / "ballast").unlink()
        listed = sql(store, "select count(*) from images")
        if done.returncode == 0:
            assert listed == [(IMAGES,)]
            break
        failed += 1
        assert done.returncode == 1, done.stderr
        assert one_line(done.stderr), done.stderr
        assert listed in ([(0,)], [(IMAGES,)])  # with nothing but the run's own row left to write
        sound(store)
    assert failed, "the disk was never full"
    assert ferstore(store, *words).returncode == 0
    assert sql(store, "select count(*), count(distinct item_id) from images") == [(IMAGES, IMAGES)]
    tally("full disks", failed)


def test_an_extract_on_a_full_disk_keeps_what_is_done_and_continues(
    full: None, disk: Path, tmp_path: Path, level: str, tally: Tally
) -> None:
    store = init_store(str(disk / "store"))
    ingest(store, "folder", str(write(tmp_path / "noise", noise_files(IMAGES))))
    failed = 0
    rooms = {"full": [0, 150_000], "night": range(0, 600_000, 30_000)}[level]
    before = committed(store)
    for room in rooms:
        leave(disk, room)
        driver = Driver(store, 0.0)
        try:
            _, said = driver.process.communicate(timeout=120)
        finally:
            driver.end()
        (disk / "ballast").unlink()
        if driver.process.returncode == 0:
            break
        failed += 1
        assert driver.process.returncode == 1
        assert "no space left" in said.splitlines()[-1].lower() or "disk is full" in said.splitlines()[-1].lower(), said
        assert "Traceback" not in said
        assert committed(store) >= before
        before = committed(store)
        sound(store)
    assert failed, "the disk was never full"
    driver = Driver(store, 0.0)
    try:
        report = driver.finish()
    finally:
        driver.end()
    assert report["present"] + report["computed"] == IMAGES
    check_whole(store, IMAGES)
    tally("full disks", failed)


def one_line(said: str) -> bool:
    lines = said.splitlines()
    text = lines[-1].lower()
    return len(lines) == 1 and ("no space left" in text or "disk is full" in text) and "unexpected" not in text


class SmallMachine:
    """What ``/proc/meminfo`` says to an extract and its cluster: little memory, less what its actors take.

    The memory is taken for real, but the machine that is short of it is made up: nobody else is.
    """

    TOTAL = 2000  # MiB
    THRESHOLD = 0.8

    def __init__(self, folder: Path) -> None:
        self.file = folder / "meminfo"
        self.taken = 400  # MiB, by others than the actors
        self._end = threading.Event()
        self._driver: Driver | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.say()

    def say(self) -> None:
        actors = self._driver.pids("actor") if self._driver else []
        used = self.taken + sum(map(resident, actors))
        free = max(self.TOTAL - used, 0)
        text = f"MemTotal: {self.TOTAL << 10:>12} kB\nMemFree: {free << 10:>12} kB\nMemAvailable: {free << 10:>12} kB\n"
        text += "".join(f"{name}: {0:>12} kB\n" for name in ("Buffers", "Cached", "SReclaimable", "Shmem"))
        text += "".join(f"{name}: {0:>12} kB\n" for name in ("SwapTotal", "SwapFree", "Active", "Inactive"))
        with self.file.open("r+b" if self.file.exists() else "wb") as stream:
            stream.write(text.encode())

    def run(self, store: Store, *options: str) -> Driver:
        # Without control groups, too: Ray would see the memory that other processes of a container take.
        inside = 'mount -t tmpfs none /sys/fs/cgroup && mount --bind "$0" /proc/meminfo && exec "$@"'
        driver = Driver(
            store,
            0.0,
            *options,
            wrapped=["unshare", "--mount", "sh", "-c", inside, str(self.file)],
            RAY_memory_usage_threshold=str(self.THRESHOLD),
            RAY_memory_monitor_refresh_ms="100",
        )
        self._driver = driver
        self._thread.start()
        return driver

    def _keep(self) -> None:
        while not self._end.wait(0.05):
            self.say()

    def end(self) -> None:
        self._end.set()
        if self._driver:
            self._driver.end()


def resident(pid: int) -> int:
    """MiB that a process holds in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, IndexError):
        return 0


@pytest.fixture
def small_machine(tmp_path: Path) -> Iterator[SmallMachine]:
    machine = SmallMachine(tmp_path)
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", str(machine.file), "/proc/meminfo"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"a small machine cannot be made up here: {tried.stderr.strip()}")
    yield machine
    machine.end()


def poisoned_store(folder: Path, images: int) -> Store:
    store = init_store(str(folder / "store"))
    files = {**noise_files(images), "sad/hungry.png": flat_picture(POISON)}
    ingest(store, "folder", str(write(folder / "noise", files)))
    return store


def test_an_image_that_takes_all_memory_is_quarantined_and_no_other(
    full: None, small_machine: SmallMachine, tmp_path: Path
) -> None:
    store = poisoned_store(tmp_path, IMAGES)
    driver = small_machine.run(store, "--hungry", str(1200 << 20))
    out, said = driver.process.communicate(timeout=400)  # several deaths, and an actor built after each
    assert driver.process.returncode == 0, said
    assert "a machine ran out of memory: 1 actors from now on" in said
    report = json.loads(out.splitlines()[-1])
    assert (report["computed"], report["quarantined"]) == (IMAGES, 1)
    assert sql(store, "select item, error from quarantine") == [
        ("sad/hungry.png", "the process computing it died 2 times")
    ]
    assert len(committed(store)) == IMAGES


def test_a_machine_whose_memory_is_gone_ends_the_job_and_says_so(
    full: None, small_machine: SmallMachine, tmp_path: Path
) -> None:
    store = poisoned_store(tmp_path, IMAGES)
    driver = small_machine.run(store)
    assert driver.started()
    small_machine.taken = 1900
    _, said = driver.process.communicate(timeout=120)
    assert driver.process.returncode == 1
    assert "too little memory" in said.splitlines()[-1]
    assert "Traceback" not in said
