"""What nothing needs goes; what a snapshot, a tag, a reader or a job needs stays."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import sql, tree_digest

from ferstore.errors import ConflictError, InputError
from ferstore.store import attempts as attempts_module
from ferstore.store import vacuum as vacuum_module
from ferstore.store.at_work import abandon, runs_at_work
from ferstore.store.commit import Change, transact
from ferstore.store.compact import compact
from ferstore.store.files import local_path, remove_files
from ferstore.store.pin import Pin
from ferstore.store.references import leftovers, references
from ferstore.store.rows import read_rows, write_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import vacuum
from ferstore.store.verify import verify

NONE = timedelta(0)
OLD = time.time() - 10 * 86_400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def labels(store: Store, at: str | None = None) -> list[Any]:
    pin = store.pin(at) if at else store.pin()
    return read_rows(store, pin, "images")["label"].to_pylist()


def data_files(store: Store, table: str) -> set[str]:
    path = local_path(store.data_folder(table))
    assert path is not None
    return {file.name for file in path.glob("*")}


def age(store: Store, table: str = "images") -> None:
    """Make every file of a table ten days old."""
    path = local_path(f"{store.url}/tables/{table}")
    assert path is not None
    for file in path.rglob("*"):
        os.utime(file, (OLD, OLD))


def sound(store: Store) -> None:
    assert verify(store).sound
    there = {str(local_path(url)) for url in references(store.pin()).urls}
    assert [path for path in there if not Path(path).exists() and not path.endswith(".metadata.json")] == []


def test_states_younger_than_keep_stay_and_older_ones_go(store: Store, put: Any) -> None:
    for label in ("one", "two", "three"):
        put(store, images=[{"label": label}])
    states = [str(s.snapshot_id) for _, s in store.pin().all_snapshots()]
    assert vacuum(store).snapshots == {}
    assert [labels(store, state) for state in states] == [["one"], ["two"], ["three"]]
    report = vacuum(store, keep=NONE)
    assert report.snapshots == {"images": 2}
    assert labels(store) == ["three"]
    assert len(data_files(store, "images")) == 1
    with pytest.raises(InputError, match=f"no snapshot {states[0]}"):
        store.pin(states[0])
    sound(store)


def test_a_state_is_as_old_as_what_replaced_it(store: Store, put: Any) -> None:
    """A reader may have pinned a snapshot of last year a second before another took its place."""
    put(store, images=[{"label": "old"}])
    table = store.pin().tables["images"]
    long_ago = datetime.now(UTC) - timedelta(days=300)
    put(store, images=[{"label": "new"}])
    table = store.pin().tables["images"]
    first, second = sorted(table.metadata.snapshots, key=lambda s: s.sequence_number or 0)
    aged = first.model_copy(update={"timestamp_ms": int(long_ago.timestamp() * 1000)})
    old = table.metadata.model_copy(update={"snapshots": [aged, second]})
    table.metadata = old
    week_ago = datetime.now(UTC) - timedelta(days=7)
    assert vacuum_module.expired(table, before=week_ago, needed=[]) == []
    assert vacuum_module.expired(table, before=datetime.now(UTC) + timedelta(seconds=1), needed=[]) == [
        first.snapshot_id
    ]


def test_a_tag_keeps_its_state_for_ever(store: Store, put: Any) -> None:
    put(store, images=[{"label": "one"}], runs=[{"run_id": "r"}])
    create_tag(store, "first")
    put(store, images=[{"label": "two"}])
    put(store, images=[{"label": "three"}])
    assert vacuum(store, keep=NONE, grace=NONE).snapshots == {"images": 1}
    assert (labels(store, "first"), labels(store)) == (["one"], ["three"])
    sound(store)


def test_a_tag_made_meanwhile_is_not_lost(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, images=[{"label": "one"}])
    put(store, images=[{"label": "two"}])
    first = min(store.pin().tables["images"].metadata.snapshots, key=lambda s: s.timestamp_ms).snapshot_id
    original = vacuum_module._expire

    def late(*arguments: Any) -> None:
        monkeypatch.undo()
        create_tag(store, "meanwhile", str(first))
        original(*arguments)

    monkeypatch.setattr(vacuum_module, "_expire", late)
    assert vacuum(store, keep=NONE).snapshots == {}
    assert labels(store, "meanwhile") == ["one"]
    sound(store)


def test_a_tag_on_a_state_vacuumed_meanwhile_is_refused(
    store: Store, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, images=[{"label": "one"}])
    put(store, images=[{"label": "two"}])
    first = min(store.pin().tables["images"].metadata.snapshots, key=lambda s: s.timestamp_ms).snapshot_id
    original = Pin.resolve

    def late(pin: Pin, at: str) -> Pin:
        monkeypatch.undo()
        found = original(pin, at)
        vacuum(store, keep=NONE)
        return found

    monkeypatch.setattr(Pin, "resolve", late)
    with pytest.raises(InputError, match=f"no snapshot {first}"):
        create_tag(store, "late", str(first))
    assert store.pin().tags() == {}


def test_a_time_before_the_oldest_kept_state_is_refused_not_shown_as_empty(store: Store, put: Any) -> None:
    born = datetime.now(UTC).isoformat()
    put(store, images=[{"label": "one"}])
    assert labels(store, born) == []
    time.sleep(0.02)
    then = datetime.now(UTC).isoformat()
    time.sleep(0.02)
    put(store, images=[{"label": "two"}])
    assert labels(store, then) == ["one"]
    vacuum(store, keep=NONE)
    for moment in (born, then):
        with pytest.raises(InputError, match="'images' at that time is no longer kept"):
            store.pin(moment)


def test_leftovers_go_once_they_are_old(store: Store, table_of: Any, put: Any) -> None:
    put(store, images=[{"label": "kept"}])
    write_rows(store, "images", table_of(store, "images", [{"item_id": "killed"}]))
    assert (vacuum(store).files, len(data_files(store, "images"))) == (0, 2)
    age(store)
    report = vacuum(store)
    assert (report.files, report.leftovers, report.snapshots) == (1, 1, {})
    assert len(data_files(store, "images")) == 1
    assert labels(store) == ["kept"]
    sound(store)


def test_metadata_that_lost_a_race_goes_too(store: Store, put: Any) -> None:
    put(store, images=[{}])
    folder = local_path(f"{store.url}/tables/images/metadata")
    assert folder is not None
    (folder / "lost-m0.avro").write_bytes(b"x")
    age(store)
    assert vacuum(store).files == 1
    assert not (folder / "lost-m0.avro").exists()
    sound(store)


def test_what_a_running_job_has_written_stays_however_old(store: Store, table_of: Any) -> None:
    run = new_run("extract", {})
    record_run(store, run, "running")
    write_rows(store, "images", table_of(store, "images", [{}]))
    report = vacuum(store, grace=NONE)
    assert report.files == 0
    assert report.held == (f"extract {run.run_id} on {socket.gethostname()}",)
    record_run(store, run, "done")
    age(store)
    assert vacuum(store).leftovers == 1


def test_a_killed_job_holds_nothing(store: Store, put: Any, table_of: Any) -> None:
    put(store, runs=[{"run_id": "dead", "state": "running", "host": socket.gethostname(), "pid": 2**22 + 1}])
    write_rows(store, "images", table_of(store, "images", [{}]))
    age(store)
    assert vacuum(store).leftovers == 1


def test_a_job_on_another_machine_holds_its_files_until_it_is_declared_dead(
    store: Store, put: Any, table_of: Any
) -> None:
    put(store, runs=[{"run_id": "far", "state": "running", "host": "elsewhere", "pid": 1, "started_at": OLD_TIME}])
    write_rows(store, "images", table_of(store, "images", [{}]))
    assert vacuum(store, grace=NONE).files == 0
    abandon(store, "far")
    assert sql(store, "select state, error from runs where run_id = 'far'") == [
        ("failed", "abandoned: declared dead by a user")
    ]
    age(store)
    assert vacuum(store).leftovers == 1
    with pytest.raises(InputError, match="no run 'far' at work; allowed: none is"):
        abandon(store, "far")


OLD_TIME = datetime.fromtimestamp(OLD - 86_400, UTC)


def test_a_job_that_is_alive_here_is_not_declared_dead(store: Store) -> None:
    run = new_run("extract", {})
    record_run(store, run, "running")
    with pytest.raises(InputError, match="is alive on this machine"):
        abandon(store, run.run_id)
    assert [working.run_id for working in runs_at_work(store, store.pin())] == [run.run_id]


def test_the_states_that_a_training_reads_stay(store: Store, put: Any) -> None:
    put(store, pool_3=[{"pool_3": np.ones(2048)}])
    read = store.pin().snapshots["pool_3"]
    run = new_run("train", {})
    record_run(store, run, "running", details={"snapshots": {"pool_3": read, "mixed_10": None}})
    put(store, pool_3=[{"pool_3": np.zeros(2048)}])
    put(store, pool_3=[{"pool_3": np.full(2048, 2)}])
    assert vacuum(store, keep=NONE, grace=NONE).snapshots.get("pool_3") == 1
    assert store.pin().tables["pool_3"].metadata.snapshot_by_id(read or 0)
    record_run(store, run, "done")
    assert vacuum(store, keep=NONE).snapshots["pool_3"] == 1
    sound(store)


def test_a_commit_planned_before_its_files_were_removed_does_not_land(
    store: Store, table_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was stopped for days between planning and committing comes back."""
    (file,) = write_rows(store, "images", table_of(store, "images", [{}]))
    age(store)

    def plan(pin: Pin) -> list[Change]:
        return [Change("images", (file,))]

    from ferstore.store import commit as commit_module

    original = commit_module.commit_transactions

    def stopped(*arguments: Any) -> None:
        monkeypatch.undo()
        assert vacuum(store).leftovers == 1
        original(*arguments)

    monkeypatch.setattr(commit_module, "commit_transactions", stopped)
    with pytest.raises(ConflictError, match="taken for the leftover of a dead job"):
        transact(store, plan, {})
    assert labels(store) == []
    sound(store)


