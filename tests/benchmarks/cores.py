"""Where the cores' time goes in ``ferstore extract``: ``python -m tests.benchmarks.cores [--images N] [its options]``.

Not a comparison but the profile behind one: CPU milliseconds an image, by process and by kind of thread, over the
steady part of a run, beside what the bare network takes alone. Threads that step back (`ferstore.background`), which
decode and encode, are known by their niceness; those that encode end with their shard. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from tests.benchmarks.commands import family
from tests.benchmarks.extraction import BATCH, Bare
from tests.benchmarks.filled import batch_times, extract, new_store, steady_rate
from tests.benchmarks.inputs import prepare

_TICK = os.sysconf("SC_CLK_TCK")
_PAUSE = 0.5
Times = dict[tuple[int, int], tuple[str, float]]
"""Kind and CPU seconds of each thread, by process and thread: Ray renames a process by what it does."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cores", description=__doc__)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--images", type=int, default=768)
    asked, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="ferstore-cores-") as folder:
        inputs = prepare(asked.faces, asked.weights, Path(folder), "normal")
        faces = inputs.some_faces(asked.images)
        bare = Bare(inputs, faces, seconds=20.0)
        used, began = time.process_time(), time.perf_counter()
        done = bare.timed()
        rate = done / (time.perf_counter() - began)
        alone = 1e3 * (time.process_time() - used) / done
        print(f"bare network: {rate:.2f} images/s, {alone:.2f} ms of CPU an image")
        del bare
        store = new_store(inputs, faces, "cores")
        samples: list[tuple[float, Times]] = []
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(samples, ended), daemon=True)
        watcher.start()
        ran = extract(inputs, store, *options)
        ended.set()
        watcher.join()
        _table(store, samples, steady_rate(store, int(ran.json["actors"])), rate)


def _watch(samples: list[tuple[float, Times]], ended: threading.Event) -> None:
    while not ended.wait(_PAUSE):
        samples.append((time.time(), _threads(os.getpid())))


def _threads(pid: int) -> Times:
    found: Times = {}
    for process in family(pid)[1:]:
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            tasks = list(Path(f"/proc/{process}/task").iterdir())
        except OSError:
            continue
        alive = 0.0
        for task in tasks:
            try:
                nice, used = _used(task)
            except OSError:
                continue
            found[process, int(task.name)] = _kind(line, nice, task.name == str(process)), used
            alive += used
        with contextlib.suppress(OSError):
            _, whole = _used(Path(f"/proc/{process}"))
            kind = _kind(line, 0, False).partition(",")[0]
            found[process, 0] = f"{kind}, threads that ended", whole - alive
    return found


def _used(place: Path) -> tuple[int, float]:
    """Niceness and CPU seconds of a thread, or of a process with those of its threads that ended."""
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    return int(fields[16]), (int(fields[11]) + int(fields[12])) / _TICK


def _kind(line: str, nice: int, main: bool) -> str:
    if "ray::" in line:
        title = line.split()[0]
        return f"{title}, {'threads that step back' if nice > 15 else 'main thread' if main else 'other threads'}"
    for name in ("raylet", "gcs_server", "dashboard", "runtime_env", "agent", "log_monitor"):
        if name in line:
            return f"ray: {name}"
    return "driver" if "ferstore.cli" in line else f"other: {Path(line.split()[0] if line.split() else '?').name}"


def _table(store: Path, samples: list[tuple[float, Times]], rate: float, bare: float) -> None:
    times, counts = batch_times(store)
    first, last = len(times) // 5, len(times) - 1 - len(times) // 5
    early = min(samples, key=lambda sample: abs(sample[0] - times[first]))
    late = min(samples, key=lambda sample: abs(sample[0] - times[last]))
    images = int(counts[first + 1 : last + 1].sum())
    spent: dict[str, float] = defaultdict(float)
    for thread, (kind, used) in late[1].items():
        spent[kind] += used - early[1].get(thread, (kind, 0.0))[1]
    wall = late[0] - early[0]
    cores = len(os.sched_getaffinity(0))
    print(f"extract: {rate:.2f} images/s, {rate / bare:.3f} of the bare network; batches of {BATCH}")
    print(f"{wall:.1f} s, {images} images: CPU ms an image")
    for kind, seconds in sorted(spent.items(), key=lambda kind: -kind[1]):
        if seconds > 0.0002 * wall:
            print(f"  {1e3 * seconds / images:8.2f}  {kind}")
    print(f"  {1e3 * (cores * wall - sum(spent.values())) / images:8.2f}  idle, or others on this machine")


if __name__ == "__main__":
    main()
