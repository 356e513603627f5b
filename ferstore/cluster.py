"""Reaching Ray: a cluster that runs, or one on this machine for the length of a command.

What crosses to workers and back is pickled by Ray, and both ends are ferstore: classes and functions of its own,
weights as NumPy arrays, and of the user's data only names (URLs, digests, file names) and numbers. Bytes of images,
listings and weights files are read where they are used, by parsers that run no code. Whoever could put a pickle of his
own in between could run any code as it is, which is why `ferstore.cluster_access` looks who else may reach the cluster.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from ferstore.cluster_access import let_in, on_loopback, own_token
from ferstore.errors import FerstoreError
from ferstore.resources import Resources

_ASKED_SECONDS = 2.0
_OBJECT_STORE = 512 << 20  # bytes; it holds the weights once, never features


@contextmanager
def cluster(
    address: str | None,
    *,
    cpus: int | None = None,
    insecure: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Resources]:
    """Connect to Ray, and take down what was started here.

    Args:
        address: an existing cluster (``auto``, ``host:port``, ``ray://host:port``); None uses the one this process is
            in (a submitted job), else starts one on this machine, as ``local`` does.
        cpus: logical CPUs of a cluster started here; None is the machine's.
        insecure: use a cluster that answers without a token, though others may reach it.
        warn: told of that.

    Raises:
        InputError: the cluster lets everybody in, or us not.
        FerstoreError: it cannot be reached or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # never a word home, unless the user turns it on
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # its remarks about itself are not the user's result
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with ExitStack() as stack:
        if not ray.is_initialized():
            if address == "local":
                stack.enter_context(own_token())
            elif (warning := stack.enter_context(let_in(address, insecure=insecure))) and warn:
                warn(f"warning: {warning}")
            stack.callback(ray.shutdown)
            _connect(address, cpus)
        yield resources_now(may_grow=address != "local")


def resources_now(*, may_grow: bool) -> Resources:
    """What the cluster that this process is connected to has now.

    Args:
        may_grow: machines may come.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive)
    return Resources(nodes, int(sum(node.get("memory", 0) for node in alive)), may_grow)


def _connect(address: str, cpus: int | None) -> None:
    import ray

    local = address == "local"
    terminate = signal.getsignal(signal.SIGTERM)
    _keep_off_stdout()
    options = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE, "include_dashboard": False} if local else {}
    try:
        with on_loopback() if local else nullcontext():
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options
            )
    except Exception as error:
        raise FerstoreError(
            f"cannot {'start Ray here' if local else 'reach the Ray cluster at ' + address}: {error}",
            hint="check --address, or leave it out to use this machine",
        ) from error
    if callable(terminate) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray puts its own there, which exits without saving anything


def machine_alive(node_id: str) -> bool:
    """Whether a machine is there. Ray takes many seconds to miss one, so the machine is asked, too."""
    import ray
    from ray.util.client import ray as client

    for node in ray.nodes():
        if node["NodeID"] == node_id:
            # Ray's client reaches the head alone.
            return bool(node["Alive"]) and (
                client.is_connected() or _listens(node["NodeManagerAddress"], node["NodeManagerPort"])
            )
    return False


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_ASKED_SECONDS):
            return True
    except OSError:
        return False


def died_with_machine(error: Exception) -> bool:
    """Whether Ray says of an actor that its machine was lost; of one not built yet nobody else knows where it was."""
    return "its node has died" in str(error)


def died() -> bool:
    """Whether the cluster that was started here has lost a process it cannot do without.

    Ray would end this process without a word when its raylet is gone, and a minute after its control service is.
    """
    from ray._private import worker

    node = worker._global_node
    lost = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return bool(lost & {"raylet", "gcs_server"})


def _keep_off_stdout() -> None:
    """Ray prints the raylet's remarks on dead workers to standard output, whatever ``log_to_driver`` says (2.60)."""
    from ray._private import worker

    worker._worker_logs_enabled = False
