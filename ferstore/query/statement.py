"""What a query may be, decided from DuckDB's own parser before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from ferstore.errors import QueryError

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_CATALOG = re.compile(r"\b(show|describe|desc|summarize|information_schema|duckdb_\w+|pragma_\w+|sqlite_master)\b")
_WORD = re.compile(r"\w+")
_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_settings",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "json_each",
        "json_tree",
        "pragma_table_info",
        "range",
        "repeat",
        "unnest",
    }
)


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
    tree = _tree(inner)
    _refuse_effects(tree)
    lower = query.lower()
    return Statement(
        query,
        frozenset(_WORD.findall(lower)),
        frozenset(_column_names(inner, tree)),
        _CATALOG.search(lower) is not None,
    )


def _kinds(query: str) -> list[duckdb.StatementType]:
    try:
        return [statement.type for statement in duckdb.extract_statements(query)]
    except duckdb.Error as error:
        raise QueryError(one_line(error), hint="mend the query") from error


def _tree(query: str) -> Any:
    """DuckDB's own parse of a SELECT (SHOW, DESCRIBE and SUMMARIZE are SELECTs to it)."""
    with duckdb.connect() as connection:
        row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True, "error_message": "no answer"}
    if tree["error"]:
        raise QueryError(f"DuckDB cannot show what this query does ({tree['error_message']})", hint="mend the query")
    return tree


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _refuse_effects(tree: Any) -> None:
    """A SELECT can hold INSERT or COPY in its WITH, and some table functions run SQL, write files or take pointers."""
    for node in _nodes(tree):
        kind = node["type"]
        if kind.endswith("_NODE") and kind not in _READING_NODES:
            raise QueryError(
                f"{kind.partition('_')[0]} inside a query; the store is read-only here", allowed="SELECT at every level"
            )
        if (
            kind == "TABLE_FUNCTION"
            and (name := str(node["function"]["function_name"]).lower()) not in _TABLE_FUNCTIONS
        ):
            raise QueryError(
                f"table function {name!r}: a query can reach nothing but the store's tables",
                allowed=", ".join(sorted(_TABLE_FUNCTIONS)),
                hint="see: ferstore tables",
            )


def _column_names(query: str, tree: Any) -> Iterator[str]:
    for node in _nodes(tree):
        if node["type"] == "COLUMN_REF":
            yield node["column_names"][-1].lower()
        elif node["type"] == "STAR":  # what a star leaves out or renames must be there
            yield from (name.lower() for name in node["exclude_list"])
            yield from (entry["column"].lower() for entry in node["qualified_exclude_list"])
            yield from (entry["key"]["column"].lower() for entry in node["rename_list"])
        elif node["type"] == "SHOW_REF" and node["show_type"] == "DESCRIBE":  # reads no row: show all columns
            yield from _WORD.findall(query.lower())


def one_line(error: Exception) -> str:
    """DuckDB's message without its picture of the query, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("LINE ", "^"))]
    return " ".join(kept) if kept else type(error).__name__
