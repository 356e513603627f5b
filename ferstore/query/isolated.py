"""The reading end of queries that run in a process of their own. See `ferstore.query.worker`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any, NoReturn

import pyarrow as pa

from ferstore.errors import CorruptionError, FerstoreError, QueryError
from ferstore.query.engine import Job
from ferstore.query.limits import Limits

_ERRORS: dict[str, type[FerstoreError]] = {"QueryError": QueryError, "CorruptionError": CorruptionError}
_CODE = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from ferstore.query.worker import main; main()"
_START_SECONDS = 120.0  # for its imports, on a machine that is busy
_END_SECONDS = 30  # for a process that has said all it had to say
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
_ahead: list[Process] = []


def start_ahead() -> None:
    """Start the process of the next query on a local store now, so that its imports overlap with what comes before."""
    if not _ahead:
        _ahead.append(Process(None))


class Process:
    """A process for queries, one at a time, which ends when nobody holds this any more."""

    def __init__(self, protocol: str | None) -> None:
        self.popen = _start(protocol)
        self.ready = False
        pipes = self.popen.stdin, self.popen.stdout, self.popen.stderr
        if pipes[0] is None or pipes[1] is None or pipes[2] is None:
            raise ValueError("a process without pipes")
        self.tasks, self.rows, self.said = pipes[0], pipes[1], pipes[2]
        self.end = weakref.finalize(self, _end, self.popen, [self.tasks, self.rows, self.said])

    @staticmethod
    def take(protocol: str | None) -> Process:
        """The one that was started ahead, else a new one."""
        while _ahead and protocol is None:
            if (ready := _ahead.pop()).popen.poll() is None:
                return ready
        return Process(protocol)


def _end(popen: subprocess.Popen[bytes], pipes: list[IO[bytes]]) -> None:
    popen.kill()
    for pipe in pipes:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    popen.wait()


def _start(protocol: str | None) -> subprocess.Popen[bytes]:
    """Only what reaches a store elsewhere needs this process's environment, where its credentials are."""
    environment = dict(os.environ) if protocol else {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    return subprocess.Popen(  # noqa: S603  this interpreter
        [sys.executable, "-I", "-c", _CODE, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=os.path.abspath(os.sep) if not protocol else None,
        env=environment,
    )


class Remote:
    """A query at work in its own process: its columns, and its rows as they come.

    Args:
        limits: what it may use.
        protocol: of the store's URL where it is not local.
        process: one that served a query with the same limits; a new one otherwise.
        keep: takes the process when all rows are read, for the next query; without it, it ends then.
    """

    def __init__(
        self,
        limits: Limits,
        protocol: str | None,
        process: Process | None = None,
        keep: Callable[[Process], None] | None = None,
    ) -> None:
        self._limits = limits
        self._protocol = protocol
        self._left: float | None = _START_SECONDS
        self._process = process or Process.take(protocol)
        self._keep = keep
        self._done = False

    def begin(self, job: Job) -> tuple[list[str], list[str]]:
        """Send the query; returns its columns' names and types.

        Raises:
            QueryError: it is refused, fails, or reaches a limit.
            CorruptionError: a data file of the store is missing or no Parquet file.
        """
        task = {"job": asdict(job), "protocol": self._protocol, "memory": self._limits.memory}
        try:
            self._process.tasks.write(json.dumps(task).encode() + b"\n")
            self._process.tasks.flush()
        except BrokenPipeError:
            self._check_end()
        self._pipe = io.BufferedReader(_Pipe(self), 1 << 20)
        if not self._process.ready:
            self._process.ready = self._pipe.readline() == b"\n"
        self._left = self._limits.seconds
        header = self._pipe.readline()
        if not header.endswith(b"\n"):
            self._check_end()
        columns: dict[str, Any] = json.loads(header)
        return columns["names"], columns["types"]

    def reader(self) -> pa.RecordBatchReader:
        """The rows, a batch at a time; errors as in `begin`."""
        try:
            stream = pa.ipc.open_stream(self._pipe)
        except (pa.ArrowException, OSError):
            self._check_end()
        return pa.RecordBatchReader.from_batches(stream.schema, self._batches(stream))

    def _batches(self, stream: pa.RecordBatchReader) -> Any:
        while True:
            try:
                batch = stream.read_next_batch()
            except StopIteration:  # also where the stream was cut at the border of a batch
                self._finish()
                return
            except (pa.ArrowException, OSError):  # cut within a batch
                self._check_end()
            yield batch

    def _finish(self) -> None:
        """All rows are read: let the next query have the process, or end it."""
        said = self._pipe.readline()
        if not said.endswith(b"\n"):
            self._check_end()
        self._done = True
        if self._keep and json.loads(said)["again"]:
            self._keep(self._process)
        else:
            self._process.end()

    def wait(self) -> None:
        """Until there is something to read.

        Raises:
            QueryError: not within the time that is left.
        """
        began = time.monotonic()
        ready, _, _ = select.select([self._process.rows], [], [], self._left)
        if self._left is not None:
            self._left = max(0.0, self._left - (time.monotonic() - began))
        if not ready:
            self.close()
            raise QueryError(
                f"the query was stopped after {self._limits.seconds:g} seconds",
                hint="ask for less, or give it longer with --timeout SECONDS (Limits(seconds=...))",
            )

    def read(self, size: int) -> bytes:
        """Up to so many bytes."""
        return os.read(self._process.rows.fileno(), size)

    def _check_end(self) -> NoReturn:
        """Raise what ended the process."""
        try:
            code = self._process.popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # it goes on writing what nobody understands
            self.close()
            raise QueryError("the query's process did not end", hint="run it again") from None
        said = self._process.said.read()
        try:
            error = json.loads(said.splitlines()[-1])
            kind = _ERRORS[error.pop("error")]
        except (ValueError, KeyError, IndexError):
            raise QueryError(
                f"the query ended its process ({_cause(code)}), most likely for want of memory or by nesting too deep",
                hint="ask for less, or raise --memory (Limits)",
            ) from None
        raise kind(**error)

    def close(self) -> None:
        """End the process, whatever it is doing; not that of a query whose rows are all read."""
        if not self._done:
            self._process.end()


class _Pipe(io.RawIOBase):
    """What the process writes, waited for no longer than it may take."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._remote.wait()
        data = self._remote.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _cause(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"code {code}"
    except ValueError:
        return f"code {code}"
