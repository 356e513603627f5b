"""A PostgreSQL server for tests, in a temporary folder, reached by a socket there and a password, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def missing() -> str | None:
    """Why there can be no server here; None where there can."""
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        return "no psycopg2: pip install 'ferstore[postgres]'"
    if _program("initdb") is None:
        return "no PostgreSQL server: install Debian's postgresql"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    return None


@dataclass(frozen=True)
class Server:
    """A server that runs; the password is in no URL but those it gives out."""

    folder: Path
    password: str

    def url(self, database: str) -> str:
        """Of one of its databases, as a catalog."""
        return f"postgresql://ferstore:{self.password}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """URL of a new, empty one."""
        name = f"d{secrets.token_hex(6)}"
        self.execute(f"create database {name}")
        return self.url(name)

    def end_sessions(self, url: str) -> int:
        """End every session in a database, as a restart of the server does; how many there were."""
        name = url.partition("@/")[2].partition("?")[0]
        ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = %s"
        return int(self.execute(ended, name)[0][0])

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement outside of any transaction."""
        import psycopg2

        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()


@contextmanager
def server() -> Iterator[Server]:
    """Start a server; see `missing` first."""
    user = _user() if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 bytes
    password = secrets.token_hex(8)
    secret = folder / "password"
    secret.write_text(password)
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(secret, user)
    data = folder / "data"
    make = ["-D", data, "-U", "ferstore", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "-N"]
    serve = ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
    program = _program("initdb")
    assert program is not None
    process = None
    try:
        subprocess.run([program, *make], user=user, cwd=folder, check=True, capture_output=True)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_program("postgres") or "", *serve], user=user, cwd=folder, stdout=log, stderr=log
            )
        found = Server(folder, password)
        _wait(found, process)
        yield found
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # ends sessions and leaves
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(found: Server, process: subprocess.Popen[bytes]) -> None:
    import psycopg2

    until = time.monotonic() + 60
    while True:
        try:
            found.execute("select 1")
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError((found.folder / "log").read_text()) from None
            time.sleep(0.05)
        else:
            return


def _program(name: str) -> str | None:
    """The newest of Debian's, else the one on PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    return str(versions[-1]) if versions else shutil.which(name)


def _user() -> str | None:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)
