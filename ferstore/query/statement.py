"""What a query may be, decided from DuckDB's own parser before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from ferstore.errors import QueryError

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_CATALOG = re.compile(r"\b(show|describe|desc|summarize|information_schema|duckdb_\w+|pragma_\w+|sqlite_master)\b")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Statement:
    """One read-only statement.

    Attributes:
        text: as given.
        words: every word in it, lower case: a superset of the tables it can name.
        columns: last part of every column it names, lower case.
        lists_tables: it asks what tables there are, so all must be defined.
    """

    text: str
    words: frozenset[str]
    columns: frozenset[str]
    lists_tables: bool


def parse(query: str) -> Statement:
    """Accept one SELECT (or EXPLAIN of one), refuse everything else.

    Raises:
        QueryError: it does not parse, is empty, is several statements, or is not read-only.
    """
    kinds = _kinds(query)
    inner = query
    if kinds == [duckdb.StatementType.EXPLAIN]:
        inner = _EXPLAIN.sub("", query, count=1)
        kinds = _kinds(inner)
    if len(kinds) != 1:
        raise QueryError(f"{len(kinds)} statements", allowed="one SELECT", hint="run them one by one")
    if kinds[0] != duckdb.StatementType.SELECT:
        raise QueryError(
            f"a {kinds[0].name} statement; the store is read-only here",
            allowed="one SELECT (also FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN)",
            hint="use --output to write a result to a file",
        )
    lower = query.lower()
    return Statement(
        query, frozenset(_WORD.findall(lower)), frozenset(_columns(inner)), _CATALOG.search(lower) is not None
    )


def _kinds(query: str) -> list[duckdb.StatementType]:
    try:
        return [statement.type for statement in duckdb.extract_statements(query)]
    except duckdb.Error as error:
        raise QueryError(one_line(error), hint="mend the query") from error


def _columns(query: str) -> Iterator[str]:
    row = duckdb.connect().execute("select json_serialize_sql(?)", [query]).fetchone()
    tree = json.loads(row[0]) if row else {}
    if tree.get("error"):  # SHOW and the like have no tree; then any word may be a column
        yield from _WORD.findall(query.lower())
        return
    yield from _column_names(tree)


def _column_names(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "COLUMN_REF":
            yield str(node["column_names"][-1]).lower()
        for value in node.values():
            yield from _column_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from _column_names(value)


def one_line(error: Exception) -> str:
    """DuckDB's message without its picture of the query, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("LINE ", "^"))]
    return " ".join(kept) if kept else type(error).__name__
