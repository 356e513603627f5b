"""A month of nightly jobs, some killed, one overlapping, some with bad files: it leaves what one quiet run leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_files, sql, write
from extract_here import no_cluster  # noqa: F401  a fixture

from ferstore.batch import entry
from ferstore.store.job_runs import shown_jobs
from ferstore.store.store import Store, init_store
from ferstore.store.verify import verify

SUPPORT = Path(__file__).parents[1] / "support"
NIGHTS = 30
DAYS = [(date(2026, 11, 1) + timedelta(days=night)).isoformat() for night in range(NIGHTS)]
KILLED = {6: 1, 17: 2}  # after so many shards are committed
OVERLAPPING, MENDED, MAINTAINED = 11, 20, (14, 25)
QUIET = (4, 9, 16, 22, 23, 28, 29)  # nothing arrives
BROKEN = {13: "sad/broken.png", 15: "sad/broken too.png"}

# What a run makes, without when and by which run.
TABLES = {
    "images": "select * exclude (ingested_at) from images order by dataset, item_id",
    "pool_3": "select image_id, extractor_id, view, pool_3 from pool_3 order by all",
    "mixed_10": "select image_id, extractor_id, view, md5(mixed_10), mean, norm from mixed_10 order by all",
    "quarantine": "select stage, dataset, item, image_id, error from quarantine order by all",
    "extractors": "select extractor_id, weights_kind, seed from extractors",
}
FILE = """
store = "{store}"

[[ingest]]
kind = "folder"
url = "{faces}"
name = "faces"

[extract]
weights = "random"
batch-size = 8
"""


class Months:
    """A folder that grows, and a job that follows it."""

    def __init__(self, folder: Path, arriving: int) -> None:
        self.store = init_store(str(folder / "store"))
        self.faces = folder / "faces"
        self.config = folder / "nightly.toml"
        self.config.write_text(FILE.format(store=self.store.url, faces=self.faces))
        self._arriving = arriving

    def arrive(self, night: int) -> None:
        """What lies in the folder from this night on."""
        if night not in QUIET:
            write(self.faces, noise_files(self._arriving, first=night * self._arriving))
        if night in BROKEN:
            write(self.faces, {BROKEN[night]: b"no picture"})
        if night == MENDED:
            write(self.faces, {BROKEN[13]: next(iter(noise_files(1, first=10_000).values()))})

    def words(self, night: int) -> list[str]:
        return ["--config", str(self.config), "--logical-date", DAYS[night], "--json"]

    def run(self, night: int, capsys: pytest.CaptureFixture[str], name: str = "nightly") -> tuple[int, dict[str, Any]]:
        words = self.words(night) if name == "nightly" else [*self.words(night)[2:], f"--store={self.store.url}"]
        words += [] if name == "nightly" else ["--config", str(self.config.with_name("maintain.toml"))]
        code = entry.job(name, words, {})
        out, err = capsys.readouterr()
        assert all(json.loads(line)["job"] == name for line in err.splitlines())
        return code, json.loads(out) if out else json.loads(err.splitlines()[-1])


class Other:
    """The job in another process, imported and waiting to begin."""

    def __init__(self, how: str, months: Months, night: int) -> None:
        paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
        self.process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "stub_job.py"), how, "nightly", *months.words(night)],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


@pytest.fixture
def others() -> Iterator[dict[int, Other]]:
    found: dict[int, Other] = {}
    yield found
    for other in found.values():
        other.process.kill()
        other.process.communicate()


def tables(store: Store) -> dict[str, list[tuple[object, ...]]]:
    return {name: sql(store, query) for name, query in TABLES.items()}


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_cluster")
def test_thirty_nights_leave_the_tables_of_one_quiet_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    others: dict[int, Other],
    full: None,
    level: str,
    tally: Callable[[str, int], None],
) -> None:
    arriving = {"full": 5, "night": 60}[level]
    monkeypatch.setattr("ferstore.sources.ingest._READERS", 1)  # each is a process, sixty times over
    months = Months(tmp_path / "month", arriving)
    (months.config.with_name("maintain.toml")).write_text('[vacuum]\nkeep = "0"\n')
    others |= {night: Other(f"die:{shards}", months, night) for night, shards in KILLED.items()}
    others[OVERLAPPING] = Other("hold:1", months, OVERLAPPING)
    codes = []
    for night in range(NIGHTS):
        months.arrive(night)
        if other := others.get(night):
            assert other.line() == "ready"
            other.go()
        if night in KILLED:
            assert others[night].process.wait(100) == -signal.SIGKILL
            assert shown_jobs(months.store, months.store.pin())[0]["state"] == "killed"
        if night == OVERLAPPING:
            assert other is not None
            assert other.line() == "held"
            code, told = months.run(night, capsys)
            assert code == 4
            assert f"process {other.process.pid} on" in told["error"]
            other.go()
            assert other.process.wait(100) == 0
        code, told = months.run(night, capsys)
        codes.append(code)
        assert told.get("already", False) == (night == OVERLAPPING)
        if night in QUIET:
            assert [step["state"] for step in told["steps"]] == ["done" if night < 13 else "partly", "skipped"]
        if night in KILLED:
            assert told["attempts"] == 2
            before = arriving * (night - sum(quiet < night for quiet in QUIET))
            assert told["steps"][1]["counts"]["present"] > before, "what was committed before the kill is kept"
        if night in MAINTAINED:
            assert months.run(night, capsys, "maintain")[0] == 0
    assert codes == [0] * 13 + [3] * 17, "the bad file that was never mended stays an open account"
    quiet = Months(tmp_path / "quiet", arriving)
    quiet.faces = months.faces
    quiet.config.write_text(FILE.format(store=quiet.store.url, faces=months.faces))
    assert quiet.run(NIGHTS - 1, capsys)[0] == 3
    assert tables(months.store) == tables(quiet.store)
    assert len(tables(months.store)["pool_3"]) == arriving * (NIGHTS - len(QUIET)) + 1
    assert verify(months.store).sound
    nights = [row for row in shown_jobs(months.store, months.store.pin()) if row["job"] == "nightly"]
    assert sorted(row["logical_date"] for row in nights) == DAYS
    assert {row["state"] for row in nights} == {"done", "partly"}
    assert {DAYS.index(row["logical_date"]) for row in nights if row["attempts"] == 2} == set(KILLED)
    tally("nights of jobs", NIGHTS)
    tally("nights killed", len(KILLED))
