"""Planning is exact: every wanted image view that is missing is in one shard, and nothing else is."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.errors import InputError
from ferstore.extract.plan import (
    ACTOR_MEMORY,
    Plan,
    Shard,
    WorkItem,
    actor_count,
    plan_missing,
    select_images,
    shard_size,
    shards_left,
)
from ferstore.extract.worker import Failure, ShardResult
from ferstore.store.files import StoredFile

Key = tuple[str, str]
LAYERS = ("pool_3", "mixed_10", "mixed_9")
VIEWS = ("identity", "hflip")

ids = st.sampled_from([f"{n:02}" for n in range(12)])
views = st.sampled_from([("identity",), ("hflip",), VIEWS])
keys = st.sets(st.tuples(ids, st.sampled_from(VIEWS)))


def images(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    """Rows of (dataset, item_id, image_id)."""
    return pa.table(
        {
            "image_id": pa.array([row[2] for row in rows], pa.string()),
            "source_url": pa.array([f"file:///{row[0]}/{row[1]}" for row in rows], pa.string()),
            "dataset": pa.array([row[0] for row in rows], pa.string()),
            "item_id": pa.array([row[1] for row in rows], pa.string()),
        }
    )


def key_table(found: set[Key]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([key[0] for key in sorted(found)], pa.string()),
            "view": pa.array([key[1] for key in sorted(found)], pa.string()),
        }
    )


def shards(plan: Plan, size: int = 3) -> list[Shard]:
    return [plan.shard(place, size) for place in plan.places(size)]


def planned(made: Iterable[Shard]) -> list[tuple[Key, tuple[str, ...]]]:
    return [((item.image_id, item.view), shard.layers) for shard in made for item in shard.items]


@st.composite
def situations(draw: st.DrawFn) -> tuple[pa.Table, dict[str, set[Key]], set[Key], set[Key]]:
    listed = draw(st.lists(st.tuples(st.sampled_from(["d", "e"]), ids, ids), unique_by=lambda row: row[:2]))
    wanted = select_images(images(listed), draw(views))
    layers = draw(st.lists(st.sampled_from(LAYERS), min_size=1, unique=True))
    done = {layer: draw(keys) for layer in layers}
    every = set(zip(wanted["image_id"].to_pylist(), wanted["view"].to_pylist(), strict=True))
    return wanted, done, draw(keys), every


@given(situation=situations(), size=st.integers(1, 7))
def test_what_is_missing_and_not_quarantined_is_in_exactly_one_shard_with_its_missing_layers(
    situation: tuple[pa.Table, dict[str, set[Key]], set[Key], set[Key]], size: int
) -> None:
    wanted, done, held, every = situation
    plan = plan_missing(wanted, {layer: key_table(found) for layer, found in done.items()}, key_table(held))
    expected = {
        key: tuple(layer for layer in done if key not in done[layer])
        for key in every - held
        if any(key not in found for found in done.values())
    }
    got = planned(shards(plan, size))
    assert len(got) == len(expected)
    assert dict(got) == expected
    assert plan.todo == len(expected)
    assert plan.features == sum(map(len, expected.values()))
    assert plan.wanted == plan.present + plan.quarantined + plan.todo
    assert all(1 <= len(shard.items) <= size for shard in shards(plan, size))


@given(situation=situations(), limit=st.integers(0, 30))
def test_a_limit_leaves_out_the_rest_and_says_how_many(
    situation: tuple[pa.Table, dict[str, set[Key]], set[Key], set[Key]], limit: int
) -> None:
    wanted, done, held, _ = situation
    tables = {layer: key_table(found) for layer, found in done.items()}
    full, limited = (plan_missing(wanted, tables, key_table(held), limit=n) for n in (None, limit))
    assert limited.todo == min(limit, full.todo)
    assert limited.beyond_limit == full.todo - limited.todo
    assert set(planned(shards(limited))) <= set(planned(shards(full)))


@given(situation=situations(), size=st.integers(1, 5), seed=st.integers(0, 99), landed=keys)
def test_wherever_a_job_begins_and_whatever_lands_meanwhile_every_item_is_handed_out_or_counted_once(
    situation: tuple[pa.Table, dict[str, set[Key]], set[Key], set[Key]], size: int, seed: int, landed: set[Key]
) -> None:
    wanted, done, held, _ = situation
    plan = plan_missing(wanted, {layer: key_table(found) for layer, found in done.items()}, key_table(held))
    asked: list[WorkItem] = []

    def look(item: WorkItem, layers: Sequence[str]) -> bool:
        asked.append(item)
        return (item.image_id, item.view) in landed

    handed = list(shards_left(plan, size, look, random.Random(seed)))
    expected = planned(shards(plan, size))
    assert sorted(planned(shard for shard, _ in handed)) == sorted(e for e in expected if e[0] not in landed)
    assert sum(count for _, count in handed) == sum(key in landed for key, _ in expected)
    assert len(asked) == len(expected)


def row_of(count: int) -> Plan:
    wanted = select_images(images([("d", f"{n:03}", f"{n:03}") for n in range(count)]), ["identity"])
    return plan_missing(wanted, {"pool_3": key_table(set())}, key_table(set()))


def test_a_job_alone_goes_through_the_list_in_order_from_anywhere() -> None:
    plan = row_of(20)
    handed = [shard for shard, _ in shards_left(plan, 2, lambda *_: False, random.Random(3))]
    at = shards(plan, 2).index(handed[0])
    assert handed == shards(plan, 2)[at:] + shards(plan, 2)[:at]


def computed_twice(seed: int) -> int:
    """Shards two jobs compute at the same time, where the first has done 100 of 200 and both are equally fast."""
    plan, front, twice = row_of(200), 100, 0

    def landed(item: WorkItem, layers: Sequence[str]) -> bool:
        return int(item.image_id) < front

    for shard, _ in shards_left(plan, 1, landed, random.Random(seed)):
        if shard.items:
            twice += int(shard.items[0].image_id) == front
            front += 1
    return twice


def test_a_job_that_starts_late_does_not_follow_the_first_one_step_for_step() -> None:
    # Following it, one in two jobs would begin behind the first and compute with it to the end: 50 shards.
    assert sum(map(computed_twice, range(40))) < 40 * 50 / 2 / 4


def test_one_image_under_several_items_is_one_work_item_with_every_url() -> None:
    listed = [("b", "2", "same"), ("a", "9", "other"), ("a", "1", "same"), ("b", "1", "same")]
    wanted = select_images(images(listed), ["identity"])
    plan = plan_missing(wanted, {"pool_3": key_table(set())}, key_table(set()))
    (shard,) = shards(plan, 10)
    assert [item.image_id for item in shard.items] == ["same", "other"]
    assert shard.items[0].urls == ("file:///a/1", "file:///b/1", "file:///b/2")
    assert (shard.items[0].dataset, shard.items[0].item_id) == ("a", "1")


def test_views_multiply_the_images() -> None:
    wanted = select_images(images([("a", "1", "x"), ("a", "2", "y")]), VIEWS)
    plan = plan_missing(wanted, {"pool_3": key_table({("x", "hflip")})}, key_table(set()))
    assert sorted(key for key, _ in planned(shards(plan))) == [("x", "identity"), ("y", "hflip"), ("y", "identity")]


def test_a_layer_committed_and_another_not_gives_a_shard_for_the_other_alone() -> None:
    wanted = select_images(images([("a", "1", "x"), ("a", "2", "y")]), ["identity"])
    done = {"pool_3": key_table({("x", "identity")}), "mixed_10": key_table(set())}
    plan = plan_missing(wanted, done, key_table(set()))
    assert dict(planned(shards(plan))) == {("x", "identity"): ("mixed_10",), ("y", "identity"): ("pool_3", "mixed_10")}


def test_no_images_are_an_empty_plan() -> None:
    plan = plan_missing(select_images(images([]), VIEWS), {"pool_3": key_table(set())}, key_table(set()))
    assert (plan.todo, plan.wanted, plan.places(8)) == (0, 0, [])
    assert list(shards_left(plan, 8, lambda *_: False, random.Random(0))) == []


@given(
    todo=st.integers(0, 10**7),
    actors=st.integers(1, 1000),
    batch_size=st.integers(1, 4096),
    largest=st.sampled_from([256, 1024]),
)
def test_a_shard_is_whole_batches_within_its_bounds(todo: int, actors: int, batch_size: int, largest: int) -> None:
    size = shard_size(todo, actors, batch_size, largest)
    assert size % batch_size == 0
    assert batch_size <= size <= max(batch_size, largest)
    if size < largest // batch_size * batch_size:
        assert size - batch_size < -(-todo // (16 * actors)) or size == batch_size


def test_actors_fill_the_cluster_but_never_for_less_than_four_batches() -> None:
    def count(**changed: float) -> int:
        base = {"todo": 10**6, "batch_size": 32, "cpus": 8.0, "gpus": 0.0, "gpus_per_actor": 0.0, "memory": 64 << 30}
        return actor_count(None, **{**base, **changed})  # type: ignore[arg-type]

    assert count() == 8
    assert count(memory=3 * ACTOR_MEMORY) == 3
    assert count(memory=0) == 1
    assert count(todo=300) == 3
    assert count(todo=1) == 1
    assert count(gpus=2.0, gpus_per_actor=0.5) == 4


def test_actors_asked_for_are_the_actors_started() -> None:
    assert actor_count(5, todo=1, batch_size=32, cpus=1, gpus=0, gpus_per_actor=0, memory=0) == 5


def test_a_million_images_are_planned_as_columns_and_taken_shard_by_shard() -> None:
    count = 1_000_000
    numbers = pa.array(np.arange(count)).cast(pa.string())
    listed = pa.table(
        {"image_id": numbers, "source_url": numbers, "dataset": pa.array(["d"] * count), "item_id": numbers}
    )
    wanted = select_images(listed, ["identity"])
    half = pa.table({"image_id": numbers.slice(0, count // 2), "view": pa.array(["identity"] * (count // 2))})
    plan = plan_missing(wanted, {"pool_3": half, "mixed_10": half}, key_table(set()))
    assert (plan.present, plan.todo, len(plan.places(256))) == (count // 2, count // 2, 1954)
    assert len(plan.shard(plan.places(256)[1000], 256).items) == 256


def test_what_is_sparse_over_many_pieces_is_found_in_order() -> None:
    pieces = [images([("d", f"{n:04}", f"{n:04}") for n in range(first, first + 10)]) for first in range(0, 200, 10)]
    wanted = select_images(pa.concat_tables(pieces), VIEWS)
    assert wanted["image_id"].num_chunks > 20
    done = {(f"{n:04}", view) for n in range(200) for view in VIEWS if n % 37}
    plan = plan_missing(wanted, {"pool_3": key_table(done)}, key_table(set()))
    expected = [(f"{n:04}", view) for view in VIEWS for n in range(0, 200, 37)]
    assert [key for key, _ in planned(shards(plan, 5))] == expected
    assert [item.urls for item in shards(plan, 5)[0].items[:2]] == [("file:///d/0000",), ("file:///d/0037",)]


def test_rows_in_any_order_make_the_plan_of_source_order() -> None:
    listed = [("d", f"{n:03}", f"{n % 30:03}") for n in range(40)] + [("c", "x", "005")]
    shuffled = random.Random(1).sample(listed, len(listed))
    assert select_images(images(shuffled), ["identity"]).to_pylist() == (
        select_images(images(sorted(listed)), ["identity"]).to_pylist()
    )
    first = select_images(images(shuffled), ["identity"]).to_pylist()[0]
    assert (first["image_id"], first["dataset"], first["urls"]) == (
        "005",
        "c",
        ["file:///c/x", "file:///d/005", "file:///d/035"],
    )


def test_more_than_one_plan_holds_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferstore.extract.plan.MOST_ITEMS", 3)
    with pytest.raises(InputError, match="4 items in one plan; allowed: up to 3; extract one data set at a time"):
        select_images(images([("d", f"{n}", f"{n}") for n in range(4)]), ["identity"])


@given(
    items=st.lists(st.builds(WorkItem, ids, st.sampled_from(VIEWS), st.tuples(ids, ids), ids, ids)),
    kills=st.integers(0, 2),
    alone=st.booleans(),
)
def test_a_shard_and_its_result_arrive_as_they_were_sent(items: list[WorkItem], kills: int, alone: bool) -> None:
    shard = Shard(tuple(items), LAYERS, kills, alone, 1)
    failures = tuple(Failure(item, "broken") for item in items[:1])
    result = ShardResult(LAYERS, (StoredFile("u", "d", 1, 2),), shard.items, failures, 0.5, 0.25)
    assert pickle.loads(pickle.dumps(shard)) == shard
    assert pickle.loads(pickle.dumps(result)) == result
