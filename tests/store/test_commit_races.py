"""Commits against a catalog that moves under them: nothing half done, nothing twice, nothing left over."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from sqlalchemy.exc import OperationalError

from ferstore.errors import SchemaError
from ferstore.store import commit as commit_module
from ferstore.store.commit import Change, transact
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows, replace_rows, write_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag

Put = Callable[..., Pin]
TableOf = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def items(store: Store) -> list[str]:
    return sorted(read_rows(store, store.pin(), "images")["item_id"].to_pylist())


def metadata_files(store: Store) -> set[str]:
    return {str(path) for path in Path(store.url.removeprefix("file://")).glob("tables/*/metadata/*")}


def two_tables(store: Store, table_of: TableOf) -> Callable[[Pin], list[Change]]:
    rows = {name: table_of(store, name, [{}]) for name in ("images", "runs")}
    return lambda pin: [replace_rows(store, pin, name, rows[name]) for name in rows]


def intruder_before(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, step: str, intrude: Callable[[], object], call: int = 1
) -> list[str]:
    """Run ``intrude`` once, before the first (or a later) call of a step of the catalog's commit."""
    original = getattr(catalog, step)
    done: list[str] = []

    def stepped(*args: Any, **kwargs: Any) -> Any:
        done.append(step)
        if len(done) == call:
            intrude()
        return original(*args, **kwargs)

    monkeypatch.setattr(catalog, step, stepped)
    return done


@pytest.mark.parametrize(
    ("step", "call"), [("_update_and_stage_table", 1), ("_write_metadata", 1), ("_write_metadata", 2)]
)
def test_a_table_that_moves_while_a_commit_is_staged_makes_it_plan_again(
    store: Store, table_of: TableOf, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    """Before staging, the snapshot named no longer is the newest; after it, compare and swap finds another file."""
    seen = []
    make = two_tables(store, table_of)

    def plan(pin: Pin) -> list[Change]:
        seen.append((items(store), pin.snapshots["runs"]))
        return make(pin)

    done = intruder_before(
        monkeypatch, store.catalog, step, lambda: record_run(store, new_run("intruder", {}), "done"), call
    )
    before = metadata_files(store)
    transact(store, plan, {})
    assert done
    assert [landed for landed, _ in seen] == [[], []]  # at the second plan nothing of the first had landed
    assert seen[0][1] != seen[1][1]
    assert items(store) == ["-"]
    assert len(read_rows(store, store.pin(), "runs")) == 2
    assert not [path for path in metadata_files(store) - before if path not in reachable(store)]


def reachable(store: Store) -> set[str]:
    """Metadata files, manifest lists and manifests that some table names."""
    found = set()
    for table in store.pin().tables.values():
        found |= {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
        for snapshot in table.metadata.snapshots:
            found |= {snapshot.manifest_list, *(m.manifest_path for m in snapshot.manifests(table.io))}
    return {path.removeprefix("file://") for path in found}


def test_a_commit_that_succeeds_names_all_it_wrote(store: Store, put: Put) -> None:
    for item in "abc":
        put(store, images=[{"item_id": item}], runs=[{"run_id": item}])
    assert metadata_files(store) == reachable(store)


def test_a_file_refused_in_the_second_table_leaves_nothing_of_the_first(store: Store, table_of: TableOf) -> None:
    (good,) = write_rows(store, "images", table_of(store, "images", [{}]))
    before = metadata_files(store)
    with pytest.raises(SchemaError, match="table 'runs'"):
        transact(store, lambda pin: [Change("images", (good,)), Change("runs", (good,))], {})
    assert items(store) == []
    assert metadata_files(store) == before


def test_a_plan_that_sees_its_rows_landed_commits_nothing_more(
    store: Store, table_of: TableOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, lost = commit_module.commit_transactions, []

    def lose_first_answer(*args: Any) -> None:
        original(*args)
        if not lost:
            lost.append(True)
            raise OperationalError("server closed the connection", None, Exception())

    monkeypatch.setattr(commit_module, "commit_transactions", lose_first_answer)
    (file,) = write_rows(store, "images", table_of(store, "images", [{}]))

    def plan(pin: Pin) -> list[Change]:
        known = {data_file.file_path for data_file in pin.data_files("images")}
        return [] if file.url in known else [Change("images", (file,))]

    transact(store, plan, {})
    assert items(store) == ["-"]
    assert len(store.pin().tables["images"].metadata.snapshots) == 1


def test_a_plan_without_changes_makes_no_snapshot(store: Store) -> None:
    before = metadata_files(store)
    transact(store, lambda pin: [Change("images")], {})
    assert metadata_files(store) == before


def test_a_tag_is_made_while_others_write(store: Store, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, images=[{"item_id": "a"}], runs=[{}])
    first = store.pin().snapshots
    done = intruder_before(monkeypatch, store.catalog, "_write_metadata", lambda: put(store, images=[{"item_id": "b"}]))
    tagged = create_tag(store, "frozen")
    assert done
    at_tag = read_rows(store, store.pin("frozen"), "images")["item_id"].to_pylist()
    assert sorted(at_tag) in (["a"], ["a", "b"])
    assert tagged["runs"] == first["runs"]
    assert items(store) == ["a", "b"]


WRITER = """
import sys
from datetime import UTC, datetime
import pyarrow as pa
from ferstore.store.commit import Change, transact
from ferstore.store.rows import read_rows, replace_rows
from ferstore.store.store import open_store

url, writer = sys.argv[1:]
store = open_store(url)
for turn in range(5):
    row = {"dataset": "d", "item_id": f"{writer}-{turn}", "image_id": "i", "source_url": "u"}
    rows = pa.Table.from_pylist([{**row, "ingested_at": datetime.now(UTC)}], store.schemas["images"].arrow())
    transact(store, lambda pin: [replace_rows(store, pin, "images", rows)], {"writer": writer})
"""


def test_processes_that_write_at_once_each_land_every_row_once(store: Store) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, store.url, str(n)], stderr=subprocess.PIPE)
        for n in range(3)
    ]
    for writer in writers:
        _, complaints = writer.communicate(timeout=120)
        assert (writer.returncode, complaints) == (0, b"")
    assert items(store) == sorted(f"{n}-{turn}" for n in range(3) for turn in range(5))
    assert len(store.pin().tables["images"].metadata.snapshots) == 15


