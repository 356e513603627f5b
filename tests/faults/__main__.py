"""The fault suite: ``python -m tests.faults [--night] [--seed N] [--json FILE]``.

It runs everything in ``tests/faults``, and the tests of races and broken stores of ``tests/store``, at their full size:
two runs of pytest side by side, one with the tests that start Ray clusters, which mostly wait, and one with the others,
two at a time. It ends with the counts of what was tried; its exit code is 1 where a test failed or a count is below its
aim.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fault_summary import Summary, read  # noqa: E402

PLACES = ("tests/faults", "tests/store/test_commit_races.py", "tests/store/test_store_faults.py")
GROUPS = {"with Ray": ("-m", "ray"), "without Ray": ("-m", "not ray", "-n", "2", "--dist", "worksteal")}


def main() -> int:
    """Run the suite and tell of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Run the fault suite.")
    parser.add_argument("--night", action="store_true", help="several times as much; takes hours")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn by chance (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there too")
    asked = parser.parse_args()
    level = "night" if asked.night else "full"
    seeds = dict.fromkeys(("FERSTORE_FAULTS_SEED", "FERSTORE_KILLS_SEED"), str(asked.seed))
    environment = {"FERSTORE_CRASH_STEP": "1", **os.environ, **seeds, "FERSTORE_FAULTS": level}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ferstore-faults-") as folder:
        summary = run(Path(folder), environment)
    seconds = time.monotonic() - began
    print(f"\nfault suite, level {level}, seed {asked.seed}: {seconds:.0f} s, {summary.passed} tests passed")
    print("\n".join(summary.table()))
    if not summary.failed:
        print("rows lost, doubled or torn: 0")
    if asked.json:
        asked.json.write_text(json.dumps(summary.asdict(seconds, asked.seed, level), indent=2) + "\n", "utf-8")
    return 0 if summary.sound else 1


def run(folder: Path, environment: dict[str, str]) -> Summary:
    """Both groups at once; the output of each is shown when it ends, one after the other."""
    running = {}
    for group, options in GROUPS.items():
        report, log = folder / f"{group}.xml", (folder / f"{group}.log").open("w+")
        command = [sys.executable, "-m", "pytest", "-q", *options, f"--junitxml={report}", "--durations=15", *PLACES]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        running[group] = process, report, log
    try:
        for group, (process, _, log) in running.items():
            code = process.wait()
            log.seek(0)
            print(f"--- {group} (exit code {code})\n{log.read()}", flush=True)
        return read(report for _, report, _ in running.values())
    finally:
        for process, _, log in running.values():
            process.terminate()
            process.wait()
            log.close()


if __name__ == "__main__":
    sys.exit(main())
