"""A process that runs a job with the stub network: ``python stub_job.py HOW JOB [OPTION ...]``.

Everything is imported, ``ready`` is printed, and a line on standard input begins the job. HOW is

- ``ray:PAUSE``: on a cluster of two CPUs, a batch taking so many seconds longer;
- ``die:N``: in this process, which is killed once N shards are committed;
- ``hold:N``: in this process, which says ``held`` on stdout once N shards are committed, and waits for another line.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from extract_here import extract_here
from stub_network import stub_factory

from ferstore import api, rendering, terminal  # noqa: F401  what a job imports as it goes
from ferstore.batch import claim, entry, work  # noqa: F401
from ferstore.extract import committer, run


def main() -> None:
    how, name, *words = sys.argv[1:]
    kind, _, amount = how.partition(":")

    def on_shard(number: int) -> None:
        if number == int(amount):
            if kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            sys.__stdout__.write("held\n")  # type: ignore[union-attr]
            sys.__stdout__.flush()  # type: ignore[union-attr]
            sys.stdin.readline()

    if kind == "ray":
        committer._GROUP = 1
        network = stub_factory(pause=float(amount))
        run.extract = partial(run.extract, network=network, cpus=2)  # type: ignore[assignment]
    else:
        run.extract = partial(extract_here, shards=3, on_shard=on_shard)  # type: ignore[assignment]
    print("ready", flush=True)
    if sys.stdin.readline():
        sys.exit(entry.job(name, words, os.environ))


if __name__ == "__main__":
    main()
