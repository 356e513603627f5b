"""What a query may be, decided from DuckDB's own parser before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb

from ferstore.errors import QueryError

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_CATALOG = re.compile(r"\b(show|describe|desc|summarize|information_schema|duckdb_\w+|pragma_\w+|sqlite_master)\b")
_WORD = re.compile(r"\w+")
_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_LONGEST = 100_000  # characters: DuckDB's binder takes minutes over a million
_TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_tables",
        "duckdb_types",
        "generate_series",
        "json_each",
        "json_tree",
        "pragma_table_info",
        "range",
        "repeat",
        "unnest",
    }
)
# Scalar functions only compute, but for these: they tell settings (among them the paths of whoever runs this), run SQL
# that stands in a string, or write a log. A deny-list, for a connection that is locked anyway: an allow-list of the 700
# others would refuse honest work. Table functions, which read, have an allow-list.
_SCALAR_FUNCTIONS_REFUSED = frozenset(
    {
        "current_setting",
        "getenv",
        "getvariable",
        "json_serialize_plan",
        "write_log",
        *("nextval", "currval", "setval"),
        *("finalize", "combine", "to_aggregate_state"),  # take bytes for DuckDB's own memory
        "variant_bytes_to_variant",
    }
)
# Of the catalog's own views, those that tell no setting and no file's path.
_CATALOG_VIEWS = frozenset({"columns", "schemata", "tables"})
_OWN_CATALOG = re.compile(r"(duckdb|pg|pragma|sqlite)_")
_PATH = re.compile(r"[^\w ]")


@dataclass(frozen=True, slots=True)
class Statement:
    """One read-only statement.

    Attributes:
        text: as given.
        columns: last part of every column it names, lower case.
    """

    text: str
    columns: frozenset[str]


def words_of(query: str) -> set[str]:
    """Every word of a query, lower case: a superset of the tables it can name."""
    return set(_WORD.findall(query.lower()))


def asks_for_tables(query: str) -> bool:
    """Whether it asks what tables there are, so that all must be defined."""
    return _CATALOG.search(query.lower()) is not None


def parse(query: str, known: Collection[str] = ()) -> Statement:
    """Accept one SELECT (or EXPLAIN of one), refuse everything else.

    Args:
        query: as given.
        known: tables and views of the store: only they may be the name after SHOW, which else is a setting.

    Raises:
        QueryError: it does not parse, is empty, is several statements, or is not read-only.
    """
    _refuse_text(query)
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
    _refuse_effects(tree, known)
    return Statement(query, frozenset(_column_names(inner, tree)))


def _refuse_text(query: str) -> None:
    if len(query) > _LONGEST:
        raise QueryError(f"a query of {len(query):,} characters", allowed=f"{_LONGEST:,}", hint="shorten it")
    if "\0" in query or not _encodes(query):
        raise QueryError("a query with a NUL or half a surrogate pair in it", allowed="Unicode text")


def _encodes(query: str) -> bool:
    try:
        query.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kinds(query: str) -> list[duckdb.StatementType]:
    try:
        return [statement.type for statement in duckdb.extract_statements(query)]
    except duckdb.Error as error:
        raise QueryError(one_line(error), hint="mend the query") from error


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    """An empty database: making one takes longer than most queries. A cursor of it parses, and leaves nothing in it."""
    return duckdb.connect(config={"threads": 1})


def _tree(query: str) -> Any:
    """DuckDB's own parse of a SELECT (SHOW, DESCRIBE and SUMMARIZE are SELECTs to it)."""
    with _parser().cursor() as connection:
        row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    try:
        tree = json.loads(row[0]) if row else {"error": True, "error_message": "no answer"}
    except RecursionError:
        raise QueryError("a query that is nested too deep", hint="name its parts in a WITH") from None
    if tree["error"]:
        raise QueryError(f"DuckDB cannot show what this query does ({tree['error_message']})", hint="mend the query")
    return tree


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            if isinstance(node.get("type"), str):
                yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def _refuse_effects(tree: Any, known: Collection[str]) -> None:
    """A SELECT can hold INSERT or COPY in its WITH, and some functions run SQL, write files or take pointers."""
    named = set(_cte_names(tree))
    for node in _nodes(tree):
        kind = node["type"]
        if kind.endswith("_NODE") and kind not in _READING_NODES:
            raise QueryError(
                f"{kind.partition('_')[0]} inside a query; the store is read-only here", allowed="SELECT at every level"
            )
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in _TABLE_FUNCTIONS:
                raise QueryError(
                    f"table function {name!r}: a query can reach nothing but the store's tables",
                    allowed=", ".join(sorted(_TABLE_FUNCTIONS)),
                    hint="see: ferstore tables",
                )
        elif "function_name" in node:
            name = str(node["function_name"]).lower()
            if name in _SCALAR_FUNCTIONS_REFUSED or name.startswith("__"):
                raise QueryError(f"function {name!r}: a query can reach nothing but the store's tables")
        elif kind in ("BASE_TABLE", "SHOW_REF"):
            _refuse_name(node, named, known)


def _refuse_name(node: Mapping[str, Any], named: set[str], known: Collection[str]) -> None:
    """DuckDB takes a name it does not know for a file, and SHOW takes one for a setting."""
    catalog, schema, name = (str(node[f"{part}_name"]).lower() for part in ("catalog", "schema", "table"))
    if node["type"] == "SHOW_REF":
        shown = known if node["show_type"] == "SHOW" else ("", '"tables"', "__show_tables_expanded")
        refused = name not in shown
    elif schema == "information_schema":
        refused = name not in _CATALOG_VIEWS
    elif not schema and name in named:
        refused = False
    else:
        inside = catalog in ("", "memory") and schema in ("", "main", "memory")
        refused = not inside or bool(_OWN_CATALOG.match(name) or _PATH.search(name))
    if refused:
        raise QueryError(f"{name!r}: a query can reach nothing but the store's tables", hint="see: ferstore tables")


def _cte_names(tree: Any) -> Iterator[str]:
    for node in _nodes(tree):
        if isinstance(node.get("cte_map"), dict):
            yield from (entry["key"].lower() for entry in node["cte_map"]["map"])
        if isinstance(node.get("cte_name"), str):
            yield node["cte_name"].lower()


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
