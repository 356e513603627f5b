"""A process that extracts with the stub network, to be killed: ``python stub_extract.py STORE PAUSE``.

Prints ``started`` once actors are asked for, and at the end the account as JSON. Every shard is a commit of its own.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from stub_network import stub_factory

from ferstore.extract import committer
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import extract
from ferstore.store.store import open_store


class _Told:
    def start(self, what: str, total: int | None) -> None:
        print("started", flush=True)

    def advance(self, items: int) -> None: ...

    def note(self, text: str) -> None: ...


def main() -> None:
    url, pause = sys.argv[1:]
    committer._GROUP = 1
    report = extract(
        open_store(url),
        ExtractRequest(weights="random", batch_size=8, actors=2),
        network=stub_factory(pause=float(pause)),
        progress=_Told(),
        cpus=2,
    )
    print(json.dumps(dataclasses.asdict(report)), flush=True)


if __name__ == "__main__":
    main()
