"""The process of a stranger's queries: the system bounds its memory, and what happens to it happens to it alone.

DuckDB's own limit does not count values in flight (one ``lpad`` can hold gigabytes), and it looks for an interruption
only between batches. So the bounds are the system's: this process may not grow beyond its memory, may not write a file
of a single byte, and is killed by the one that reads its rows when their time is over.

On stdout it writes an empty line when it is ready. Each query is one line of JSON on stdin, answered on stdout by a
line of JSON, an Arrow stream, and another line that says whether it takes one more. What ended it early is one line of
JSON on stderr. Queries that follow each other share nothing but this process: each has a DuckDB of its own.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, NoReturn

import duckdb
import pyarrow as pa

from ferstore.errors import FerstoreError
from ferstore.query.engine import Job, start, told

_OWN = 512 << 20  # of libraries, stacks of threads and a batch on its way
_LEFT = 256 << 20  # what queries may leave behind before the next one would have less than it may use


def main() -> None:
    """Serve queries, one after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the reader, which then ends this process
    rows = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints does not print between rows
    os.write(rows, b"\n")  # what it took to start is not the query's time
    out = os.fdopen(rows, "wb")
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    task = json.loads(tasks.get())
    held = _held("RssAnon")
    _bound(_held("VmData") + task["memory"])
    while True:
        _answer(Job.of(task["job"]), task["protocol"], out)
        again = _held("RssAnon") - held < _LEFT
        out.write(json.dumps({"again": again}).encode() + b"\n")
        out.flush()
        if not again:
            os._exit(0)  # nothing is left to tidy, and threads of a query need not end first
        task = json.loads(tasks.get())


def _listen(tasks: SimpleQueue[bytes]) -> None:
    """Hear of queries, and of the end of the reader, also amid a query."""
    for line in sys.stdin.buffer:
        tasks.put(line)
    os._exit(1)


def _answer(job: Job, protocol: str | None, out: IO[bytes]) -> None:
    try:
        _serve(job, protocol, out)
    except FerstoreError as error:
        _fail(type(error).__name__, error.problem, error.allowed, error.hint)
    except (duckdb.Error, pa.ArrowException, MemoryError) as error:
        found = told(error)
        _fail("QueryError", found.problem, found.allowed, found.hint)
    except OSError as error:  # Arrow's word for an error of the query that makes its batches
        _fail("QueryError", " ".join(str(error).split()), "", "mend the query")


def _serve(job: Job, protocol: str | None, out: IO[bytes]) -> None:
    filesystem = None
    if protocol is not None:
        import fsspec

        filesystem = fsspec.filesystem(protocol)
    connection, relation = start(job, filesystem)
    batches = relation.to_arrow_reader(2048)
    header = {"names": list(relation.columns), "types": [str(kind) for kind in relation.types]}
    out.write(json.dumps(header).encode() + b"\n")
    with pa.ipc.new_stream(out, batches.schema) as stream:
        out.flush()
        for batch in batches:
            stream.write_batch(batch)
            out.flush()
    connection.close()


def _held(what: str) -> int:
    """Bytes of memory of its own that this process has: ``VmData`` asked for, ``RssAnon`` in use."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    return next((int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith(what)), 0)


def _bound(data: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (data + _OWN,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a query writes no file; pipes are none
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _fail(kind: str, *words: str) -> NoReturn:
    told_of: dict[str, Any] = dict(zip(("problem", "allowed", "hint"), (word[:2000] for word in words), strict=True))
    os.write(2, b"\n" + json.dumps({"error": kind, **told_of}).encode())
    os._exit(1)
