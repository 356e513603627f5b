"""Data files written again: several as one, or one without some of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ferstore.store.digests import damaged, read_checked
from ferstore.store.files import StoredFile, write_data_file
from ferstore.store.store import Store
from ferstore.store.writer import MAP_ROW_GROUP, ParquetBuffer

_ROWS = 65_536  # rows of a row group of what is not a map

Clean = Callable[[pa.Table], pa.Table]


def rewrite(store: Store, table: str, urls: Sequence[str], clean: Clean | None = None) -> StoredFile | None:
    """Write the rows of data files, in order, as one new file that no snapshot names yet.

    The compressed bytes of one source and of the result are held in memory, and a row group of each.

    Args:
        store: the store.
        table: whose files they are.
        urls: data files.
        clean: what stays of some rows; None keeps all.

    Returns:
        The file; None where no row stays.

    Raises:
        CorruptionError: a file cannot be read.
    """
    schema = store.schemas[table]
    buffer = ParquetBuffer(schema)
    size = MAP_ROW_GROUP if schema.tensor else _ROWS
    waiting: list[pa.Table] = []
    for url in urls:
        for rows in _row_groups(url):
            kept = (clean(rows) if clean else rows).cast(schema.arrow())
            while len(kept):
                room = size - sum(map(len, waiting))
                waiting.append(kept.slice(0, room))
                kept = kept.slice(room)
                if len(waiting[-1]) == room:
                    buffer.append(pa.concat_tables(waiting).combine_chunks())
                    waiting = []
    if waiting:
        buffer.append(pa.concat_tables(waiting).combine_chunks())
    rows_written, data = buffer.rows, buffer.finish()
    return write_data_file(store.data_folder(table), "rows", data, rows_written) if rows_written else None


def _row_groups(url: str) -> Iterator[pa.Table]:
    """Row groups of a file whose digest was checked: what is damaged must not get a new digest that calls it sound."""
    data = read_checked(url)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise damaged(url, error) from error
