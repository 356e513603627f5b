"""Eight writers at once, on SQLite and on a real PostgreSQL: every commit's rows once, whoever overtakes whom."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import Server

from ferstore.query.session import Session
from ferstore.store.doctor import doctor
from ferstore.store.rows import read_rows
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.verify import verify

WRITER = Path(__file__).parents[1] / "support" / "write_rows.py"
SIZES = {  # writers and commits of each
    "ci": {"sqlite": (4, 5), "postgresql": (8, 3)},
    "full": {"sqlite": (8, 25), "postgresql": (8, 25)},
    "night": {"sqlite": (8, 100), "postgresql": (16, 50)},
}

pytestmark = pytest.mark.timeout(900)


class Writers:
    """Processes that commit to one store; they begin together."""

    def __init__(self, store: Store, catalog: str, count: int, commits: int) -> None:
        self.names = [f"{writer}-{turn}" for writer in range(count) for turn in range(commits)]
        command = [sys.executable, str(WRITER), store.url, catalog, str(count), str(commits)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def begin(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def at_work(self) -> bool:
        return self.process.poll() is None

    def finish(self) -> int:
        """Wait for the end, which must be a good one; how often a commit had to be planned again."""
        out, err = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, err
        return int(out) - len(self.names)

    def end(self) -> None:
        self.process.terminate()  # its children are daemons: they end with it
        self.process.communicate()


@pytest.fixture
def writers() -> Iterator[Callable[..., Writers]]:
    started: list[Writers] = []

    def start(*arguments: object) -> Writers:
        started.append(Writers(*arguments))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for them in started:
        them.end()


def check(store: Store, names: list[str]) -> None:
    """Both tables hold each name once, at every snapshot the same in both, and one snapshot a commit."""
    pin = store.pin()
    for table, column in (("images", "item_id"), ("extractors", "extractor_id")):
        assert sorted(read_rows(store, pin, table, [column])[column].to_pylist()) == sorted(names)
        assert len(pin.tables[table].metadata.snapshots) == len(names)
    report = verify(store)
    assert report.sound
    assert (report.rows["images"], report.rows["extractors"]) == (len(names), len(names))
    assert {finding.state for finding in doctor(store) if finding.check != "orphans"} == {"ok"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_writers_at_once_land_every_commit_once(
    kind: str, tmp_path: Path, level: str, tally: Callable[[str, int], None], writers: Callable[..., Writers],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    catalog = request.getfixturevalue("postgres").new_database() if kind == "postgresql" else None
    store = init_store(str(tmp_path / "store"), catalog=catalog)
    count, commits = SIZES[level][kind]
    them = writers(store, catalog or "", count, commits)
    them.begin()
    seen = 0
    while them.at_work():  # a reader sees commits whole, and none of them go
        time.sleep(0.5)
        with Session(store, store.pin()).execute(
            "select count(*), count(extractor_id), (select count(*) from extractors)"
            " from images left join extractors on extractor_id = item_id"
        ) as cursor:
            (found,) = cursor.rows()
        assert found[0] == found[1] == found[2] >= seen
        seen = int(found[0])
    again = them.finish()
    check(store, them.names)
    assert again, "they never met: nothing was tried"
    tally(f"commits at once, {kind}", len(them.names))
    tally("conflicts planned again", again)


def test_writers_whose_sessions_the_server_ends_land_every_commit_once(
    postgres: Server, tmp_path: Path, level: str, tally: Callable[[str, int], None], writers: Callable[..., Writers]
) -> None:
    catalog = postgres.new_database()
    store = init_store(str(tmp_path / "store"), catalog=catalog)
    them = writers(store, catalog, 3, {"ci": 3, "full": 10, "night": 50}[level])
    them.begin()
    chance, ended = random.Random(1), 0
    while them.at_work():
        time.sleep(chance.uniform(0.1, 0.6))
        ended += postgres.end_sessions(catalog)
    them.finish()
    check(open_store(store.url, catalog=catalog), them.names)
    assert ended, "no session was ended: nothing was tried"
    tally("sessions ended by PostgreSQL", ended)
