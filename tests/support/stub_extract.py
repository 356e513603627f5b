"""A process that extracts with the stub network, to be killed: ``python stub_extract.py STORE PAUSE [OPTION ...]``.

Prints ``started`` once actors are asked for, and at the end the account as JSON. Every shard is a commit of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from stub_network import stub_factory

from ferstore.errors import FerstoreError
from ferstore.extract import committer, pool
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import extract
from ferstore.store.store import open_store


class _Told:
    def start(self, what: str, total: int | None) -> None:
        print("started", flush=True)

    def advance(self, items: int) -> None: ...

    def note(self, text: str) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("pause", type=float)
    parser.add_argument("--address")
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("--actors", default="2", help="a number, or auto")
    parser.add_argument("--hungry", type=int, default=0, help="bytes that a poisonous picture takes")
    parser.add_argument("--patience", type=float, default=pool.PATIENCE)
    given = parser.parse_args()
    committer._GROUP = 1
    pool.PATIENCE = given.patience
    try:
        report = extract(
            open_store(given.url),
            ExtractRequest(
                weights="random",
                batch_size=8,
                actors=None if given.actors == "auto" else int(given.actors),
                gpus_per_actor=given.gpus,
            ),
            address=given.address,
            network=stub_factory(pause=given.pause, hungry=given.hungry),
            progress=_Told(),
            cpus=None if given.address else 2,
        )
    except (FerstoreError, OSError) as error:  # those that the command line makes one line of
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(dataclasses.asdict(report)), flush=True)


if __name__ == "__main__":
    main()
