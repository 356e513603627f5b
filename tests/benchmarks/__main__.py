"""Every benchmark: ``python -m tests.benchmarks [--quick | --full] [--only NAME ...] [--turns N] [--json FILE] ...``.

Both sides of each comparison run turn by turn on this machine, through ferstore's own commands and API; the table of
what was found is printed, and with ``--json`` and ``--markdown`` written. Nothing in it was known before. ``--gpu``
measures what needs a GPU instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.inputs import prepare
from tests.benchmarks.one import measure
from tests.benchmarks.row import Row
from tests.benchmarks.table import as_json, machine, markdown, verdict

GPU = ("gpu", "gpu_training")
BENCHMARKS = tuple(
    path.stem
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if "\ndef rows(" in path.read_text("utf-8") and path.stem not in GPU
)
"""Modules of this folder with a function ``rows``."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where a benchmark failed. An aim that is missed is a result, not a failure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _asked(arguments)
    names = asked.only or (GPU if asked.gpu else BENCHMARKS)
    size = "quick" if asked.quick else "full" if asked.full else "normal"
    found: dict[str, list[Row]] = {}
    began = time.perf_counter()
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ferstore-benchmarks-")))
        folder.mkdir(parents=True, exist_ok=True)
        inputs = replace(prepare(asked.faces, asked.weights, folder, size), turns=asked.turns)
        about: dict[str, object] = {"size": size, "turns": inputs.turns, "inputs": inputs.named, "machine": machine()}
        for name in names:
            module = f"tests.benchmarks.{name}" if name in (*BENCHMARKS, *GPU) else name
            found[name], seconds = measure(name, module, inputs)
            _say(f"{name}: {seconds:.0f} s")
            for row in found[name]:
                told = f"not measured: {row.missing}" if row.missing else f"{row.ratio:.3g} {verdict(row)}"
                _say(f"  {row.what}: {told}")
            about["seconds"] = round(time.perf_counter() - began, 1)
            text = _write(asked, found, about)  # what there is by now is kept, should a later one be stopped
    sys.stdout.write(text)
    return int(any(row.missing and row.what in names for rows in found.values() for row in rows))


def _write(asked: argparse.Namespace, found: dict[str, list[Row]], about: dict[str, object]) -> str:
    """Put the results where they are asked for; the table."""
    text = f"{_headline(about)}\n\n{markdown([row for rows in found.values() for row in rows])}\n"
    if asked.json:
        asked.json.write_text(json.dumps(as_json(found, about), indent=1) + "\n", "utf-8")
    if asked.markdown:
        asked.markdown.write_text(text, "utf-8")
    return text


def _asked(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--faces", type=Path, help="a folder like FERPLUS's official extraction, or <class>/<file>")
    parser.add_argument("--weights", help="as for ferstore extract")
    known = f"of {', '.join(BENCHMARKS)}, or a module with such rows"
    parser.add_argument("--only", nargs="+", metavar="NAME", help=known)
    parser.add_argument("--folder", type=Path, help="for what is made; kept, and used again")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="shows that everything works; figures mean nothing")
    sizes.add_argument("--full", action="store_true", help="the aims' own sizes; takes over an hour")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="repetitions of each comparison (3)")
    parser.add_argument("--gpu", action="store_true", help="what needs a GPU")
    asked = parser.parse_args(arguments)
    if asked.turns < 1:
        parser.error(f"--turns {asked.turns}: at least 1")
    for name in asked.only or ():
        if name not in (*BENCHMARKS, *GPU) and importlib.util.find_spec(name) is None:
            parser.error(f"no benchmark {name!r}: {known}")
    return asked


def _headline(about: dict[str, object]) -> str:
    on = about["machine"]
    assert isinstance(on, dict)
    return (
        f"{on['cores']} cores of {on['cpu']}, {on['memory_gib']} GiB; {about['inputs']}; size {about['size']}; "
        f"{about['seconds']} s in all."
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
