"""Parquet, as each table wants it: rows small and compressed, maps as raw bytes that read back without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ferstore.errors import SchemaError
from ferstore.store.schema import TableSchema

MAP_ROW_GROUP = 64
"""Rows of a row group of maps: a reader holds at most this many, uncompressed, at a time."""


def _options(schema: TableSchema) -> dict[str, Any]:
    if schema.tensor:
        # A map has no repeated values and no useful minimum. pyarrow checks the page size only after each write
        # batch: a batch of its default 1,024 maps would be one page of 256 MiB.
        others = [name for name in schema.names if name != schema.tensor]
        return {
            "compression": "lz4",
            "compression_level": 4,  # LZ4 HC: a sixth smaller than plain LZ4, written slower, read as fast
            "use_dictionary": others,
            "write_batch_size": 4,
            "data_page_size": 1 << 20,
        }
    if schema.feature:
        # Bytes of equal weight lie together, which ZSTD compresses; lossless.
        return {
            "compression": "zstd",
            "use_dictionary": [name for name in schema.names if name != schema.value],
            "column_encoding": {f"{schema.value}.list.element": "BYTE_STREAM_SPLIT"},
        }
    return {"compression": "zstd"}


def _common(schema: TableSchema) -> dict[str, Any]:
    measured = [column for column in schema.columns if column.name not in schema.unmeasured]
    return {
        "write_page_checksum": True,  # so that whoever reads a page without the file's digest sees damage
        "write_statistics": [f"{c.name}.list.element" if c.type.startswith("list<") else c.name for c in measured],
    }


class ParquetBuffer:
    """One data file in the making, compressed in memory as row groups come.

    A file is as large as a shard, so memory is bounded by the shard; the digest of the whole is its name.
    """

    def __init__(self, schema: TableSchema) -> None:
        self._schema = schema
        self._arrow = schema.arrow()
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, self._arrow, **_options(schema), **_common(schema))
        self.rows = 0

    def append(self, rows: pa.Table) -> None:
        """Add rows as one or more row groups."""
        self._writer.write_table(rows, row_group_size=MAP_ROW_GROUP if self._schema.tensor else None)
        self.rows += len(rows)

    def finish(self) -> bytes:
        """Close the file and return its bytes."""
        self._writer.close()
        return bytes(self._sink.getvalue())


def encode(schema: TableSchema, rows: pa.Table) -> bytes:
    """A whole table as the bytes of one Parquet file."""
    buffer = ParquetBuffer(schema)
    buffer.append(rows)
    return buffer.finish()


def feature_column(schema: TableSchema, values: npt.NDArray[np.float32]) -> pa.Array:
    """A batch of features as the column that stores them.

    Args:
        schema: a table with a ``[feature]``.
        values: float32 (rows, *shape).

    Returns:
        ``list<float>`` for vectors; fixed-size little-endian bytes in the table's dtype for maps. Values beyond
        float16's range (65,504) become infinite there, which ``feature_health`` shows.

    Raises:
        SchemaError: the shape is not the declared one.
    """
    feature = schema.feature
    if feature is None or values.shape[1:] != feature.shape:
        raise SchemaError(f"values of shape {values.shape[1:]} for table {schema.name!r}", allowed=str(feature))
    rows = len(values)
    if feature.pool:
        offsets = np.arange(0, (rows + 1) * feature.values, feature.values, dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(values, np.float32).ravel())
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values.reshape(rows, -1), dtype=np.dtype(feature.dtype).newbyteorder("<"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(feature.nbytes), rows, [None, pa.py_buffer(stored)])


def feature_values(schema: TableSchema, column: pa.Array) -> npt.NDArray[np.generic]:
    """Features of a column as an array (rows, *shape) over the column's own buffer, without a copy.

    Args:
        schema: the table it was read from.
        column: one chunk, with no nulls.

    Returns:
        float32 for vectors, the table's dtype for maps; read-only.
    """
    feature = schema.feature
    assert feature is not None  # noqa: S101  only feature tables have such a column
    if feature.pool:
        return np.asarray(column.flatten()).reshape(len(column), *feature.shape)
    dtype = np.dtype(feature.dtype).newbyteorder("<")
    _, data = column.buffers()
    start = column.offset * feature.values
    flat = np.frombuffer(data, dtype)[start : start + len(column) * feature.values]
    return flat.reshape(len(column), *feature.shape)
