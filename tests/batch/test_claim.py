"""Who may work at a job: one instance, whoever races, dies or wakes up late."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from drawn import sql

from ferstore.batch.claim import Claim, ClaimLostError, Heartbeat, JobBusyError, claim, record
from ferstore.store.files import write_file
from ferstore.store.job_runs import STALE, beat_url, job_runs, read_beat, shown_jobs
from ferstore.store.store import Store, init_store

Put = Callable[..., Any]
DAY, NEXT = "2026-11-23", "2026-11-24"
ROOT = Path(__file__).parents[2]

# Claims a job for each line it reads, and says whether it got it.
CLAIMER = """
import sys
from ferstore.batch.claim import Claim, JobBusyError, claim
from ferstore.store.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    try:
        found = claim(store, line.strip(), "2026-11-23", arguments={})
        print("won" if isinstance(found, Claim) else "done", flush=True)
    except JobBusyError as error:
        print(error, flush=True)
"""


class Claimer:
    """Another process that claims jobs."""

    def __init__(self, store: Store) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIMER, store.url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, job: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{job}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


@pytest.fixture
def claimers(store: Store) -> Iterator[Callable[[int], list[Claimer]]]:
    found: list[Claimer] = []

    def start(count: int) -> list[Claimer]:
        found.extend(Claimer(store) for _ in range(count))
        assert [claimer.answer() for claimer in found] == ["ready"] * count
        return found

    yield start
    for claimer in found:
        claimer.process.kill()
        claimer.process.communicate()


def begin(store: Store, day: str = DAY, **options: Any) -> Claim:
    found = claim(store, "extract", day, arguments={"extract": ["extract"]}, **options)
    assert isinstance(found, Claim)
    return found


def end(store: Store, claimed: Claim, state: str = "done", **columns: Any) -> None:
    record(store, claimed, state=state, ended_at=datetime.now(UTC), **columns)


def elsewhere(put: Put, store: Store, *, age: timedelta, day: str = DAY, job: str = "extract") -> dict[str, Any]:
    """A job that another machine began some time ago."""
    row = {
        "job": job,
        "logical_date": day,
        "attempts": 1,
        "state": "running",
        "host": "elsewhere",
        "pid": 7,
        "started_at": datetime.now(UTC) - age,
        "inputs": "{}",
        "steps": "[]",
        "arguments": "{}",
        "run_ids": [],
    }
    put(store, job_runs=[row])
    return row


def beat(store: Store, row: dict[str, Any], age: timedelta) -> None:
    about = {name: row[name] for name in ("job", "logical_date", "attempts", "host", "pid")}
    now = {**about, "started_at": row["started_at"].isoformat(), "at": (datetime.now(UTC) - age).isoformat()}
    write_file(beat_url(store, row["job"]), json.dumps(now).encode())


def test_of_processes_that_claim_at_once_one_wins(store: Store, claimers: Callable[[int], list[Claimer]]) -> None:
    racing = claimers(3)
    for turn in range(6):
        for claimer in racing:
            claimer.ask(f"job-{turn}")
        answers = [claimer.answer() for claimer in racing]
        assert answers.count("won") == 1, answers
        winner = racing[answers.index("won")].process.pid
        [row] = job_runs(store, store.pin(), f"job-{turn}")
        assert (row["pid"], row["attempts"]) == (winner, 1)
        told = f"job job-{turn} is at work for {DAY}: process {winner} on {socket.gethostname()} since 2"
        assert sum(answer.startswith(told) for answer in answers) == 2


def test_a_killed_holder_is_seen_as_such_and_its_place_taken(
    store: Store, claimers: Callable[[int], list[Claimer]]
) -> None:
    [holder] = claimers(1)
    holder.ask("extract")
    assert holder.answer() == "won"
    with pytest.raises(JobBusyError, match=f"process {holder.process.pid} on"):
        begin(store)
    os.kill(holder.process.pid, signal.SIGKILL)
    holder.process.wait()
    assert [row["state"] for row in shown_jobs(store, store.pin())] == ["killed"]
    assert begin(store).row["attempts"] == 2
    [row] = job_runs(store, store.pin())
    assert (row["attempts"], row["state"], row["pid"]) == (2, "running", os.getpid())


def test_what_is_done_is_found_done_and_begun_again_only_when_asked(store: Store) -> None:
    for state in ("done", "partly"):
        end(store, begin(store, again=True), state, exit_code=0)
        found = claim(store, "extract", DAY, arguments={})
        assert isinstance(found, dict)
        assert found["state"] == state
    assert begin(store, again=True).row["attempts"] == 3


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_what_failed_is_begun_again_and_keeps_what_it_began_with(store: Store, put: Put, state: str) -> None:
    first = begin(store)
    put(store, images=[{}])
    end(store, first, state)
    second = begin(store)
    assert second.row["attempts"] == 2
    assert second.row["inputs"] == first.row["inputs"] == "{}"
    end(store, second)
    assert json.loads(begin(store, again=True).row["inputs"]).keys() == {"images", "job_runs"}


def test_a_day_is_not_begun_while_another_day_is_at_work(store: Store, put: Put) -> None:
    elsewhere(put, store, age=timedelta(0), day=NEXT)
    with pytest.raises(JobBusyError, match=rf"at work for {NEXT}: process 7 on elsewhere since 2\d{{3}}-.*Z"):
        begin(store)
    assert len(job_runs(store, store.pin())) == 1


def test_one_job_does_not_hold_up_another(store: Store, put: Put) -> None:
    elsewhere(put, store, age=timedelta(0), job="train")
    assert begin(store).row["attempts"] == 1


@pytest.mark.parametrize(
    ("began", "beaten", "alive"),
    [
        (timedelta(hours=3), timedelta(seconds=20), True),
        (timedelta(hours=3), STALE + timedelta(seconds=5), False),
        (timedelta(hours=3), None, False),
        (timedelta(seconds=20), None, True),  # it had no time for its first beat
    ],
)
def test_a_job_on_another_machine_lives_as_long_as_it_beats(
    store: Store, put: Put, began: timedelta, beaten: timedelta | None, alive: bool
) -> None:
    row = elsewhere(put, store, age=began)
    if beaten is not None:
        beat(store, row, beaten)
    assert [job["state"] for job in shown_jobs(store, store.pin())] == ["running" if alive else "killed"]
    if alive:
        with pytest.raises(JobBusyError):
            begin(store)
    else:
        assert begin(store).row["attempts"] == 2


def test_beats_of_another_attempt_say_nothing(store: Store, put: Put) -> None:
    row = elsewhere(put, store, age=timedelta(hours=3))
    beat(store, {**row, "attempts": 2}, timedelta(0))
    assert [job["state"] for job in shown_jobs(store, store.pin())] == ["killed"]


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"{}"])
def test_a_beat_that_cannot_be_read_is_none(store: Store, torn: bytes) -> None:
    write_file(beat_url(store, "extract"), torn)
    assert read_beat(store, "extract") is None


def test_a_dead_job_of_another_day_is_closed(store: Store, put: Put) -> None:
    elsewhere(put, store, age=timedelta(hours=3))
    begin(store, NEXT)
    states = sql(store, "select logical_date, state, error from job_runs order by 1")
    assert states == [(DAY, "failed", "killed"), (NEXT, "running", None)]


@pytest.mark.parametrize("day", [DAY, NEXT])
def test_a_job_that_wakes_up_late_does_not_touch_the_row_of_its_successor(store: Store, put: Put, day: str) -> None:
    sleeper = begin(store)
    put(store, job_runs=[{**sleeper.row, "host": "elsewhere", "started_at": datetime.now(UTC) - timedelta(hours=1)}])
    sleeper.row.update(host="elsewhere", started_at=job_runs(store, store.pin())[0]["started_at"])
    begin(store, day)
    before = job_runs(store, store.pin())
    with pytest.raises(ClaimLostError, match="taken for dead"):
        end(store, sleeper)
    assert job_runs(store, store.pin()) == before


def test_a_heart_beats_for_its_own_attempt_and_falls_silent_for_a_later_one(store: Store) -> None:
    first = begin(store)
    with Heartbeat(store, first) as heart:
        assert heart.beat()
        found = read_beat(store, "extract")
        assert found is not None
        assert {name: found[name] for name in ("logical_date", "attempts", "pid")} == {
            "logical_date": DAY,
            "attempts": 1,
            "pid": os.getpid(),
        }
        later = {**first.row, "attempts": 2, "started_at": first.row["started_at"] + timedelta(seconds=1)}
        beat(store, later, timedelta(0))
        assert not heart.beat()
    after = read_beat(store, "extract")
    assert after is not None
    assert after["attempts"] == 2


def test_runs_of_every_attempt_stay_with_the_day(store: Store, put: Put) -> None:
    def ran(run_id: str, claimed: Claim) -> None:
        own = {name: claimed.row[name] for name in ("host", "pid")}
        put(store, runs=[{**own, "run_id": run_id, "command": "train", "started_at": datetime.now(UTC)}])

    ran("before", begin(store))
    put(store, runs=[{"run_id": "another's", "host": "elsewhere", "pid": 7, "started_at": datetime.now(UTC)}])
    # It is killed: nothing was recorded. This process is the dead one, as in a container that begins again.
    second = begin(store)
    assert second.own_runs == {"before"}
    ran("after", second)
    end(store, second)
    assert job_runs(store, store.pin())[0]["run_ids"] == ["after", "before"]
    third = begin(store, NEXT)
    assert (third.own_runs, third.earlier) == (frozenset(), {"after", "before"})
