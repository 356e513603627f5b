"""Rows of one pinned session as dicts, and values as SQL literals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ferstore.query.session import Session

Row = dict[str, Any]


def ask(session: Session, query: str) -> list[Row]:
    """All rows of a query.

    Raises:
        QueryError: see `ferstore.query.session.Session.execute`.
    """
    with session.execute(query) as cursor:
        rows: list[Row] = cursor.arrow().to_pylist()
    return rows


def literal(text: str) -> str:
    """A string in SQL, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"


def among(column: str, values: Iterable[str]) -> str:
    """A condition that holds for the rows with one of these values; for none where there are none."""
    listed = ", ".join(literal(value) for value in values)
    return f"{column} in ({listed})" if listed else "false"
