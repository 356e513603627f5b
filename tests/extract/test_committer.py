"""Commits of shards: each image view once in each layer, all layers at once, whoever else is committing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import sql, tree_digest
from sqlalchemy.exc import OperationalError

from ferstore.errors import UnavailableError
from ferstore.extract.committer import Committer
from ferstore.extract.identity import Extractor
from ferstore.extract.plan import WorkItem
from ferstore.extract.worker import Failure, ShardResult, feature_rows
from ferstore.store import attempts as attempts_module
from ferstore.store import commit as commit_module
from ferstore.store.catalog import commit_transactions
from ferstore.store.files import write_data_file
from ferstore.store.runs import new_run
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.vacuum import vacuum
from ferstore.store.verify import verify
from ferstore.store.writer import encode

LAYERS = ("pool_3", "mixed_10")
EXTRACTOR = Extractor("random", "random", "0" * 64, 0, "v", "p", "float32", "float16")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def work(number: int, view: str = "identity") -> WorkItem:
    return WorkItem(f"{number:064x}", view, (f"file:///{number}",), "d", f"item {number}")


def committer(store: Store, extractor: Extractor = EXTRACTOR) -> Committer:
    run = new_run("extract", {}, extractor_id=extractor.extractor_id)
    return Committer(open_store(store.url), run, extractor, store.pin())


def shard(
    by: Committer, numbers: Sequence[int], failed: Sequence[int] = (), layers: Sequence[str] = LAYERS
) -> ShardResult:
    """A finished shard: its files are written, and the features say which run wrote them."""
    items = tuple(map(work, numbers))
    mark = int(by.run.run_id[-4:], 16) % 1000
    files = []
    now = datetime.now(UTC)
    for layer in layers if items else ():
        schema = by.store.schemas[layer]
        assert schema.feature is not None
        values = np.full((len(items), *schema.feature.shape), mark, np.float32)
        rows = feature_rows(schema, items, values, by.extractor.extractor_id, now)
        files.append(write_data_file(by.store.data_folder(layer), by.run.run_id, encode(schema, rows), len(items)))
    failures = tuple(Failure(work(number), f"broken {number}") for number in failed)
    return ShardResult(tuple(layers), tuple(files), items, failures, 0.0)


def commit(by: Committer, *results: ShardResult) -> dict[str, int]:
    for result in results:
        by.add(result)
    by.flush()
    return by.counts.asdict()


def keys(store: Store, layer: str) -> list[tuple[int, float]]:
    """(image, norm) of every row of a layer: the norm tells who computed it."""
    return sorted((int(str(i), 16), float(str(n))) for i, n in sql(store, f"select image_id, norm from {layer}"))


def quarantine(store: Store) -> list[tuple[Any, ...]]:
    return sql(store, "select item, view, error, attempts, extractor_id, run_id from quarantine order by item")


def lose_answers(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the next commits happen and then fail, as when the connection drops before the answer."""
    lost: list[int] = []

    def commit_and_lose(*arguments: Any) -> None:
        commit_transactions(*arguments)
        if len(lost) < times:
            lost.append(1)
            raise OperationalError("update", {}, Exception("connection lost"))

    monkeypatch.setattr(commit_module, "commit_transactions", commit_and_lose)
    monkeypatch.setattr(attempts_module, "_FIRST_WAIT", 0.0)
    return lost


def test_overlapping_shards_of_two_jobs_leave_every_key_once_and_the_layers_agree(store: Store) -> None:
    first, second = committer(store), committer(store)
    results = shard(first, range(6)), shard(second, range(4, 10))
    assert commit(first, results[0]) == {"computed": 6, "landed_elsewhere": 0, "quarantined": 0}
    assert commit(second, results[1]) == {"computed": 4, "landed_elsewhere": 2, "quarantined": 0}
    assert [key for key, _ in keys(store, "pool_3")] == list(range(10))
    assert [key for key, _ in keys(store, "mixed_10")] == list(range(10))
    by_layer = [sql(store, f"select image_id, extracted_at from {layer} order by 1") for layer in LAYERS]
    assert by_layer[0] == by_layer[1]
    assert verify(store).sound


def test_a_shard_that_another_job_did_in_full_adds_nothing(store: Store) -> None:
    first, second = committer(store), committer(store)
    late = shard(second, range(4))
    commit(first, shard(first, range(4)))
    before = sql(store, "select count(*) from pool_3")
    assert commit(second, late) == {"computed": 0, "landed_elsewhere": 4, "quarantined": 0}
    assert sql(store, "select count(*) from pool_3") == before
    assert second.landed(work(3), LAYERS)
    assert not second.landed(work(4), LAYERS)


