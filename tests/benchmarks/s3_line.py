"""The whole line on S3 (moto, over loopback) and PostgreSQL: exit code, requests and seconds of each command.

    python tests/benchmarks/s3_line.py FACES [--weights W] [--images N]

FACES is in FERPLUS's official layout; N of each part are put into the bucket first. Seconds are of moto, in Python on
the same machine, so they say nothing of S3; the requests are those that any S3 server would get.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import fsspec
import postgres
import s3

BUCKET = f"s3://{s3.BUCKET}"
PARTS = ("Train", "Valid", "Test")


class Line:
    """Runs commands and prints what they cost."""

    def __init__(self, server: s3.Server, catalog: str) -> None:
        self._server = server
        self._environment = {**os.environ, "FERSTORE_STORE": f"{BUCKET}/store", "FERSTORE_CATALOG": catalog}

    def run(self, *arguments: object, codes: Sequence[int] = (0,)) -> str:
        """Run one; its standard output."""
        began = time.monotonic()
        with self._server.watch() as requests:
            done = subprocess.run(
                [sys.executable, "-m", "ferstore.cli", *map(str, arguments)],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
        seconds = time.monotonic() - began
        writes = sum(request.changes for request in requests)
        said = " ".join(map(str, arguments))[:70]
        print(f"{done.returncode:>4} {len(requests):>8} {writes:>7} {seconds:>8.1f}  {said}", flush=True)
        if done.returncode not in codes:
            sys.exit(done.stderr)
        return done.stdout


def put_faces(folder: Path, count: int) -> str:
    """The first faces of each part into the bucket; URL of one."""
    fs = fsspec.filesystem("s3")
    for part in PARTS:
        source, target = folder / f"FER2013{part}", f"{BUCKET}/faces/FER2013{part}"
        lines = (source / "label.csv").read_text().splitlines()[:count]
        fs.pipe_file(f"{target}/label.csv", ("\n".join(lines) + "\n").encode())
        for line in lines:
            name = line.split(",")[0]
            fs.pipe_file(f"{target}/{name}", (source / name).read_bytes())
    return f"{target}/{name}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("faces", type=Path)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--images", type=int, default=60)
    given = parser.parse_args()
    with s3.serve() as server, s3.reached(server), postgres.server() as database, tempfile.TemporaryDirectory() as out:
        face = put_faces(given.faces, given.images)
        line = Line(server, database.new_database())
        print("code requests  writes  seconds  command")
        line.run("init")
        line.run("ingest", "ferplus", f"{BUCKET}/faces", "--name", "real", codes=(0, 3))
        line.run("extract", "--dataset", "real", "--weights", given.weights)
        line.run("sql", "select label, count(*) from features where pool_3 is not null group by label")
        line.run("split", "parts", "--dataset", "real", "--protocol", "official", "--labels", "soft")
        train = ("--training-set", "parts", "--recipe", "modern", "--epochs")
        line.run("train", "deepest", *train, 20)
        line.run("train", "sub_deep", *train, 2, "--width", 8)
        line.run("train", "fusion", *train, 20)
        found = line.run("sql", "select run_id from trainings where experiment = 'deepest'", "--format", "json")
        line.run("predict", "--run", json.loads(found)[0]["run_id"], face)
        line.run("similar", face, "-k", 3)
        line.run("report", "--output", Path(out) / "report")
        line.run("verify")
        line.run("compact")
        line.run("vacuum", "--keep", "0s", "--grace", "0s")
        found = line.run("sql", "select image_id from images limit 1", "--format", "json")
        line.run("erase", "--image", json.loads(found)[0]["image_id"])
        print(line.run("doctor"))
        print(line.run("verify"))


if __name__ == "__main__":
    main()
