"""Vectors stay in memory between two questions while they fit, and are those of the state that is asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferstore.api import FeatureStore
from ferstore.query import vectors as vectors_module
from ferstore.query.vectors import Vectors
from ferstore.store.erase import erase
from ferstore.store.pin import Pin
from ferstore.store.store import Store, init_store

NOW = datetime(2026, 11, 23, tzinfo=UTC)
WIDTH = 768  # of mixed_7_mean
LAYER = "mixed_7_mean"
Put = Callable[..., Pin]


def image(number: int) -> str:
    return f"{number:064x}"


def row(number: int, first: float, extractor: str = "e", later: int = 0) -> dict[str, Any]:
    vector = np.zeros(WIDTH, np.float32)
    vector[:2] = 1, first
    made = NOW + timedelta(seconds=later)
    return {
        "image_id": image(number), "extractor_id": extractor, "view": "identity", LAYER: vector, "extracted_at": made,
    }  # fmt: skip


def item(number: int) -> dict[str, Any]:
    return {"dataset": "d", "item_id": f"{number}", "image_id": image(number), "subject": f"s{number}"}


@pytest.fixture
def store(tmp_path: Path, put: Put) -> Store:
    store = init_store(str(tmp_path / "store"))
    put(store, images=[item(n) for n in range(4)], **{LAYER: [row(n, n) for n in range(4)]})
    return store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Data files that are read."""
    found: list[str] = []
    original = vectors_module.read_file

    def read(url: str, *given: Any, **named: Any) -> Any:
        found.append(url)
        return original(url, *given, **named)

    monkeypatch.setattr(vectors_module, "read_file", read)
    return found


def near(api: FeatureStore, number: int) -> list[int]:
    return [int(one.image_id, 16) for one in api.similar(image(number), k=100, layer=LAYER)]


def test_a_file_is_read_once_and_of_a_later_state_only_what_is_new(store: Store, put: Put, reads: list[str]) -> None:
    api = FeatureStore(store)
    assert near(api, 0) == near(api, 0) == [1, 2, 3]
    assert near(api, 3) == [2, 1, 0]
    assert len(reads) == 1
    put(store, **{LAYER: [row(9, 2.9)]})
    assert near(api, 3) == [9, 2, 1, 0]
    assert len(reads) == len(set(reads)) == 2


def test_what_was_erased_is_not_found_and_not_kept(store: Store, put: Put) -> None:
    api = FeatureStore(store)
    assert near(api, 0) == [1, 2, 3]
    erase(store, subject="s1")
    assert near(api, 0) == [2, 3]
    kept = [block for blocks in api._vectors._kept.values() for block in blocks]
    assert image(1) not in [name for block in kept for name in block.ids.to_pylist()]


def test_what_does_not_fit_is_read_each_time_and_answers_the_same(store: Store, reads: list[str]) -> None:
    small, large = FeatureStore(store), FeatureStore(store)
    small._vectors = Vectors(store, most=4 * WIDTH * 4 - 1)
    large._vectors = Vectors(store, most=4 * WIDTH * 4)
    assert [near(large, n) for n in range(4)] == [near(small, n) for n in range(4)]
    assert not small._vectors._kept
    assert len(reads) == 1 + 4


def test_the_newest_extractor_and_the_state_that_is_asked_are_used(store: Store, put: Put) -> None:
    api = FeatureStore(store)
    store_at = str(store.pin().snapshots[LAYER])
    put(store, **{LAYER: [row(n, 3 - n, "newer", later=9) for n in (0, 2, 3)]})
    assert near(api, 0) == [2, 3]
    assert [int(one.image_id, 16) for one in api.similar(image(0), layer=LAYER, at=store_at)] == [1, 2, 3]
    assert near(api, 1) == [2, 3, 0]  # has only the older one's


def test_many_small_commits_become_one_piece_again(store: Store, put: Put, reads: list[str]) -> None:
    api = FeatureStore(store)
    for number in range(10, 10 + vectors_module._BLOCKS + 3):
        put(store, **{LAYER: [row(number, number)]})
        near(api, 0)
    assert len(api._vectors._kept[LAYER]) <= vectors_module._BLOCKS + 1
    assert len(near(api, 0)) == 3 + vectors_module._BLOCKS + 3