def test_cut_short_between_commit_and_removal_the_next_one_goes_on(
    store: Store, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("one", "two"):
        put(store, images=[{"label": label}])

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vacuum_module, "remove_files", crash)
        with pytest.raises(KeyboardInterrupt):
            vacuum(store, keep=NONE)
    sound(store)
    assert len(data_files(store, "images")) == 2
    age(store)
    vacuum(store, keep=NONE)
    assert len(data_files(store, "images")) == 1
    sound(store)


def test_a_dry_run_counts_what_would_go_and_changes_nothing(
    store: Store, put: Any, table_of: Any, tmp_path: Path
) -> None:
    for label in ("one", "two"):
        put(store, images=[{"label": label}])
    write_rows(store, "images", table_of(store, "images", [{"item_id": "killed"}]))
    age(store)
    before = tree_digest(tmp_path / "store")
    planned = vacuum(store, keep=NONE, dry_run=True)
    assert tree_digest(tmp_path / "store") == before
    done = vacuum(store, keep=NONE)
    assert (planned.snapshots, planned.leftovers) == (done.snapshots, done.leftovers)
    assert planned.files <= done.files <= planned.files + 1  # the oldest metadata file may leave its log meanwhile
    assert vacuum(store, keep=NONE, dry_run=True).leftovers == 0


