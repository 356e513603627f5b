"""Who may use a Ray cluster: its token, and what answers without one.

Whoever reaches a Ray cluster can run any code on it, and read whatever its jobs read. So a cluster of this machine
listens on loopback and to a token of its own, made for the command and told to its processes by their environment
alone; and of a cluster that is there already it is asked, before anything is sent, whether it answers a stranger.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ferstore.errors import FerstoreError, InputError

_SECONDS = 10.0
_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_CLIENT = "ray://"
# A request that each kind of server refuses a stranger, with no argument.
_ASKED = {False: "/ray.rpc.NodeInfoGcsService/GetClusterId", True: "/ray.rpc.RayletDriver/ClusterInfo"}


@contextmanager
def own_token() -> Iterator[None]:
    """A fresh token for clusters started meanwhile, whatever the user's own is."""
    with _environment({_MODE: "token", _TOKEN: secrets.token_hex(32)}):
        yield


@contextmanager
def on_loopback() -> Iterator[None]:
    """Clusters started meanwhile listen on 127.0.0.1, as Ray has it where several machines are not supported."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def let_in(address: str, *, insecure: bool) -> Iterator[str | None]:
    """Have the token that a running cluster asks for used meanwhile.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        insecure: go on where strangers could, too.

    Yields:
        A warning where the cluster is open to whoever reaches it.

    Raises:
        InputError: it lets everybody in, or us not.
        FerstoreError: nothing answers there.
    """
    client = address.startswith(_CLIENT)
    place = address.removeprefix(_CLIENT) if client else _gcs(address)
    if _answers(place, client, "disabled"):
        warning = None
        if not _loopback(place):
            warning = (
                f"the Ray cluster at {place} answers without a token: whoever reaches it can run code and read data"
            )
            if not insecure:
                raise InputError(
                    warning,
                    hint="start it with RAY_AUTH_MODE=token (ray get-auth-token --generate), or give "
                    "--insecure-cluster where nobody else can reach it",
                )
        yield warning
        return
    with _environment({_MODE: "token"}):
        if not _has_token():
            raise InputError(
                f"the Ray cluster at {place} asks for a token, and there is none here",
                hint="set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's",
            )
        if not _answers(place, client, "token"):
            raise InputError(
                f"the Ray cluster at {place} refuses the token given here",
                hint="set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's",
            )
        yield None


def _has_token() -> bool:
    from ray.exceptions import AuthenticationError

    try:
        return bool(_raylet().AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError:  # RAY_AUTH_TOKEN_PATH names no file, or an empty one
        return False


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while, seen by Ray, which reads them once."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        _read_again()
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    _raylet().Config.initialize("")
    _raylet().AuthenticationTokenLoader.instance().reset_cache()


def _raylet() -> Any:
    from ray import _raylet

    return _raylet


def _gcs(address: str) -> str:
    """Where Ray would connect to; on Linux it takes this machine's own address for loopback."""
    from ray._private import services

    try:
        found = services.canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"no Ray cluster at {address}: {error}", allowed="auto, HOST:PORT, ray://HOST:PORT") from error
    return str(found)


def _loopback(place: str) -> bool:
    """Whether all addresses of a host are this machine's own, which nobody else reaches."""
    host = place.rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise FerstoreError(f"cannot find the Ray cluster at {place}: {error}", hint="check --address") from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def _answers(place: str, client: bool, mode: str) -> bool:
    """Whether a request is taken, with the token of here or (mode ``disabled``) without; False where it must have one.

    Raises:
        FerstoreError: nothing is there, or no Ray cluster.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    with _environment({_MODE: mode}), init_grpc_channel(place) as channel:
        try:
            channel.unary_unary(_ASKED[client])(b"", timeout=_SECONDS)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return False
            if code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.CANCELLED,
            ):
                raise FerstoreError(
                    f"no Ray cluster answers at {place} ({code.name.lower()})",
                    hint="check --address, or leave it out to use this machine",
                ) from error
    return True
