"""A session keeps the process of a query for the next one, and what happened in one does not reach the next."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ferstore.api import FeatureStore
from ferstore.errors import QueryError
from ferstore.query.limits import Limits
from ferstore.query.session import Session
from ferstore.store.store import init_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore(init_store(str(tmp_path_factory.mktemp("kept") / "store")))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process of a query that a test starts."""
    found: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*given: Any, **named: Any) -> Any:
        found.append(popen(*given, **named))
        return found[-1]

    monkeypatch.setattr("ferstore.query.isolated.subprocess.Popen", remember)
    return found


@pytest.fixture
def session(store: FeatureStore, started: list[subprocess.Popen[bytes]]) -> Iterator[Session]:
    with store.session(limits=Limits(memory=1 << 30)) as session:
        yield session
    assert all(process.poll() is not None for process in started), "closed, it leaves no process"


def ask(session: Session, query: str) -> list[tuple[Any, ...]]:
    with session.execute(query) as cursor:
        return list(cursor.rows())


def test_queries_read_to_their_end_share_one_process(session: Session, started: list[Any]) -> None:
    assert [ask(session, f"select {n}") for n in range(3)] == [[(0,)], [(1,)], [(2,)]]
    assert len(ask(session, "from range(10000)")) == 10_000
    assert len(started) == 1


def test_one_that_fails_or_is_left_unread_ends_its_process_alone(session: Session, started: list[Any]) -> None:
    with pytest.raises(QueryError, match="no_such"):
        ask(session, "from no_such")
    assert ask(session, "select 1") == [(1,)]
    with session.execute("from range(1000000000)") as cursor:
        assert next(cursor.rows()) == (0,)
    assert ask(session, "select 2") == [(2,)]
    assert len(started) == 3
    assert [process.poll() is None for process in started] == [False, False, True]


def test_two_at_a_time_have_a_process_each_and_one_is_kept(session: Session, started: list[Any]) -> None:
    with session.execute("select 1") as first, session.execute("select 2") as second:
        assert (list(first.rows()), list(second.rows())) == ([(1,)], [(2,)])
    assert ask(session, "select 3") == [(3,)]
    assert [process.poll() is None for process in started].count(True) == 1
    assert len(started) == 2


def test_a_kept_process_that_was_killed_is_replaced(session: Session, started: list[Any]) -> None:
    ask(session, "select 1")
    os.kill(started[0].pid, signal.SIGKILL)
    started[0].wait()
    assert ask(session, "select 2") == [(2,)]
    assert len(started) == 2


def test_each_has_the_memory_it_may_use_whatever_those_before_it_used(session: Session, started: list[Any]) -> None:
    hungry = "select max(x) from (select repeat('x', 200) || range as x from range(1000000) order by x desc)"
    for _ in range(4):
        assert len(ask(session, hungry)) == 1
    with pytest.raises(QueryError, match="memory"):
        ask(session, "select list(repeat('x', 1000) || range) from range(3000000)")
    assert len(ask(session, hungry)) == 1


def test_nothing_of_a_query_is_seen_by_the_next(session: Session) -> None:
    ask(session, "with mine as (select 42 as x) select setseed(0.5), x from mine")
    with pytest.raises(QueryError, match="mine"):
        ask(session, "from mine")
    assert ask(session, "select count(*) from images") == [(0,)]


def test_a_query_of_its_own_keeps_nothing(store: FeatureStore, started: list[Any], tmp_path: Path) -> None:
    assert store.sql("select 1").rows() == [(1,)]
    assert [process.poll() is None for process in started] == [False]
