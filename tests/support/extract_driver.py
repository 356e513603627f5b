"""A process that extracts, with its Ray cluster, to be watched and killed; and what must hold after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from drawn import sql

from ferstore.store.doctor import doctor
from ferstore.store.rows import read_rows
from ferstore.store.store import Store
from ferstore.store.verify import verify

SUPPORT = Path(__file__).parent
Key = tuple[str, str, str]
_WORDS = {"actor": "ray::_Host", "raylet": "/raylet/raylet", "gcs": "/gcs/gcs_server"}


def marked(mark: str) -> dict[int, str]:
    """Command line of every process, but this one, that has a mark in its environment."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and folder.name != str(os.getpid()):
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue  # it ended, or is not ours
    return found


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def until(true: Callable[[], object], seconds: float = 150) -> None:
    """Wait for something to be true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


class Driver:
    """One process that extracts with the stub network.

    Args:
        store: to fill.
        pause: seconds a batch takes longer.
        options: more of ``stub_extract.py``.
        wrapped: a command that runs it.
        environment: variables of it and of all it starts.
    """

    def __init__(
        self, store: Store, pause: float, *options: str, wrapped: Sequence[str] = (), **environment: str
    ) -> None:
        self.mark = f"FERSTORE_TEST={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        paths = [str(SUPPORT), str(SUPPORT.parents[1])]
        self.process = subprocess.Popen(
            [*wrapped, sys.executable, str(SUPPORT / "stub_extract.py"), store.url, str(pause), *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), name: value, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def family(self) -> dict[int, str]:
        """Command line of this process and of every one that it started."""
        return marked(self.mark)

    def pids(self, kind: str) -> list[int]:
        """Processes of a kind: driver, actor, raylet or gcs."""
        if kind == "driver":
            return [self.process.pid]
        return [pid for pid, line in self.family().items() if _WORDS[kind] in line.split(" -")[0]]

    def started(self) -> bool:
        """Wait until shards are handed out; False if it ended before."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "started\n"

    def finish(self, seconds: float = 100) -> dict[str, int]:
        """Wait for the end, which must be a good one, and return the account."""
        out, err = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, err
        report: dict[str, int] = json.loads(out.splitlines()[-1])
        return report

    def end(self) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            self.process.kill()
        signal_all(list(self.family()), signal.SIGKILL)
        self.process.communicate()


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
    """Every image once in both layers, each file as its digest says."""
    assert len(committed(store)) == images
    query = "select count(*), count(distinct image_id) from {} semi join images using (image_id)"
    for layer in ("pool_3", "mixed_10"):
        assert sql(store, query.format(layer)) == [(images, images)]
    report = verify(store)
    assert report.sound
    assert report.rows["pool_3"] == report.rows["mixed_10"] == images
    assert [finding for finding in doctor(store) if finding.state == "fail"] == []
