"""A Ray head as its users start it: ``ray start --head``, in a process of its own, with ports and files of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from extract_driver import marked, signal_all
from ray._private import services as ray_services


@dataclass(frozen=True)
class Head:
    """A cluster of one machine.

    Attributes:
        gcs: ``HOST:PORT`` of its control service.
        client: address for Ray's client.
        jobs: URL of its job server; nothing answers there unless it was asked for.
        mark: what its processes have in their environment.
    """

    gcs: str
    client: str
    jobs: str
    mark: str


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    taken = [socket.socket() for _ in range(count)]
    for one in taken:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@contextmanager
def head(
    environment: Mapping[str, str],
    *,
    cpus: int = 1,
    jobs: bool = False,
    python: str = sys.executable,
    more: Callable[[str], Sequence[str]] = lambda _: (),
) -> Iterator[Head]:
    """A cluster that listens on this machine's network, or with a job server on loopback alone.

    Args:
        environment: variables of it and of all it starts.
        cpus: logical.
        jobs: with the job server.
        python: interpreter of the head and of its workers.
        more: options, of the address of its control service.
    """
    gcs, client, dashboard, agent = free_ports(4)
    mark = f"FERSTORE_TEST={uuid.uuid4().hex}"
    here = "127.0.0.1" if jobs else ray_services.get_node_ip_address()
    with tempfile.TemporaryDirectory(prefix="ray") as home:  # a short path: Ray makes sockets in it
        options = f"--port={gcs} --ray-client-server-port={client} --temp-dir={home}/t --num-cpus={cpus}"
        options += f" --include-dashboard={int(jobs)}"
        if jobs:
            options += f" --node-ip-address={here} --dashboard-host={here} --dashboard-port={dashboard}"
            options += f" --dashboard-agent-listen-port={agent}"
        process = subprocess.Popen(
            [
                python,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
                *options.split(),
                *more(f"{here}:{gcs}"),
            ],
            env={
                **os.environ,
                "HOME": home,
                "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
                "RAY_USAGE_STATS_ENABLED": "0",
                **environment,
                **dict([mark.split("=")]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "Ray runtime started" in line:
                    break
            else:
                pytest.fail("ray start did not")
            answers(here, dashboard if jobs else client)
            yield Head(f"{here}:{gcs}", f"ray://{here}:{client}", f"http://{here}:{dashboard}", mark)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            signal_all(list(marked(mark)), signal.SIGKILL)
            process.communicate()


def answers(host: str, port: int) -> None:
    """Wait for a server that Ray starts last."""
    for _ in range(300):
        with socket.socket() as tried:
            if tried.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"nothing listens at {host}:{port}")
