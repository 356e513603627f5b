"""Features come back bit for bit, and maps lie in files as a reader of maps needs them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ferstore.errors import SchemaError
from ferstore.store.schema import MapDtype, TableSchema, declared_schemas
from ferstore.store.writer import MAP_ROW_GROUP, ParquetBuffer, encode, feature_column, feature_values

POOL = declared_schemas()["pool_3"]
MAP = declared_schemas()["mixed_10"]


def values(rows: int, schema: TableSchema, seed: int = 0) -> npt.NDArray[np.float32]:
    assert schema.feature
    shape = (rows, *schema.feature.shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def map_rows(rows: int, schema: TableSchema = MAP) -> pa.Table:
    column = feature_column(schema, np.zeros((rows, 8, 8, 2048), np.float32))
    arrow = schema.arrow()
    ids = pa.array([f"{n:064x}" for n in range(rows)])
    same = pa.array(["x"] * rows)
    zeros = pa.array([0.0] * rows, pa.float32())
    times = pa.array([0] * rows, arrow.field("extracted_at").type)
    return pa.Table.from_arrays([ids, same, same, column, zeros, zeros, zeros, zeros, times], schema=arrow)


def test_vectors_come_back() -> None:
    given = values(3, POOL)
    column = feature_column(POOL, given)
    assert column.type == pa.list_(pa.float32())
    assert np.array_equal(feature_values(POOL, column), given)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_maps_come_back_in_the_stores_dtype(dtype: MapDtype) -> None:
    schema = MAP.with_map_dtype(dtype)
    given = values(3, schema)
    found = feature_values(schema, feature_column(schema, given))
    assert found.dtype == np.dtype(dtype)
    assert found.shape == (3, 8, 8, 2048)
    assert np.array_equal(found, given.astype(dtype))


def test_float32_maps_keep_every_bit() -> None:
    schema = MAP.with_map_dtype("float32")
    bits = np.random.default_rng(0).integers(0, 2**32, (2, 8, 8, 2048), np.uint64).astype(np.uint32)
    found = feature_values(schema, feature_column(schema, bits.view(np.float32)))
    assert np.array_equal(found.view(np.uint32), bits)


@pytest.mark.parametrize("schema", [POOL, MAP, MAP.with_map_dtype("float32")], ids=["pool", "f16", "f32"])
@pytest.mark.parametrize(("start", "length"), [(0, 2), (1, 2), (3, 2), (2, 0)])
def test_a_slice_gives_its_own_rows(schema: TableSchema, start: int, length: int) -> None:
    given = values(5, schema)
    whole = feature_values(schema, feature_column(schema, given))
    found = feature_values(schema, feature_column(schema, given).slice(start, length))
    assert np.array_equal(found, whole[start : start + length])


def test_a_column_is_little_endian_row_major() -> None:
    schema = MAP.with_map_dtype("float32")
    given = np.arange(131072, dtype=np.float32).reshape(1, 8, 8, 2048)
    data = feature_column(schema, given)[0].as_py()
    assert np.frombuffer(data, "<f4").tolist() == list(range(131072))


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_memory_layout_given_does_not_matter(order: str) -> None:
    given = np.asarray(values(2, MAP), order=order)  # type: ignore[call-overload]
    assert np.array_equal(feature_values(MAP, feature_column(MAP, given)), given.astype(np.float16))


def test_values_beyond_float16_become_infinite_without_a_warning() -> None:
    given = np.full((1, 8, 8, 2048), 1e6, np.float32)
    assert np.isposinf(feature_values(MAP, feature_column(MAP, given))).all()


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.just(2048)), elements=st.floats(width=32), fill=st.just(0))
)
def test_any_vector_comes_back_bit_for_bit_through_a_file(given: npt.NDArray[np.float32]) -> None:
    schema = pa.schema([POOL.arrow().field("pool_3")])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays([feature_column(POOL, given)], schema=schema), sink)
    column = pq.read_table(pa.BufferReader(sink.getvalue()))["pool_3"].combine_chunks()
    found = feature_values(POOL, column)
    assert np.array_equal(found.view(np.uint32), given.view(np.uint32))


@pytest.mark.parametrize(
    ("table", "shape"),
    [("pool_3", (2, 2047)), ("pool_3", (2, 8, 8, 2048)), ("mixed_10", (2, 2048)), ("mixed_10", (2, 2048, 8, 8))],
)
def test_another_shape_is_refused(table: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(SchemaError, match=table):
        feature_column(declared_schemas()[table], np.zeros(shape, np.float32))


def test_a_table_without_a_feature_has_no_feature_column() -> None:
    with pytest.raises(SchemaError, match="images"):
        feature_column(declared_schemas()["images"], np.zeros((1, 2), np.float32))


def test_map_files_have_small_row_groups_and_no_statistics_or_dictionary_on_the_map() -> None:
    metadata = pq.ParquetFile(io.BytesIO(encode(MAP, map_rows(2 * MAP_ROW_GROUP + 1)))).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [64, 64, 1]
    group = metadata.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    stored = columns["mixed_10"]
    assert stored.statistics is None
    assert not stored.has_dictionary_page
    assert stored.compression.startswith("LZ4")
    assert columns["image_id"].statistics is not None


def test_a_buffer_collects_row_groups_into_one_file() -> None:
    buffer = ParquetBuffer(MAP)
    for rows in (2, 3):
        buffer.append(map_rows(rows))
    assert buffer.rows == 5
    assert pq.ParquetFile(io.BytesIO(buffer.finish())).metadata.num_rows == 5


def test_the_same_rows_are_the_same_bytes() -> None:
    assert encode(MAP, map_rows(2)) == encode(MAP, map_rows(2))
