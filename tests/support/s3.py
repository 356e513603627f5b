"""A server that speaks S3, for tests: moto behind a door that counts requests and lets chosen ones fail.

What moto does not prove: consistency under load (its objects are in this process's memory), throttling as AWS does it,
real limits of parts and their number, signatures (it checks none), TLS, regions, and that several clients' conditional
writes are decided atomically: that is this door's lock, as S3 promises it and moto does not.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from socket import SHUT_RDWR
from typing import Any
from unittest import mock

BUCKET = "faces"


def missing() -> str | None:
    """Why there can be no server here; None where there can."""
    try:
        import moto.server  # noqa: F401
        import s3fs  # noqa: F401
    except ImportError as error:
        return f"no {error.name}: pip install -e '.[test]'"
    return None


class Kind(StrEnum):
    """What happens to a request."""

    BUSY = "503 SlowDown, not done"
    BROKEN = "500 InternalError, but done"
    RESET = "connection gone, not done"
    LOST = "connection gone, but done"
    CONFLICT = "409 ConditionalRequestConflict, not done"
    TAKEN = "412 without a word of which condition, not done"
    EXPIRED = "400 ExpiredToken, not done"


_ANSWERS = {
    Kind.BUSY: ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    Kind.BROKEN: ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    Kind.CONFLICT: ("409 Conflict", "ConditionalRequestConflict", "A conflicting operation occurred."),
    Kind.TAKEN: ("412 Precondition Failed", "PreconditionFailed", "A pre-condition did not hold."),
    Kind.EXPIRED: ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One that was made: its method, path and query, bytes sent, and whether it had a condition."""

    method: str
    path: str
    nbytes: int
    conditional: bool

    @property
    def changes(self) -> bool:
        """It may leave something behind."""
        return self.method in ("PUT", "POST", "DELETE")


@dataclass(slots=True)
class Server:
    """A server that runs.

    Attributes:
        url: where, for ``AWS_ENDPOINT_URL``.
        requests: those that were made since `watch`.
        ignores_conditions: it makes objects anew though it was told not to, as older stores do.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    ignores_conditions: bool = False
    _rule: Callable[[Request], Kind | None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs: no URL holds any of it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret-of-anyone",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    @contextmanager
    def watch(self, rule: Callable[[Request], Kind | None] | None = None) -> Iterator[list[Request]]:
        """Note requests, and let those fail of which the rule says how."""
        self.requests, self._rule = [], rule
        try:
            yield self.requests
        finally:
            self._rule = None

    def judge(self, request: Request) -> Kind | None:
        """Note a request; what is to happen to it."""
        with self._lock:
            self.requests.append(request)
            return self._rule(request) if self._rule else None


Rule = Callable[[Request], Kind | None]


def once(kind: Kind, number: int, which: Callable[[Request], bool]) -> Rule:
    """A rule: the ``number``-th (from 1) of the requests in question fails."""
    seen = 0

    def rule(request: Request) -> Kind | None:
        nonlocal seen
        seen += which(request)
        return kind if which(request) and seen == number else None

    return rule


def lasting(kind: Kind, number: int, which: Callable[[Request], bool]) -> Rule:
    """A rule: all of the requests in question fail from the ``number``-th on."""
    seen = 0

    def rule(request: Request) -> Kind | None:
        nonlocal seen
        seen += which(request)
        return kind if which(request) and seen >= number else None

    return rule


class _Door:
    """The WSGI application in front of moto."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.server: Server | None = None
        self._changing = threading.RLock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        assert self.server is not None
        path = environ["PATH_INFO"] + ("?" + query if (query := environ.get("QUERY_STRING")) else "")
        size, conditional = int(environ.get("CONTENT_LENGTH") or 0), "HTTP_IF_NONE_MATCH" in environ
        request = Request(environ["REQUEST_METHOD"], path, size, conditional)
        if self.server.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        kind = self.server.judge(request)
        if kind in (None, Kind.BROKEN, Kind.LOST):
            with self._changing:
                answer = list(self._application(environ, start if kind is None else _nowhere))
            if kind is None:
                return answer
        else:
            environ["wsgi.input"].read(size)
        if kind in (Kind.RESET, Kind.LOST):
            environ["werkzeug.socket"].shutdown(SHUT_RDWR)
            raise ConnectionResetError  # the server takes it for the client's going
        assert kind is not None
        status, code, message = _ANSWERS[kind]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


def _nowhere(*_: Any, **__: Any) -> Callable[[bytes], None]:
    return lambda _: None


@contextmanager
def serve() -> Iterator[Server]:
    """Start a server on a free port of this machine, with an empty bucket; see `missing` first."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Nothing: tests read `Server.requests`."""

        def log_error(self, *_: Any) -> None:
            """A reset is meant."""

    door = _Door(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    http.daemon_threads = True
    door.server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield door.server
    finally:
        http.shutdown()
        thread.join(10)
        http.server_close()


@contextmanager
def reached(server: Server) -> Iterator[None]:
    """Let this process and those it starts find the server, by boto's own environment variables."""
    import fsspec
    from s3fs import S3FileSystem

    with mock.patch.dict(os.environ, server.environment):
        S3FileSystem.clear_instance_cache()
        fs = fsspec.filesystem("s3")
        if not fs.exists(BUCKET):
            fs.mkdir(BUCKET)
        try:
            yield
        finally:
            S3FileSystem.clear_instance_cache()


def objects(below: str) -> dict[str, bytes]:
    """Every object below a URL, by its key from there on."""
    import fsspec

    fs = fsspec.filesystem("s3")
    prefix = re.sub("^s3://", "", below)
    return {path.removeprefix(prefix): fs.cat_file(path) for path in fs.find(prefix, refresh=True)}


def forget(below: str) -> None:
    """Remove every object below a URL."""
    import fsspec
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # of a test with another environment
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("s3").rm(below, recursive=True)
