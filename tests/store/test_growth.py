"""What a commit looks at does not grow with the commits before it. Counted, not timed."""

from __future__ import annotations

import copy
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import ManifestFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadataUtil
from pyiceberg.table.snapshots import Snapshot, Summary

from ferstore.extract.committer import Committer
from ferstore.extract.identity import Extractor
from ferstore.extract.plan import WorkItem
from ferstore.extract.worker import ShardResult, feature_rows
from ferstore.store.commit import Change, describe_files, transact
from ferstore.store.files import StoredFile, write_data_file
from ferstore.store.runs import new_run
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.vacuum import vacuum
from ferstore.store.writer import encode

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LAYERS = ("mixed_7_mean", "mixed_8_mean")
EXTRACTOR = Extractor("random", "random", "0" * 64, 0, "v", "p", "float32", "float16")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def shard(store: Store, number: int) -> ShardResult:
    item = WorkItem(f"{number:064x}", "identity", ("u",), "d", str(number))
    return ShardResult(LAYERS, tuple(file(store, layer, item) for layer in LAYERS), (item,), (), 0.0)


def file(store: Store, layer: str, item: WorkItem) -> StoredFile:
    schema = store.schemas[layer]
    assert schema.feature is not None
    values = np.ones((1, *schema.feature.shape), np.float32)
    rows = feature_rows(schema, [item], values, EXTRACTOR.extractor_id, NOW)
    return write_data_file(store.data_folder(layer), "run", encode(schema, rows), 1)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often metadata is parsed, a snapshot of the past copied or its summary looked into, and a file listed."""
    seen: Counter[str] = Counter()
    parse, entries = FromInputFile.table_metadata, ManifestFile.fetch_manifest_entry
    look = Summary.__getattr__  # type: ignore[attr-defined]

    def parsed(*given: Any, **named: Any) -> Any:
        seen["metadata parsed"] += 1
        return parse(*given, **named)

    def listed(*given: Any, **named: Any) -> Any:
        found = entries(*given, **named)
        seen["files listed"] += len(found)
        return found

    def copied(snapshot: Snapshot, memo: Any = None) -> Snapshot:
        seen["snapshots copied"] += 1
        return snapshot.model_copy()

    def looked(summary: Summary, name: str) -> Any:
        seen["summaries"] += name == "_additional_properties"
        return look(summary, name)

    monkeypatch.setattr(Summary, "__getattr__", looked)
    monkeypatch.setattr(FromInputFile, "table_metadata", staticmethod(parsed))
    monkeypatch.setattr(ManifestFile, "fetch_manifest_entry", listed)
    monkeypatch.setattr(Snapshot, "__deepcopy__", copied, raising=False)
    return seen


def test_the_twentieth_commit_of_a_job_looks_at_what_the_third_does(store: Store, work: Counter[str]) -> None:
    run = new_run("extract", {}, extractor_id=EXTRACTOR.extractor_id)
    committer = Committer(store, run, EXTRACTOR, store.pin())
    costs = []
    for number in range(20):
        committer.add(shard(store, number))
        work.clear()
        committer.flush()
        costs.append(dict(work))
    assert committer.counts.computed == 20
    assert costs[19] == costs[3]
    assert work["summaries"] > 0
    assert work["metadata parsed"] == work["snapshots copied"] == 0


def test_metadata_that_is_kept_is_what_was_written(store: Store) -> None:
    """A job goes on from what it staged, without reading it back."""
    run = new_run("extract", {}, extractor_id=EXTRACTOR.extractor_id)
    committer = Committer(store, run, EXTRACTOR, store.pin())
    for number in range(3):
        committer.add(shard(store, number))
        committer.flush()
    kept, read = store.pin(), open_store(store.url).pin()
    for name in store.schemas:
        assert kept.tables[name].metadata_location == read.tables[name].metadata_location
        assert kept.tables[name].metadata.model_dump_json() == read.tables[name].metadata.model_dump_json()
    untouched = copy.copy(read.tables[LAYERS[0]].metadata.snapshots)
    committer.add(shard(store, 3))
    committer.flush()
    assert kept.tables[LAYERS[0]].metadata.snapshots == untouched, "a pin does not move"


@pytest.mark.parametrize("expired", [False, True])
def test_metadata_is_written_as_pyiceberg_would(store: Store, expired: bool) -> None:
    """Also of a snapshot whose parent expired, after the snapshot itself was written with it."""
    layer = LAYERS[0]
    for number in range(3):
        if expired and number == 2:
            vacuum(store, keep=timedelta(0), grace=timedelta(days=1))
        one = shard(store, number).files[0]
        transact(store, lambda _, one=one: [Change(layer, (one,))], {"note": 'of "it" all, naïve'})  # type: ignore[misc]
    metadata = store.pin().tables[layer].metadata
    written = json.loads(metadata.model_dump_json())
    plain = TableMetadataUtil.parse_obj(written)
    assert type(plain) is not type(metadata)
    assert written == json.loads(plain.model_dump_json()) == json.loads(metadata.model_dump_json(by_alias=True))
    assert [one.get("parent-snapshot-id") is None for one in written["snapshots"]] == [True, *[False] * (2 - expired)]
    for snapshot in metadata.snapshots:
        assert metadata.snapshot_by_id(snapshot.snapshot_id) is snapshot
    assert metadata.snapshot_by_id(1) is None


def test_metadata_of_another_writer_is_read(store: Store) -> None:
    other = open_store(store.url)
    before = store.pin().snapshots["images"]
    transact(other, lambda pin: [Change(LAYERS[0], (shard(other, 1).files[0],))], {})
    assert store.pin().snapshots[LAYERS[0]] == other.pin().snapshots[LAYERS[0]]
    assert store.pin().snapshots["images"] == before


def test_files_added_since_a_state_are_those_and_unknown_where_more_happened(store: Store) -> None:
    layer = LAYERS[0]
    files = [shard(store, number).files[0] for number in range(4)]
    assert store.pin().added_since(layer, None) is None
    pins = [transact(store, lambda _, one=one: [Change(layer, (one,))], {}) for one in files[:3]]  # type: ignore[misc]
    since = pins[0].snapshots[layer]
    added = pins[2].added_since(layer, since)
    assert added is not None
    assert {one.file_path for one in added} == {files[1].url, files[2].url}
    assert pins[2].added_since(layer, pins[2].snapshots[layer]) == []
    assert pins[0].added_since(layer, pins[2].snapshots[layer]) is None, "not of its past"
    gone = pins[2].data_files(layer)[0]
    after = transact(store, lambda _: [Change(layer, (files[3],), (gone,))], {})
    assert after.added_since(layer, since) is None, "rows were taken out"


def test_a_past_that_was_vacuumed_is_not_known(store: Store) -> None:
    layer = LAYERS[0]
    pins = []
    for number in range(3):
        one = shard(store, number).files[0]
        pins.append(transact(store, lambda _, one=one: [Change(layer, (one,))], {}))  # type: ignore[misc]
    vacuum(store, keep=timedelta(0), grace=timedelta(days=1))
    assert store.pin().added_since(layer, pins[0].snapshots[layer]) is None


def test_a_file_is_described_as_pyiceberg_would(store: Store) -> None:
    table = store.pin().tables[LAYERS[0]]
    one = shard(store, 1).files[0]
    [found] = describe_files(table, store.schemas[LAYERS[0]], [one])
    expected = parquet_file_to_data_file(table.io, table.metadata, one.url)
    assert [found[i] for i in range(len(found))] == [expected[i] for i in range(len(expected))]