def test_after_a_compaction_only_the_merged_files_are_left(store: Store, put: Any) -> None:
    for number in range(4):
        put(store, pool_3=[{"image_id": str(number), "pool_3": np.ones(2048)}])
    compact(store)
    vacuum(store, keep=NONE)
    assert len(data_files(store, "pool_3")) == 1
    assert sql(store, "select count(*) from pool_3") == [(4,)]
    assert [file for file in leftovers(store, references(store.pin())) if file.data] == []
    sound(store)


def test_it_gives_up_when_others_write_without_end(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("one", "two"):
        put(store, images=[{"label": label}])
    original = vacuum_module._expire

    def late(*arguments: Any) -> None:
        put(store, images=[{"label": "other"}])
        original(*arguments)

    monkeypatch.setattr(vacuum_module, "_expire", late)
    monkeypatch.setattr(attempts_module, "_ATTEMPTS", 2)
    monkeypatch.setattr(attempts_module, "_PATIENCE", 0.0)
    with pytest.raises(ConflictError, match="2 times in a row"):
        vacuum(store, keep=NONE)
    sound(store)


def test_removing_what_is_gone_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    counted: list[int] = []
    remove_files([str(tmp_path / "there"), f"file://{tmp_path}/gone"], counted.append)
    assert counted == [1, 1]
    assert list(tmp_path.iterdir()) == []
