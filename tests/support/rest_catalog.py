"""An Iceberg REST catalog for tests: the specification's requests that ferstore makes, over PyIceberg's SQL catalog.

No package of PyPI or Debian is a REST catalog that runs here (the Java ones are not packaged), so this is the smallest
honest one: names and bodies are the specification's, requirements are checked and metadata is written by PyIceberg's
own code on this side of HTTP. What it does not prove: that a server of another maker reads what PyIceberg sends as
PyIceberg does, its authentication, vended credentials, views of tables through caches, or pages of a long listing.
https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.table import CommitTableRequest, Table
from sqlalchemy import update
from sqlalchemy.orm import Session

_STATUS = {
    NoSuchNamespaceError: 404,
    NoSuchTableError: 404,
    NamespaceAlreadyExistsError: 409,
    TableAlreadyExistsError: 409,
    CommitFailedException: 409,
    ValueError: 400,
}
_ENDPOINTS = [
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
]
_TOGETHER = "POST /v1/{prefix}/transactions/commit"


@dataclass
class RestServer:
    """A server that runs.

    Attributes:
        url: where.
        together: it offers commits of several tables at once.
        token: what it asks for, where it does.
        requests: method and path of what was asked.
        fault: told of each request; a status it returns is the answer, given before the request is done, or after it
            where it is negative.
    """

    url: str
    catalog: SqlCatalog
    together: bool
    token: str | None
    requests: list[str] = field(default_factory=list)
    fault: Callable[[str, str], int | None] = lambda method, path: None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        parts = path.split("?")[0].removeprefix("/v1/").split("/")
        match method, *parts:
            case "GET", "config":
                return 200, {
                    "defaults": {},
                    "overrides": {},
                    "endpoints": _ENDPOINTS + [_TOGETHER] * self.together,
                }
            case "POST", "namespaces":
                said = json.loads(body)
                self.catalog.create_namespace(tuple(said["namespace"]))
                return 200, said
            case "GET", "namespaces", namespace, "tables":
                found = self.catalog.list_tables(namespace)
                return 200, {"identifiers": [{"namespace": list(name[:-1]), "name": name[-1]} for name in found]}
            case "POST", "namespaces", namespace, "tables":
                asked = CreateTableRequest.model_validate_json(body)
                made = self.catalog.create_table(
                    (namespace, asked.name), asked.table_schema, asked.location, properties=asked.properties
                )
                return 200, _table(made)
            case "GET", "namespaces", namespace, "tables", name:
                return 200, _table(self.catalog.load_table((namespace, name)))
            case "POST", "namespaces", namespace, "tables", name:
                change = CommitTableRequest.model_validate_json(body)
                table = self.catalog.load_table((namespace, name))
                done = self.catalog.commit_table(table, change.requirements, change.updates)
                return 200, json.loads(done.model_dump_json())
            case "POST", "transactions", "commit" if self.together:
                changes = json.loads(body)["table-changes"]
                self._commit([CommitTableRequest.model_validate(change) for change in changes])
                return 204, None
        return 404, {"error": {"message": "no such endpoint", "type": "NoSuchEndpoint", "code": 404}}

    def _commit(self, changes: list[CommitTableRequest]) -> None:
        staged = []
        for change in changes:
            name = (*change.identifier.namespace.root, change.identifier.name)
            now = self.catalog.load_table(name)
            after = self.catalog._update_and_stage_table(now, name, change.requirements, change.updates)
            self.catalog._write_metadata(after.metadata, after.io, after.metadata_location)
            staged.append((name, now, after))
        with Session(self.catalog.engine) as session:
            for name, now, after in staged:
                swapped = session.execute(
                    update(IcebergTables)
                    .where(IcebergTables.table_name == name[-1])
                    .where(IcebergTables.metadata_location == now.metadata_location)
                    .values(metadata_location=after.metadata_location)
                )
                if swapped.rowcount != 1:  # type: ignore[attr-defined]
                    raise CommitFailedException(f"{name} was changed")
            session.commit()


def _table(table: Table) -> Any:
    return {
        "metadata-location": table.metadata_location,
        "metadata": json.loads(table.metadata.model_dump_json()),
        "config": {},
    }


@contextmanager
def serve(folder: Path, *, together: bool = False, token: str | None = None) -> Iterator[RestServer]:
    """Start a server on a free port of this machine, with its tables' places in a SQLite file in a folder."""
    lock = threading.Lock()  # SQLite, and one commit at a time

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = self._answer(body)
            text = b"" if said is None else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _serve  # noqa: N815  http.server's names

        def _answer(self, body: bytes) -> tuple[int, Any]:
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                return 401, _error(401, "NotAuthorized")
            server.requests.append(f"{self.command} {self.path}")
            fault = server.fault(self.command, self.path) or 0
            if fault > 0:
                return fault, _error(fault, "Fault")
            with lock:
                try:
                    answer = server.answer(self.command, self.path, body)
                except tuple(_STATUS) as error:
                    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
                    return status, _error(status, type(error).__name__, str(error))
                except Exception as error:
                    return 501, _error(501, type(error).__name__, repr(error))  # a fault of this file: not tried again
            return (-fault, _error(-fault, "Fault")) if fault else answer

        def log_message(self, *_: Any) -> None:
            """Nothing: tests read `RestServer.requests`."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    catalog = SqlCatalog(
        "server",
        uri=f"sqlite:///{folder}/rest.db?check_same_thread=false",
        warehouse=f"file://{folder}",
        **{"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"},
    )
    server = RestServer(f"http://127.0.0.1:{http.server_port}", catalog, together, token)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join(10)
        http.server_close()
        catalog.engine.dispose()


def _error(status: int, kind: str, message: str = "") -> Any:
    return {"error": {"message": message or kind, "type": kind, "code": status}}
