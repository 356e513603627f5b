"""What a schema file may say, and that Iceberg and Arrow read it alike."""

from __future__ import annotations

import re

import pytest
from pyiceberg.io.pyarrow import schema_to_pyarrow

from ferstore.errors import SchemaError
from ferstore.store.schema import declared_schemas, declared_views, feature_layers, parse_schema, schema_folder

GOOD = """
description = "d"
source = "s"
key = ["a"]
[[columns]]
name = "a"
type = "string"
required = true
description = "x"
"""
TENSOR = '[[columns]]\nname = "t"\ntype = "tensor"\ndescription = "x"\n'


def test_every_schema_file_is_read() -> None:
    files = {file.stem for file in schema_folder().glob("*.toml")}
    assert set(declared_schemas()) == files
    assert files >= {"images", "pool_3", "mixed_10", "extractors", "quarantine", "runs"}


@pytest.mark.parametrize("name", sorted(declared_schemas()))
def test_a_table_says_what_it_is(name: str) -> None:
    schema = declared_schemas()[name]
    assert schema.description
    assert schema.source
    assert schema.key
    assert all(column.description for column in schema.columns)
    assert set(schema.key) <= set(schema.names)
    assert (schema.value is None) or schema.value in schema.names


@pytest.mark.parametrize("name", sorted(declared_schemas()))
def test_iceberg_and_arrow_agree(name: str) -> None:
    schema = declared_schemas()[name]
    arrow, iceberg = schema.arrow(), schema_to_pyarrow(schema.iceberg(), include_field_ids=False)
    assert iceberg.names == arrow.names
    for mine, theirs in zip(arrow, iceberg, strict=True):
        # PyIceberg reads strings and lists as their large variants; what they hold is the same.
        assert str(theirs.type).replace("large_", "") == str(mine.type).replace("item", "element")
        assert theirs.nullable == mine.nullable


@pytest.mark.parametrize("name", sorted(declared_schemas()))
def test_field_ids_are_unique(name: str) -> None:
    schema = declared_schemas()[name].iceberg()
    assert len(schema.field_ids) == len(set(schema.field_ids))
    assert [field.field_id for field in schema.fields] == list(range(1, len(schema.fields) + 1))


@pytest.mark.parametrize(("dtype", "size"), [("float16", 262144), ("float32", 524288)])
def test_a_map_is_its_bytes(dtype: str, size: int) -> None:
    schema = declared_schemas()["mixed_10"].with_map_dtype(dtype)  # type: ignore[arg-type]
    assert str(schema.iceberg().find_field("mixed_10").field_type) == f"fixed[{size}]"
    assert schema.arrow().field("mixed_10").type.byte_width == size


def test_vectors_are_float32_whatever_the_maps_are() -> None:
    schema = declared_schemas()["pool_3"]
    assert schema.with_map_dtype("float16") == schema
    assert schema.feature is not None
    assert schema.feature.nbytes == 2048 * 4


def test_feature_layers_are_the_tables_with_a_feature() -> None:
    assert {"pool_3", "mixed_10"} <= set(feature_layers())
    assert "images" not in feature_layers()


def test_a_schema_that_says_enough_is_read() -> None:
    assert parse_schema("t", GOOD).names == ("a",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = [", "is not TOML"),
        ("", "description"),
        (GOOD.replace('"string"', '"varchar"'), "columns.0.type"),
        (GOOD.replace("required = true", "requird = true"), "columns.0.requird"),
        (GOOD + '[[columns]]\nname = "a"\ntype = "int"\ndescription = "y"\n', "declared twice"),
        (GOOD.replace('key = ["a"]', 'key = ["b"]'), "key names no column"),
        (GOOD + TENSOR, r"needs a \[feature\]"),
        (
            GOOD + TENSOR + '[feature]\nnode = "n"\npool = false\nshape = [2]\ndtype = "float64"\n',
            "feature.dtype",
        ),
    ],
)
def test_a_schema_that_does_not_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(SchemaError, match=rf"'t'.*{problem}.*mend schemas/t\.toml") as caught:
        parse_schema("t", text)
    assert "\n" not in str(caught.value)


def test_views_name_only_tables_and_views_there_are() -> None:
    known = set(declared_schemas()) | set(declared_views())
    for text in declared_views().values():
        code = re.sub(r"--.*", "", text)
        inner = set(re.findall(r"(\w+) as (?:materialized )?\(", code))
        assert set(re.findall(r"\b(?:from|join)\s+([a-z_]\w*)", code)) <= known | inner
