"""All of ferstore but network and training: ``python -m tests.benchmarks.scaling [--quick] [--only NAME ...]``.

Prints a line of JSON for each row. Without ``--quick`` at the aims' own sizes, ten million images included:
half an hour, and 8 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import asking, commits, planning, refusals, scale
from tests.benchmarks.row import Row

PARTS: Mapping[str, Callable[[Path, bool], Iterator[Row]]] = {
    "planning": planning.rows,
    "commits": commits.rows,
    "driver": scale.rows,
    "asking": asking.rows,
    "refusals": refusals.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ferstore-scaling-") as folder:
        for name in asked.only:
            (own := Path(folder) / name).mkdir()
            for row in PARTS[name](own, asked.quick):
                _say(row)


def _say(row: Row) -> None:
    found = {"ratio": round(row.ratio, 3), "passes": row.passes} if not row.missing else {}
    print(json.dumps({**asdict(row), **found}), flush=True)


if __name__ == "__main__":
    main()
