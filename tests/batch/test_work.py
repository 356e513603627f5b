"""Jobs in this process: idempotent for their day, skipping what has nothing to do, telling what they did."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_files, noise_store, sql, tree_digest, write
from extract_here import extract_here, no_cluster  # noqa: F401  a fixture

from ferstore import cli
from ferstore.batch import entry
from ferstore.batch.log import Log
from ferstore.batch.upstream import last_done, unchanged
from ferstore.batch.work import counts_of
from ferstore.store.commit import Change, transact
from ferstore.store.job_runs import job_runs
from ferstore.store.rows import read_rows, replace_rows
from ferstore.store.store import Store

Capture = pytest.CaptureFixture[str]
DAY, NEXT = "2026-11-23", "2026-11-24"
EXTRACT = 'weights = "random"\nbatch-size = 8\n'

pytestmark = pytest.mark.usefixtures("no_cluster")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("ferstore.sources.ingest._READERS", 1)
    return noise_store(tmp_path, 4)


class Ran:
    """What a job answered."""

    def __init__(self, code: int, capsys: Capture) -> None:
        out, err = capsys.readouterr()
        self.code = code
        self.result: dict[str, Any] = json.loads(out) if out else {}
        self.events = [json.loads(line) for line in err.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        [found] = [event for event in self.events if event["event"] == name]
        return dict(found)

    @property
    def states(self) -> dict[str, str]:
        return {step["step"]: step["state"] for step in self.result["steps"]}


@pytest.fixture
def run(store: Store, tmp_path: Path, capsys: Capture) -> Callable[..., Ran]:
    def job(name: str, text: str, *words: str, day: str = DAY) -> Ran:
        path = tmp_path / "job.toml"
        path.write_text(text)
        given = ["--config", str(path), f"--store={store.url}", "--logical-date", day, "--json", *words]
        return Ran(entry.job(name, given, {}), capsys)

    return job


def test_a_job_leaves_a_row_a_result_and_a_log(store: Store, run: Callable[..., Ran]) -> None:
    done = run("extract", EXTRACT)
    assert (done.code, done.result["state"], done.states) == (0, "done", {"extract": "done"})
    assert done.result["steps"][0]["counts"]["computed"] == 4
    [row] = job_runs(store, store.pin())
    assert (row["job"], row["logical_date"], row["state"], row["exit_code"], row["attempts"]) == (
        "extract",
        DAY,
        "done",
        0,
        1,
    )
    assert json.loads(row["counts"])["extract"]["computed"] == 4
    assert json.loads(row["arguments"]) == {"extract": ["extract", "--weights=random", "--batch-size=8"]}
    inputs, outputs = json.loads(row["inputs"]), json.loads(row["outputs"])
    assert inputs.keys() == {"images", "runs"}
    assert outputs.keys() == {"pool_3", "mixed_10", "extractors", "runs"}
    assert outputs["pool_3"] == store.pin().snapshots["pool_3"]
    assert sql(store, "select run_id from runs where command = 'extract'") == [(row["run_ids"][0],)]
    assert row["ended_at"] >= row["started_at"]
    assert [event["event"] for event in done.events] == ["started", "step started", "step ended", "ended"]
    for event in done.events:
        assert (event["job"], event["logical_date"], event["level"]) == ("extract", DAY, "info")
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
    assert done.event("step ended")["counts"]["computed"] == 4


def test_a_day_that_is_done_is_not_done_again_but_when_asked(store: Store, run: Callable[..., Ran]) -> None:
    run("extract", EXTRACT)
    before = tree_digest(Path(store.url.removeprefix("file://")))
    again = run("extract", EXTRACT + "seed = 1\n")
    assert (again.code, again.result["already"], again.result["steps"]) == (0, True, [])
    assert again.event("done already")["same_settings"] is False
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before
    assert run("extract", EXTRACT, "--again").result["attempts"] == 2
    assert run("extract", EXTRACT, day=NEXT).result["attempts"] == 1


def test_a_day_that_was_done_in_part_ends_with_3_again(store: Store, tmp_path: Path, run: Callable[..., Ran]) -> None:
    write(tmp_path / "noise", {"sad/broken.png": b"no picture"})
    text = f'kind = "folder"\nurl = "{tmp_path / "noise"}"\n'
    first, second = run("ingest", text), run("ingest", text)
    assert (first.code, first.result["state"], first.states) == (3, "partly", {"ingest": "partly"})
    assert (second.code, second.result["state"], second.result["already"]) == (3, "partly", True)


def test_two_jobs_of_one_kind_have_names_of_their_own(store: Store, tmp_path: Path, run: Callable[..., Ran]) -> None:
    for name in ("a", "b"):
        text = f'job = "{name}"\nkind = "folder"\nurl = "{write(tmp_path / name, noise_files(1))}"\n'
        assert run("ingest", text).result["steps"][0]["counts"]["added"] == 1
    assert {row["job"] for row in job_runs(store, store.pin())} == {"a", "b"}


def test_a_step_that_fails_ends_the_job_with_its_code_and_its_line(store: Store, run: Callable[..., Ran]) -> None:
    text = '[[runs]]\nkind = "folder"\nurl = "/nowhere"\n[[runs]]\nkind = "folder"\nurl = "/nowhere"'
    failed = run("ingest", text)
    assert (failed.code, failed.result["state"], failed.states) == (2, "failed", {"ingest 1": "failed"})
    assert "there is nothing at" in failed.result["error"]
    assert failed.event("ended")["level"] == "error"
    [row] = job_runs(store, store.pin())
    assert (row["state"], row["exit_code"], row["error"]) == ("failed", 2, failed.result["error"])
    assert run("ingest", text).result["attempts"] == 2, "a failed one is tried again"


def test_a_night_does_what_arrived_and_what_follows_from_it(
    store: Store, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr("ferstore.api.FeatureStore.report", lambda self, output, **_: (made.append(output), {})[1])
    monkeypatch.setattr("ferstore.rendering.show_report", lambda _: None)
    text = f"""
    [[ingest]]
    kind = "folder"
    url = "{tmp_path / "noise"}"
    [extract]
    weights = "random"
    [split]
    name = "of-{{logical_date}}"
    dataset = "noise"
    protocol = "random"
    [report]
    output = "{tmp_path}"
    """
    write(tmp_path / "noise", noise_files(30))
    first = run("nightly", text)
    assert first.states == {"ingest": "done", "extract": "done", "split": "done", "report": "done"}
    second = run("nightly", text, day=NEXT)
    assert second.states == {"ingest": "done", "extract": "skipped", "split": "skipped", "report": "skipped"}
    assert second.code == 0
    assert [event["step"] for event in second.events if event["event"] == "skipped"] == ["extract", "split", "report"]
    run("maintain", '[vacuum]\nkeep = "0"')
    assert run("nightly", text, day="2026-11-25").states["extract"] == "skipped", "a compaction changes no row"
    write(tmp_path / "noise", noise_files(1, first=30))
    assert set(run("nightly", text, day="2026-11-26").states.values()) == {"done"}
    assert sql(store, "select name from training_sets order by 1") == [(f"of-{DAY}",), ("of-2026-11-26",)]
    assert run("nightly", text, "--again", day="2026-11-26").states["extract"] == "done"
    changed = text.replace('weights = "random"', 'weights = "random"\nseed = 1')
    assert run("nightly", changed, day="2026-11-27").states["extract"] == "done", "it was never done with this seed"
    assert len(made) == 4


def test_a_step_killed_or_failed_is_done_though_nothing_arrives(
    store: Store, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'[[ingest]]\nkind = "folder"\nurl = "{tmp_path / "noise"}"\n[extract]\nweights = "random"\n'
    monkeypatch.setattr("ferstore.extract.run.extract", lambda *_, **__: 1 / 0)
    failed = run("nightly", text)
    assert (failed.code, failed.states) == (1, {"ingest": "done", "extract": "failed"})
    assert "unexpected ZeroDivisionError" in failed.result["error"]
    monkeypatch.setattr("ferstore.extract.run.extract", extract_here)
    assert run("nightly", text, day=NEXT).states == {"ingest": "done", "extract": "done"}


def test_a_training_that_failed_gets_a_set_of_its_own_day(
    store: Store, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
    [split]
    name = "of-{logical_date}"
    dataset = "noise"
    protocol = "random"
    [[train]]
    experiment = "deepest"
    training-set = "of-{logical_date}"
    """
    write(tmp_path / "noise", noise_files(30))
    assert run("ingest", f'kind = "folder"\nurl = "{tmp_path / "noise"}"').code == 0
    asked: list[str] = []
    monkeypatch.setattr("ferstore.api.FeatureStore.train", lambda *_, **__: 1 / 0)
    assert run("nightly", text).states == {"split": "done", "train": "failed"}
    monkeypatch.setattr(
        "ferstore.api.FeatureStore.train", lambda _, request, **__: (asked.append(request.training_set), [])[1]
    )
    assert run("nightly", text, day=NEXT).states == {"split": "done", "train": "done"}
    assert asked == [f"of-{NEXT}"]
    assert run("nightly", text, day="2026-11-25").states == {"split": "skipped", "train": "skipped"}


