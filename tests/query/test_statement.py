"""What is a query and what is not, decided from DuckDB's parse before anything runs."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.errors import QueryError
from ferstore.query.statement import asks_for_tables, one_line, parse, words_of

ALLOWED_FUNCTIONS = [
    "duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_types",
    "generate_series", "json_each", "json_tree", "pragma_table_info", "range", "repeat", "unnest",
]  # fmt: skip
REFUSED_FUNCTIONS = [
    "read_text", "read_blob", "read_csv", "read_csv_auto", "read_json", "read_ndjson", "read_parquet", "parquet_scan",
    "parquet_metadata", "glob", "sniff_csv", "arrow_scan", "arrow_scan_dumb", "pandas_scan", "python_map_function",
    "query", "query_table", "duckdb_secrets", "duckdb_logs", "enable_logging", "which_secret", "force_checkpoint",
    "checkpoint", "test_all_types", "duckdb_settings", "duckdb_views", "duckdb_external_file_cache",
]  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "  \n\tselect\n1\n",
        "table images",
        "from images",
        "from (values (1), (2)) v(a)",
        "(select 1) union all (select 2)",
        "select 1 except select 2",
        "with recursive t(n) as (select 1 union all select n + 1 from t where n < 3) from t",
        "with a as materialized (select 1), b as (from a) from b",
        "from images, lateral (select images.label)",
        "select (select max(label) from images), exists (from images)",
        "from images pivot (count(*) for label in ('happy', 'sad'))",
        "from (pivot images on label in ('happy') using count(*))",
        "unpivot images on label, subject into name n value v",
        "from (describe images)",
        "from (show tables)",
        "explain\nselect 1",
        "EXPLAIN ANALYZE select 1",
    ],
)
def test_every_way_to_write_one_select_is_taken_as_it_is(query: str) -> None:
    assert parse(query).text == query


@pytest.mark.parametrize(
    "query",
    [
        "select 1;;",
        "select 1; -- and no more",
        "select 1 -- ; delete from images",
        "select 1 /* ; delete from images */",
        "-- a remark\nselect 1",
        "/* a remark */ select 1",
        "select ';', 'it''s; delete from images'",
        'select 1 as "a; delete from images"',
        "select $$ ; delete from images $$",
        "select $tag$ copy images to 'x' $tag$",
    ],
)
def test_a_semicolon_or_a_verb_in_a_comment_or_in_quotes_is_no_statement(query: str) -> None:
    assert parse(query).text == query


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 0),
        (" ; ;", 0),
        ("-- only a remark", 0),
        ("select 1; select 2", 2),
        ("select 1; delete from images", 2),
        ("select 1 /* ; */ ; select 2; select 3", 3),
        ("select 1 -- remark\n; delete from images", 2),
        ("explain select 1; delete from images", 2),
    ],
)
def test_several_statements_and_none_are_refused_with_their_number(query: str, count: int) -> None:
    with pytest.raises(QueryError, match=rf"^{count} statements; allowed: one SELECT"):
        parse(query)


EFFECTS = {
    "INSERT": "insert into images select * from images",
    "DELETE": "delete from images",
    "UPDATE": "update images set label = 'x'",
}


@pytest.mark.parametrize("verb", [*EFFECTS, "COPY"])
@pytest.mark.parametrize(
    "around",
    [
        "with x as ({}) from x",
        "with x as materialized ({}) from x",
        "with ok as (select 1), x as ({}) from ok",
        "select (with x as ({}) select 1 from x)",
        "select 1 union all (with x as ({}) from x)",
        "from images where label in (with x as ({}) from x)",
        "with recursive t(n) as (select 1 union all (with x as ({}) select n + 1 from t, x)) from t",
        "explain with x as ({}) from x",
        "explain analyze with x as ({}) from x",
        "describe with x as ({}) from x",
    ],
)
def test_no_with_at_any_depth_may_write(verb: str, around: str) -> None:
    inside = "copy images to 'out.csv'" if verb == "COPY" else f"{EFFECTS[verb]} returning 1"
    with pytest.raises(QueryError, match=rf"^{verb} inside a query; the store is read-only here"):
        parse(around.format(inside))


@pytest.mark.parametrize("verb", ["explain", "explain analyze", "EXPLAIN\n ANALYZE"])
@pytest.mark.parametrize("inner", [*EFFECTS.values(), "copy images to 'out.csv'", "create table t (a int)"])
def test_explaining_a_write_is_refused_as_the_write_is(verb: str, inner: str) -> None:
    with pytest.raises(QueryError, match="statement; the store is read-only here"):
        parse(f"{verb} {inner}")


@pytest.mark.parametrize(
    "query",
    [
        "merge into images using images i on true when matched then delete",
        "pivot images on label using count(*)",  # two statements to DuckDB, one of which makes a type
        "truncate images",
        "use other",
        "call range(3)",
    ],
)
def test_other_statements_are_refused_and_what_is_allowed_is_said(query: str) -> None:
    with pytest.raises(QueryError, match="read-only here; allowed: one SELECT"):
        parse(query)


@pytest.mark.parametrize("name", ALLOWED_FUNCTIONS)
def test_table_functions_that_reach_nothing_are_allowed(name: str) -> None:
    assert parse(f"from {name}('images')").text
    assert parse(f"from {name.upper()}('images')").text


@pytest.mark.parametrize("name", REFUSED_FUNCTIONS)
def test_every_other_table_function_is_refused(name: str) -> None:
    with pytest.raises(QueryError, match=rf"^table function '{name}'.*allowed: {', '.join(ALLOWED_FUNCTIONS)};"):
        parse(f"from {name}('x')")


@pytest.mark.parametrize(
    "query",
    [
        "from Read_Text('x')",
        "from \"read_text\"('x')",
        "from system.main.read_text('x')",
        "from images, lateral (from read_text('x'))",
        "from images where label in (select content from read_text('x'))",
        "select 1 limit (select count(*) from read_text('x'))",
        "select 1 order by (select count(*) from read_text('x'))",
        "with a as (from read_text('x')) from a",
        "from images join read_text('x') on true",
        "from (describe from read_text('x'))",
        "summarize from read_text('x')",
        "explain from read_text('x')",
        "from (pivot read_text('x') on content in ('a'))",
        "select list_transform([1], lambda i: (select count(*) from read_text('x')))",
    ],
)
def test_no_spelling_and_no_depth_hides_a_table_function(query: str) -> None:
    with pytest.raises(QueryError, match=r"^table function 'read_text'"):
        parse(query)


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("select norm, m.MEAN from mixed_10 m where zeros > 0 order by maximum", {"norm", "mean", "zeros", "maximum"}),
        ('select "mixed_10" from mixed_10', {"mixed_10"}),
        ("select tensor(mixed_10) from mixed_10", {"mixed_10"}),
        ("select * from mixed_10", set()),
        ("select * exclude (Mixed_10) from mixed_10", {"mixed_10"}),
        ("select * exclude (m.mixed_10) from mixed_10 m", {"mixed_10"}),
        ("select * rename (mixed_10 as map) from mixed_10", {"mixed_10"}),
        ("with a as (select norm from mixed_10) from a", {"norm"}),
    ],
)
def test_the_columns_it_names_are_found_wherever_they_stand(query: str, columns: set[str]) -> None:
    assert parse(query).columns == columns


def test_describing_a_table_names_all_its_columns() -> None:
    assert "mixed_10" in parse("describe mixed_10").columns
    assert "mixed_10" in parse("from (describe select * from mixed_10)").columns
    assert "mixed_10" not in parse("summarize mixed_10").columns  # it reads every row, so not the maps


@pytest.mark.parametrize(
    ("query", "lists"),
    [
        ("show tables", True),
        ("describe images", True),
        ("summarize images", True),
        ("select * from information_schema.tables", True),
        ("from duckdb_tables()", True),
        ("from PRAGMA_TABLE_INFO('images')", True),
        ("from sqlite_master", True),
        ("select description from images", False),
        ("from images", False),
    ],
)
def test_what_asks_for_the_list_of_tables_is_known(query: str, lists: bool) -> None:
    assert asks_for_tables(query) is lists


def test_quoted_and_capital_names_are_among_its_words() -> None:
    assert {"pool_3", "images", "émotion"} <= words_of('select "Émotion" from "POOL_3", Images')


@settings(deadline=None, max_examples=25)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text_in_quotes_is_data_and_never_a_statement(text: str) -> None:
    query = "select '{}' as a".format(text.replace("'", "''"))
    assert parse(query).text == query


@settings(deadline=None, max_examples=50)
@given(st.text("sel ct'\";-/*$(){}[],.\n\\éfrom1", max_size=30))
def test_any_text_is_a_statement_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        assert parse(text).text == text
    except QueryError as error:
        said = str(error)
    assert "\n" not in said


def test_duckdbs_picture_of_the_query_is_left_out_of_its_message() -> None:
    with pytest.raises(duckdb.Error) as caught:
        duckdb.extract_statements("select a\nfrom from")
    assert "\n" in str(caught.value)
    assert one_line(caught.value) == 'Parser Error: syntax error at or near "from"'
    assert one_line(ValueError("")) == "ValueError"
