"""Three machines as far as the network goes: a network namespace each, and a cable that is cut while they extract."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from drawn import noise_store, sql
from extract_driver import Driver, check_whole, committed, marked, signal_all, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

TOKEN = secrets.token_hex(32)
MACHINES = 3


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Network:
    """Namespaces that a switch in one of their own joins; this machine's network has no part in it.

    Machine N (from 1) has the address 10.77.0.N, and the first one the head of a Ray cluster.
    """

    folder: Path
    mark: str = field(default_factory=lambda: f"FERSTORE_TEST={uuid.uuid4().hex}")
    name: str = field(default_factory=lambda: f"fs{os.getpid():x}")
    made: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def build(self) -> None:
        """Make namespaces and cables.

        Raises:
            OSError: they cannot be had here.
        """
        switch = self._namespace("sw")
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        for number in range(1, MACHINES + 1):
            machine = self._namespace(str(number))
            port = ["peer", "name", f"port{number}", "netns", switch]
            ip("link", "add", "eth0", "netns", machine, "type", "veth", *port)
            ip("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
            ip("-n", machine, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", machine, "link", "set", device, "up")

    def _namespace(self, suffix: str) -> str:
        name = f"{self.name}-{suffix}"
        ip("netns", "add", name)
        self.made.append(name)
        return name

    def inside(self, number: int) -> list[str]:
        """What runs a command on a machine."""
        return ["ip", "netns", "exec", f"{self.name}-{number}"]

    @property
    def address(self) -> str:
        """Of the cluster."""
        return "10.77.0.1:6379"

    @property
    def environment(self) -> dict[str, str]:
        """Of all that talks to it."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self, number: int) -> None:
        """``ray start`` on a machine, with one logical GPU and files of its own."""
        which = ["--head", "--port=6379", "--include-dashboard=0"] if number == 1 else [f"--address={self.address}"]
        options = [f"--node-ip-address=10.77.0.{number}", "--num-cpus=1", "--num-gpus=1"]
        options += [f"--temp-dir={self.folder / str(number)}", "--object-store-memory=100000000", "--block"]
        with (self.folder / f"{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [*self.inside(number), sys.executable, "-m", "ray.scripts.scripts", "start", *which, *options],
                env={**os.environ, **self.environment, **dict([self.mark.split("=")])},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self.started.append(process)
        until(lambda: b"Ray runtime started" in (self.folder / f"{number}.log").read_bytes(), 60)

    def cut(self, number: int) -> None:
        """Pull a machine's cable."""
        ip("-n", f"{self.name}-sw", "link", "set", f"port{number}", "down")

    def end(self) -> None:
        """Leave nothing."""
        signal_all(list(marked(self.mark)), signal.SIGKILL)
        for process in self.started:
            process.kill()
            process.wait()
        for name in self.made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # short: sockets go there
        made = Network(Path(folder))
        try:
            try:
                made.build()
            except OSError as error:
                pytest.skip(f"no network namespaces here: {error}")
            for number in range(1, MACHINES + 1):
                made.start(number)
            yield made
        finally:
            made.end()


def test_a_machine_whose_cable_is_cut_costs_its_shards_only(
    night: None, network: Network, tmp_path: Path, tally: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    images = 400
    store = noise_store(tmp_path, images)
    options = ("--address", network.address, "--gpus", "1", "--actors", "auto")
    driver = Driver(store, 0.3, *options, wrapped=network.inside(1), **network.environment)
    try:
        assert driver.started()
        until(lambda: len(committed(store)) >= 48)
        network.cut(3)
        began = time.monotonic()
        tally("cables cut", 1)
        before = committed(store)
        assert len(before) < images - 100, "it was nearly done"
        report = driver.finish(200)
    finally:
        driver.end()
    assert (report["computed"], report["quarantined"]) == (images, 0)
    assert committed(store) >= before
    check_whole(store, images)
    [(details,)] = sql(store, "select details from runs where command = 'extract'")
    nodes = json.loads(str(details))["nodes"]
    assert len(nodes) == MACHINES
    assert all(counts["shards"] for counts in nodes.values())
    with capsys.disabled():
        print(f"\n{time.monotonic() - began:.0f} s from the cut to the end: {[*nodes.values()]}")