KEYS = st.sampled_from(["a", "b", "c", "é", ""])
STEPS = st.lists(
    st.tuples(st.dictionaries(KEYS, st.sampled_from([None, "happy", "sad"]), max_size=3), st.sets(KEYS, max_size=2)),
    max_size=4,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_replacing_and_removing_rows_is_what_a_dict_does(
    store: Store, table_of: TableOf, steps: list[tuple[dict[str, str | None], set[str]]]
) -> None:
    dataset = uuid.uuid4().hex  # every example has rows of its own, beside those of the others
    model: dict[str, str | None] = {}
    for changed, removed in steps:
        new = [{"dataset": dataset, "item_id": key, "label": label} for key, label in changed.items()]
        old = [{"dataset": dataset, "item_id": key} for key in removed - set(changed)]
        rows, gone = table_of(store, "images", new), table_of(store, "images", old).select(["dataset", "item_id"])
        transact(store, lambda pin, rows=rows, gone=gone: [replace_rows(store, pin, "images", rows, gone)], {})
        model = {key: label for key, label in model.items() if key not in removed} | changed
        mine = read_rows(store, store.pin(), "images", ["item_id", "label"], pc.field("dataset") == dataset)
        assert len(mine) == len(model)
        assert {row["item_id"]: row["label"] for row in mine.to_pylist()} == model


def test_a_conflict_error_from_the_catalog_promises_that_nothing_landed(
    store: Store, table_of: TableOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def intrude() -> None:
        record_run(store, new_run("intruder", {}), "done")

    pin, make = store.pin(), two_tables(store, table_of)
    changes = make(pin)
    intruder_before(monkeypatch, store.catalog, "_write_metadata", intrude, call=2)  # after both were staged
    with pytest.raises(CommitFailedException, match="table runs was changed by another writer"):
        commit_module._commit(store, pin, changes, "id", {}, None)
    assert items(store) == []
    assert read_rows(store, store.pin(), "runs")["command"].to_pylist() == ["intruder"]
    assert metadata_files(store) == reachable(store)
