"""What a query gives: rows as Arrow, pandas, NumPy or Python values, read when first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.errors import InputError
from ferstore.query.session import Columns, Session

if TYPE_CHECKING:
    import pandas as pd


class Result:
    """Rows of a query, read when first asked for."""

    def __init__(self, session: Session, query: str) -> None:
        self._cursor = session.execute(query)
        self._table: pa.Table | None = None

    @property
    def columns(self) -> Columns:
        """Names and DuckDB types."""
        return self._cursor.columns

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        if self._table is None:
            self._table = self._cursor.arrow()
            self._cursor.close()
        return self._table

    def pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame; needs the extra ``ferstore[pandas]``."""
        return self.arrow().to_pandas()

    def numpy(self) -> dict[str, npt.NDArray[Any]]:
        """All rows as one array a column; lists of one length become an array (rows, length).

        Raises:
            InputError: two columns have the same name.
        """
        arrays = {}
        names = self.arrow().column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two columns are called {twice[0]!r}", hint="name them apart: select ... as ...")
        for name, column in zip(names, self.arrow().columns, strict=True):
            if pa.types.is_fixed_size_list(column.type) and not column.null_count:
                column = column.cast(pa.list_(column.type.value_type))
            lengths = pc.unique(pc.list_value_length(column)) if pa.types.is_list(column.type) else None
            if lengths is not None and len(lengths) == 1 and lengths[0].is_valid and not column.null_count:
                flat = np.asarray(pa.chunked_array([c.flatten() for c in column.chunks]))
                arrays[name] = flat.reshape(len(column), lengths[0].as_py())
            else:
                arrays[name] = column.to_numpy()
        return arrays

    def rows(self) -> list[tuple[Any, ...]]:
        """All rows as Python values."""
        table = self.arrow()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def __repr__(self) -> str:
        from ferstore.report.shown import text_table

        return text_table(self.arrow())

    def _repr_html_(self) -> str:
        from ferstore.report.shown import html_table

        return html_table(self.arrow())
