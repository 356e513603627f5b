"""What a commit promises: all of it or none, each row once, nothing that does not conform."""

from __future__ import annotations

import errno
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException
from sqlalchemy.exc import OperationalError

from ferstore.errors import ConflictError, SchemaError
from ferstore.store import attempts as attempts_module
from ferstore.store import commit as commit_module
from ferstore.store.commit import Change, transact
from ferstore.store.files import write_data_file
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, replace_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.store.writer import encode

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def images(store: Store, labels: dict[str, str | None], dataset: str = "d") -> pa.Table:
    rows = [
        {"dataset": dataset, "item_id": item, "image_id": f"{n:064x}", "source_url": "u", "label": label}
        for n, (item, label) in enumerate(labels.items())
    ]
    return pa.Table.from_pylist([{**row, "ingested_at": NOW} for row in rows], store.schemas["images"].arrow())


def held(store: Store, at: str | None = None) -> dict[str, str | None]:
    rows = read_rows(store, store.pin(at), "images", ["item_id", "label"]).to_pylist()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return {row["item_id"]: row["label"] for row in rows}


def put(store: Store, labels: dict[str, str | None]) -> None:
    transact(store, lambda pin: [replace_rows(store, pin, "images", images(store, labels))], {"command": "test"})


def test_rows_with_the_same_key_are_replaced_and_others_stay(store: Store) -> None:
    put(store, {"a": "happy", "b": "sad", "c": None})
    before = store.pin()
    put(store, {"b": "fear", "d": "happy"})
    assert held(store) == {"a": "happy", "b": "fear", "c": None, "d": "happy"}
    assert len(read_rows(store, before, "images")) == 3  # a pin does not move


def test_null_in_a_key_equals_null(store: Store) -> None:
    row = {
        "stage": "ingest",
        "dataset": "d",
        "item": "i",
        "error": "x",
        "attempts": 1,
        "first_seen": NOW,
        "run_id": "r",
    }
    arrow = store.schemas["quarantine"].arrow()
    for error in ("x", "y"):
        rows = pa.Table.from_pylist([{**row, "error": error}], arrow)
        transact(store, lambda pin, rows=rows: [replace_rows(store, pin, "quarantine", rows)], {})
    assert read_rows(store, store.pin(), "quarantine")["error"].to_pylist() == ["y"]


