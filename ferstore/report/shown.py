"""Rows as a notebook or a prompt shows them: the first few, as text or as HTML in which nothing is markup."""

from __future__ import annotations

from html import escape
from typing import Any

import pyarrow as pa

ROWS = 10
_WIDEST = 60  # characters of a cell


def text_table(table: pa.Table) -> str:
    """How many rows there are, and the first in columns."""
    names, rows = table.column_names, _rows(table)
    widths = [max(len(name), *(len(row[place]) for row in rows), 0) for place, name in enumerate(names)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [names, *rows]
    ]
    return "\n".join([f"<{len(table)} rows: {', '.join(names)}>", *lines])


def html_table(table: pa.Table, *, title: str = "") -> str:
    """The same as an HTML table."""
    numeric = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in table.schema.types]
    head = "".join(f"<th>{escape(name)}</th>" for name in table.column_names)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{"right" if right else "left"}">{escape(cell)}</td>'
            for cell, right in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in _rows(table)
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(_said(table))}</p>"


def _rows(table: pa.Table) -> list[list[str]]:
    first = table.slice(0, ROWS)
    return [list(row) for row in zip(*([_cell(v) for v in c.to_pylist()] for c in first.columns), strict=True)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list) and len(value) > 4:
        text = f"[{', '.join(_cell(v) for v in value[:3])}, ... {len(value):,} values]"
    elif isinstance(value, bytes):
        text = f"<{len(value):,} bytes>"
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _said(table: pa.Table) -> str:
    count = len(table)
    shown = f", the first {ROWS} shown" if count > ROWS else ""
    return f"{count:,} row{'' if count == 1 else 's'}{shown}"
