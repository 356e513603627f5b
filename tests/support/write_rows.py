"""Processes that commit rows to two tables of a store at once: ``write_rows.py URL CATALOG WRITERS COMMITS``.

It says ``ready`` and begins at a line on its standard input; at the end it prints how often they planned. They are
forks of one process, which has imported ferstore once.
"""

from __future__ import annotations

import multiprocessing
import sys
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import write_rows
from ferstore.store.store import open_store


def write(url: str, catalog: str, writer: int, commits: int, begin: Any, planned: Any) -> None:
    """Each commit adds one row to ``images`` and one to ``extractors``, of one name.

    The plan does not look for its rows: that none is added twice is for the commit to see to.
    """
    store = open_store(url, catalog=catalog or None)
    begin.wait()
    for turn in range(commits):
        name, now = f"{writer}-{turn}", datetime.now(UTC)
        item = {"dataset": "d", "item_id": name, "image_id": name, "source_url": "u", "ingested_at": now}
        kind = dict.fromkeys(("weights", "weights_kind", "weights_sha256", "variant", "preprocessing"), "-")
        extractor = {**kind, "extractor_id": name, "precision": "float32", "map_dtype": "float16", "created_at": now}
        rows = {
            table: pa.Table.from_pylist([row], store.schemas[table].arrow())
            for table, row in (("images", item), ("extractors", extractor))
        }

        def plan(pin: Pin, rows: dict[str, pa.Table] = rows) -> list[Change]:
            with planned.get_lock():
                planned.value += 1
            return [Change(table, write_rows(store, table, new)) for table, new in rows.items()]

        transact(store, plan, {"writer": str(writer)})


def main(url: str, catalog: str, writers: int, commits: int) -> int:
    """Start them, let them begin together, and wait; 1 where one of them failed."""
    context = multiprocessing.get_context("fork")
    begin, planned = context.Barrier(writers + 1), context.Value("i", 0)
    processes = [
        context.Process(target=write, args=(url, catalog, n, commits, begin, planned), daemon=True)
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    print("ready", flush=True)
    sys.stdin.readline()
    begin.wait()
    for process in processes:
        process.join()
    print(planned.value)
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