def test_a_job_that_fills_one_layer_leaves_the_other_to_the_job_that_fills_both(store: Store) -> None:
    narrow, wide = committer(store), committer(store)
    late = shard(wide, range(3))
    commit(narrow, shard(narrow, range(3), layers=("pool_3",)))
    assert commit(wide, late)["computed"] == 3
    assert [key for key, _ in keys(store, "pool_3")] == [0, 1, 2]
    assert [key for key, _ in keys(store, "mixed_10")] == [0, 1, 2]


def test_two_extractors_do_not_take_each_other_for_done(store: Store) -> None:
    first, second = committer(store), committer(store, replace(EXTRACTOR, precision="bfloat16"))
    late = shard(second, range(3))
    commit(first, shard(first, range(3)))
    assert commit(second, late) == {"computed": 3, "landed_elsewhere": 0, "quarantined": 0}
    assert sql(store, "select count(*), count(distinct extractor_id) from mixed_10") == [(6, 2)]
    assert sql(store, "select count(*) from extractors") == [(2,)]


def test_a_reader_sees_both_layers_of_a_shard_or_neither(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    by = committer(store)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        pin = store.pin()
        found = [sum(file.record_count for file in pin.data_files(layer)) for layer in LAYERS]
        seen.append((found[0], found[1]))

    def watched(*arguments: Any) -> None:
        look()
        commit_transactions(*arguments)
        look()

    monkeypatch.setattr(commit_module, "commit_transactions", watched)
    for start in (0, 5):
        commit(by, shard(by, range(start, start + 5)))
    assert seen == [(0, 0), (5, 5), (5, 5), (10, 10)]


def test_a_commit_that_is_refused_lands_in_no_layer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    by, other = committer(store), committer(store)
    late = shard(by, range(4))
    raced: list[int] = []

    def race(*arguments: Any) -> None:
        if not raced:  # between this job's plan and its commit, another one moves one of the two tables
            raced.append(1)
            commit(other, shard(other, range(2, 6), layers=("mixed_10",)))
        commit_transactions(*arguments)

    monkeypatch.setattr(commit_module, "commit_transactions", race)
    assert commit(by, late)["computed"] == 4
    assert [key for key, _ in keys(store, "pool_3")] == [0, 1, 2, 3]
    assert [key for key, _ in keys(store, "mixed_10")] == [0, 1, 2, 3, 4, 5]
    assert verify(store).sound


def test_a_commit_whose_answer_was_lost_is_counted_once_and_adds_nothing_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = committer(store)
    results = shard(by, range(4), failed=[9]), shard(by, range(4, 6))
    lost = lose_answers(monkeypatch, 1)
    assert commit(by, *results) == {"computed": 6, "landed_elsewhere": 0, "quarantined": 1}
    assert lost == [1]
    assert [key for key, _ in keys(store, "pool_3")] == list(range(6))
    assert [key for key, _ in keys(store, "mixed_10")] == list(range(6))
    assert [(row[0], row[3]) for row in quarantine(store)] == [("item 9", 1)]
    assert sql(store, "select count(*) from extractors") == [(1,)]


def test_a_rewritten_shard_whose_answer_was_lost_is_still_counted_as_computed_here(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = committer(store), committer(store)
    late = shard(second, range(4, 10))
    commit(first, shard(first, range(6)))
    lose_answers(monkeypatch, 1)
    assert commit(second, late) == {"computed": 4, "landed_elsewhere": 2, "quarantined": 0}
    assert [key for key, _ in keys(store, "pool_3")] == list(range(10))
    assert verify(store).sound


def test_a_catalog_that_never_answers_is_told_and_nothing_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OperationalError("update", {}, Exception("locked"))

    by = committer(store)
    by.add(shard(by, range(2)))
    monkeypatch.setattr(commit_module, "commit_transactions", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UnavailableError, match="nothing is lost"):
        by.flush()
    assert sql(store, "select count(*) from pool_3") == [(0,)]


def test_attempts_grow_from_run_to_run_and_the_first_time_stays(store: Store) -> None:
    seen = []
    for _ in range(3):
        by = committer(store)
        commit(by, shard(by, [], failed=[7]))
        seen += sql(store, "select attempts, first_seen, run_id from quarantine")
        assert seen[-1][2] == by.run.run_id
    assert [row[0] for row in seen] == [1, 2, 3]
    assert len({row[1] for row in seen}) == 1


def test_an_item_that_succeeds_at_last_leaves_quarantine_and_the_others_stay(store: Store) -> None:
    first = committer(store)
    commit(first, shard(first, [], failed=[7, 8]))
    second = committer(store)
    commit(second, shard(second, [7]))
    assert [row[0] for row in quarantine(store)] == ["item 8"]


def test_quarantine_of_one_extractor_is_not_healed_by_another(store: Store) -> None:
    first, second = committer(store), committer(store, replace(EXTRACTOR, precision="bfloat16"))
    commit(first, shard(first, [], failed=[7]))
    commit(second, shard(second, [7]))
    assert [row[4] for row in quarantine(store)] == [EXTRACTOR.extractor_id]


def test_the_extractor_is_one_row_that_is_there_before_any_of_its_features_can_be_read(store: Store) -> None:
    for numbers in (range(2), range(2, 4)):
        by = committer(store)
        commit(by, shard(by, numbers))
    assert sql(store, "select extractor_id, weights_kind, precision from extractors") == [
        (EXTRACTOR.extractor_id, "random", "float32")
    ]
    assert len(store.pin().tables["extractors"].metadata.snapshots) == 1


def test_a_group_is_one_commit(store: Store) -> None:
    by = committer(store)
    for number in range(10):
        by.add(shard(by, [number]))
    by.flush()
    assert len(store.pin().tables["pool_3"].metadata.snapshots) == 2  # eight shards, then two
    assert by.counts.computed == 10


def test_a_shard_waits_only_so_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferstore.extract.committer._PATIENCE", -1.0)
    by = committer(store)
    by.add(shard(by, [1]))
    assert by.counts.computed == 1


def test_nothing_finished_commits_nothing(store: Store, tmp_path: Path) -> None:
    before = tree_digest(tmp_path / "store")
    by = committer(store)
    by.flush()
    commit(by, ShardResult(LAYERS, (), (), (), 0.0))
    assert tree_digest(tmp_path / "store") == before


def test_an_item_that_another_job_could_compute_is_not_quarantined(store: Store) -> None:
    first, second, third = committer(store), committer(store), committer(store)
    results = shard(second, [], failed=[1, 2]), shard(third, [5], failed=[2])
    commit(first, shard(first, [1, 2]))
    assert commit(second, results[0]) == {"computed": 0, "landed_elsewhere": 2, "quarantined": 0}
    assert commit(third, results[1]) == {"computed": 1, "landed_elsewhere": 1, "quarantined": 0}
    assert quarantine(store) == []


def test_an_item_that_killed_its_process_is_quarantined_though_its_shard_names_no_layer(store: Store) -> None:
    assert commit(by := committer(store), shard(by, (), failed=[1], layers=()))["quarantined"] == 1
    assert [row[0] for row in quarantine(store)] == ["item 1"]


def test_an_item_that_another_job_has_in_one_layer_only_is_quarantined(store: Store) -> None:
    first, second = committer(store), committer(store)
    late = shard(second, [], failed=[1])
    commit(first, shard(first, [1], layers=("pool_3",)))
    assert commit(second, late) == {"computed": 0, "landed_elsewhere": 0, "quarantined": 1}


def test_a_job_goes_on_after_the_state_it_was_planned_on_was_vacuumed(store: Store) -> None:
    commit(committer(store), shard(committer(store), [1]))
    slow, quick = committer(store), committer(store)
    late = shard(slow, [2, 3])
    commit(quick, shard(quick, [3, 4]))
    vacuum(store, keep=timedelta(0))
    assert commit(slow, late) == {"computed": 1, "landed_elsewhere": 1, "quarantined": 0}
    assert [key for key, _ in keys(store, "mixed_10")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("shards", "cost", "ago", "waited", "commits"),
    [
        (7, 0.0, 60.0, 0.0, False),
        (8, 0.0, 0.0, 0.0, True),
        (8, 2.0, 5.0, 0.0, False),
        (8, 2.0, 7.0, 0.0, True),
        (64, 60.0, 0.0, 0.0, True),
        (2, 0.0, 60.0, 9.0, False),
        (2, 9.0, 11.0, 11.0, True),
    ],
)
def test_groups_grow_with_what_a_commit_costs_and_no_shard_waits_long(
    store: Store, monkeypatch: pytest.MonkeyPatch, shards: int, cost: float, ago: float, waited: float, commits: bool
) -> None:
    """A driver whose commits are slow must still find the time to hand out shards."""
    by = committer(store)
    flushed: list[int] = []
    monkeypatch.setattr(Committer, "flush", lambda self: flushed.append(len(self._pending)))
    by._cost, by._ended = cost, time.monotonic() - ago
    for number in range(shards):
        by.add(ShardResult((), (), (), (), 0.0))
        by._since -= 0 if number else waited
    assert flushed == ([shards] if commits else [])