def test_a_dry_run_leaves_nothing(store: Store, run: Callable[..., Ran]) -> None:
    before = tree_digest(Path(store.url.removeprefix("file://")))
    dry = run("maintain", "", "--dry-run")
    assert (dry.code, dry.result["dry_run"]) == (0, True)
    assert list(dry.states) == ["compact", "verify", "vacuum"]
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before


def test_a_stop_by_signal_leaves_a_row_that_says_so(
    store: Store, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("ferstore.extract.run.extract", stopped)
    ended = run("extract", EXTRACT)
    assert (ended.code, ended.result["state"], ended.states) == (1, "stopped", {"extract": "stopped"})
    assert job_runs(store, store.pin())[0]["state"] == "stopped"
    monkeypatch.setattr("ferstore.extract.run.extract", extract_here)
    assert run("extract", EXTRACT).result["attempts"] == 2


def test_the_second_instance_ends_at_once_or_waits_as_it_is_told(
    store: Store, run: Callable[..., Ran], put: Callable[..., Any]
) -> None:
    other = {"host": "elsewhere", "pid": 7, "attempts": 1, "inputs": "{}", "steps": "[]", "arguments": "{}"}
    other |= {"job": "extract", "logical_date": NEXT, "state": "running", "started_at": datetime.now(UTC)}
    put(store, job_runs=[{**other, "run_ids": []}])
    for words in ([], ["--on-conflict=wait", "--wait-seconds=0"]):
        busy = run("extract", EXTRACT, *words)
        assert busy.code == 4
        [event] = busy.events
        assert f"at work for {NEXT}: process 7 on elsewhere since" in event["error"]
    done = {**other, "state": "done", "run_ids": []}

    def free(_: float) -> None:
        put(store, job_runs=[done])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ferstore.batch.entry.time.sleep", free)
        waited = run("extract", EXTRACT, "--on-conflict=wait")
    assert (waited.code, waited.states) == (0, {"extract": "done"})
    assert "process 7 on elsewhere" in waited.event("waiting")["reason"]


def test_a_job_whose_place_was_taken_ends_with_4_and_leaves_the_row(
    store: Store, run: Callable[..., Ran], put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(store: Store, *arguments: Any, **options: Any) -> Any:
        [row] = job_runs(store, store.pin())
        put(store, job_runs=[{**row, "attempts": 2, "host": "elsewhere"}])
        return extract_here(store, *arguments, **options)

    monkeypatch.setattr("ferstore.extract.run.extract", overtaken)
    lost = run("extract", EXTRACT)
    assert (lost.code, lost.result) == (4, {})
    assert "taken for dead" in lost.event("ended")["error"]
    [row] = job_runs(store, store.pin())
    assert (row["host"], row["attempts"], row["state"]) == ("elsewhere", 2, "running")


def test_the_id_of_a_submitted_job_is_kept(store: Store, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "job.toml").write_text("")
    told = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": f"ferstore-maintain-{DAY}"}})
    words = ["--config", str(tmp_path / "job.toml"), f"--store={store.url}", "--logical-date", DAY]
    assert entry.job("maintain", words, {"RAY_JOB_CONFIG_JSON_ENV_VAR": told}) == 0
    assert job_runs(store, store.pin())[0]["submission_id"] == f"ferstore-maintain-{DAY}"
    out = capsys.readouterr().out
    assert out.startswith("compact: done")
    assert out.endswith(f"maintain {DAY}: done\n")


def test_runs_shows_jobs_and_a_killed_one_as_such(store: Store, run: Callable[..., Ran], capsys: Capture) -> None:
    run("extract", EXTRACT)
    [row] = job_runs(store, store.pin())
    gone = {**row, "logical_date": NEXT, "state": "running", "pid": 2**22 + 1, "ended_at": None, "seconds": None}
    rows = read_rows(store, store.pin(), "job_runs")
    transact(store, lambda pin: [_put(store, pin, rows.from_pylist([gone], rows.schema))], {})
    with pytest.raises(SystemExit) as ended:
        cli.main(["--store", store.url, "runs", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert {job["logical_date"]: job["state"] for job in shown["jobs"]} == {DAY: "done", NEXT: "killed"}
    assert shown["runs"][0]["command"] == "extract"
    with pytest.raises(SystemExit):
        cli.main(["--store", store.url, "runs"])
    text = capsys.readouterr().out
    assert any("killed" in line and NEXT in line and str(2**22 + 1) in line for line in text.splitlines())


def _put(store: Store, pin: Any, rows: Any) -> Change:
    return replace_rows(store, pin, "job_runs", rows)


def test_what_was_last_done_is_asked_for_the_same_settings() -> None:
    records = [
        {"step": "extract", "state": "failed", "arguments": ["extract"], "number": 3},
        {"step": "extract", "state": "partly", "arguments": ["extract"], "number": 2},
        {"step": "extract", "state": "skipped", "arguments": ["extract"], "number": 1},
        {"step": "extract", "state": "done", "arguments": ["extract", "--seed=1"], "number": 0},
    ]
    assert last_done(records, "extract", ["extract"]) == records[2]
    assert last_done(records, "extract", ["extract", "--seed=1"]) == records[3]
    assert last_done(records, "extract", ["extract", "--seed=2"]) is None


def test_a_table_whose_past_is_gone_counts_as_changed(store: Store, put: Callable[..., Any]) -> None:
    pin = store.pin()
    assert unchanged(pin, {"images": pin.snapshots["images"], "pool_3": None})
    assert not unchanged(pin, {"images": 1})
    put(store, images=[{}])
    assert not unchanged(store.pin(), {"images": pin.snapshots["images"]})


def test_counts_are_the_numbers_a_command_printed() -> None:
    printed = [{"computed": 2, "seconds": 0.5, "dry": True, "trainings": [{"a": 1}], "layers": ["x"]}, {"computed": 3}]
    assert counts_of(printed) == {"computed": 5, "trainings": 1}


def test_lines_for_people_are_events_and_plain_where_people_read(capsys: Capture) -> None:
    import sys

    for human in (False, True):
        log = Log(sys.stderr, "extract", DAY, human=human)
        lines = log.lines("extract")
        lines.write("half a ")
        lines.write("line\n\nand the rest")
        lines.finish()
        log.event("ended", "error", error="two\nlines")
    first, second, third, *plain = capsys.readouterr().err.splitlines()
    assert [json.loads(line).get("line") for line in (first, second)] == ["half a line", "and the rest"]
    assert json.loads(third)["error"] == "two\nlines"
    assert plain[:2] == ["half a line", "and the rest"]
    assert plain[2].endswith(f'extract {DAY}: ended error="two\\nlines"')
