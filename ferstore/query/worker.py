"""The process of one stranger's query: the system bounds its memory, and what happens to it happens to it alone.

DuckDB's own limit does not count values in flight (one ``lpad`` can hold gigabytes), and it looks for an interruption
only between batches. So the bounds are the system's: this process may not grow beyond its memory, may not write a file
of a single byte, and is killed by the one that reads its rows when their time is over.

It reads one line of JSON on stdin. On stdout it writes an empty line when it is ready, one of JSON, then an Arrow
stream. What ended it early is one line of JSON on stderr.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pyarrow as pa

from ferstore.errors import FerstoreError
from ferstore.query.engine import Job, start, told

_OWN = 512 << 20  # of libraries, stacks of threads and a batch on its way


def main() -> None:
    """Serve one query."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the reader, which then ends this process
    rows = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints does not print between rows
    os.write(rows, b"\n")  # what it took to start is not the query's time
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)  # started ahead, and not needed
    threading.Thread(target=_end_with_reader, daemon=True).start()
    task = json.loads(line)
    _bound(task["memory"])
    try:
        _serve(Job.of(task["job"]), task["protocol"], rows)
    except FerstoreError as error:
        _fail(type(error).__name__, error.problem, error.allowed, error.hint)
    except (duckdb.Error, pa.ArrowException, MemoryError) as error:
        found = told(error)
        _fail("QueryError", found.problem, found.allowed, found.hint)
    except OSError as error:  # Arrow's word for an error of the query that makes its batches
        _fail("QueryError", " ".join(str(error).split()), "", "mend the query")
    os._exit(0)  # nothing is left to tidy, and threads of a query need not end first


def _serve(job: Job, protocol: str | None, rows: int) -> None:
    filesystem = None
    if protocol is not None:
        import fsspec

        filesystem = fsspec.filesystem(protocol)
    _, relation = start(job, filesystem)
    batches = relation.to_arrow_reader(2048)
    out = os.fdopen(rows, "wb")
    header = {"names": list(relation.columns), "types": [str(kind) for kind in relation.types]}
    out.write(json.dumps(header).encode() + b"\n")
    with pa.ipc.new_stream(out, batches.schema) as stream:
        out.flush()
        for batch in batches:
            stream.write_batch(batch)
            out.flush()
    out.close()


def _bound(memory: int) -> None:
    grown = 0
    status = Path("/proc/self/status")
    if status.is_file():
        grown = next(
            int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmData")
        )
    resource.setrlimit(resource.RLIMIT_DATA, (grown + memory + _OWN,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a query writes no file; pipes are none
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_reader() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _fail(kind: str, *words: str) -> NoReturn:
    told_of: dict[str, Any] = dict(zip(("problem", "allowed", "hint"), (word[:2000] for word in words), strict=True))
    os.write(2, b"\n" + json.dumps({"error": kind, **told_of}).encode())
    os._exit(1)