def test_two_tables_change_together_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer moves the second table after the first was staged: neither is committed, then both are."""
    calls = []
    original = commit_module.commit_transactions

    def intrude(catalog: object, transactions: list[object]) -> None:
        calls.append(len(transactions))
        if len(calls) == 1:
            monkeypatch.setattr(commit_module, "commit_transactions", original)
            record_run(store, new_run("intruder", {}), "done")
            monkeypatch.setattr(commit_module, "commit_transactions", intrude)
            with pytest.raises(CommitFailedException):
                original(catalog, transactions)  # type: ignore[arg-type]
            assert held(store) == {}
            raise CommitFailedException("as the catalog said")
        original(catalog, transactions)  # type: ignore[arg-type]

    monkeypatch.setattr(commit_module, "commit_transactions", intrude)
    run = pa.Table.from_pylist(
        [
            {
                **dict.fromkeys(store.schemas["runs"].names),
                "run_id": "mine",
                "command": "c",
                "state": "done",
                "arguments": "{}",
                "host": "h",
                "pid": 1,
                "version": "0",
                "started_at": NOW,
            }
        ],
        store.schemas["runs"].arrow(),
    )

    def plan(pin: Pin) -> list[Change]:
        return [
            replace_rows(store, pin, "images", images(store, {"a": "happy"})),
            replace_rows(store, pin, "runs", run),
        ]

    transact(store, plan, {})
    assert calls == [2, 2]
    assert held(store) == {"a": "happy"}
    assert sorted(read_rows(store, store.pin(), "runs")["command"].to_pylist()) == ["c", "intruder"]


def test_a_lost_answer_doubles_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = commit_module.commit_transactions
    lost = []

    def lose_first_answer(catalog: object, transactions: list[object]) -> None:
        original(catalog, transactions)  # type: ignore[arg-type]
        if not lost:
            lost.append(True)
            raise OperationalError("server closed the connection", None, Exception())

    monkeypatch.setattr(commit_module, "commit_transactions", lose_first_answer)
    put(store, {"a": "happy"})
    assert lost
    assert held(store) == {"a": "happy"}


def test_a_plan_that_could_not_be_made_is_made_again(store: Store) -> None:
    """A busy store while rows are looked up says nothing of a commit: there was none."""
    asked = []

    def plan(pin: Pin) -> list[Change]:
        asked.append(pin)
        if len(asked) == 1:
            raise TimeoutError(errno.ETIMEDOUT, "slow down")
        return [replace_rows(store, pin, "images", images(store, {"a": "happy"}))]

    transact(store, plan, {})
    assert held(store) == {"a": "happy"}


def test_writers_at_once_all_land_each_row_once(store: Store) -> None:
    def work(writer: int) -> None:
        for turn in range(4):
            put(store, {f"{writer}-{turn}": "happy", "shared": "sad"})

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(store) == {"shared": "sad", **{f"{w}-{t}": "happy" for w in range(4) for t in range(4)}}


def test_a_writer_that_never_wins_ends_in_a_conflict(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(catalog: object, transactions: object) -> None:
        raise CommitFailedException("busy")

    monkeypatch.setattr(commit_module, "commit_transactions", refuse)
    monkeypatch.setattr(attempts_module, "_PATIENCE", 0.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConflictError, match=r"40 times in a row; run the same command again"):
        put(store, {"a": "happy"})


def test_a_writer_among_quicker_ones_is_patient(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original, refused = commit_module.commit_transactions, []

    def refuse(catalog: Any, transactions: Any) -> None:
        if len(refused) < 60:
            refused.append(1)
            raise CommitFailedException("busy")
        original(catalog, transactions)

    monkeypatch.setattr(commit_module, "commit_transactions", refuse)
    monkeypatch.setattr(attempts_module, "pause", lambda *_: None)
    put(store, {"a": "happy"})
    assert held(store) == {"a": "happy"}


@pytest.mark.parametrize("fault", ["missing column", "wrong type", "nullable"])
def test_a_file_that_does_not_conform_is_refused_and_nothing_is_committed(store: Store, fault: str) -> None:
    rows = images(store, {"a": "happy"})
    if fault == "missing column":
        rows = rows.drop_columns(["votes"])
    elif fault == "wrong type":
        rows = rows.set_column(rows.column_names.index("width"), "width", pa.array(["48"]))
    else:
        rows = rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema]))
    sink = pa.BufferOutputStream()
    import pyarrow.parquet as pq

    pq.write_table(rows, sink)
    file = write_data_file(store.data_folder("images"), "bad", bytes(sink.getvalue()), 1)
    good = write_data_file(
        store.data_folder("images"), "good", encode(store.schemas["images"], images(store, {"b": "sad"})), 1
    )
    with pytest.raises(SchemaError, match="does not conform to table 'images'"):
        transact(store, lambda pin: [Change("images", (good, file))], {})
    assert held(store) == {}


def test_a_snapshot_says_what_made_it(store: Store) -> None:
    run = new_run("test", {"x": 1}, dataset="d")
    transact(store, lambda pin: [replace_rows(store, pin, "images", images(store, {"a": None}))], run.summary({"n": 1}))
    (snapshot,) = store.pin().tables["images"].metadata.snapshots
    assert snapshot.summary is not None
    said = snapshot.summary.additional_properties
    assert (said["ferstore.command"], said["ferstore.run-id"], said["ferstore.counts"]) == (
        "test",
        run.run_id,
        '{"n": 1}',
    )
