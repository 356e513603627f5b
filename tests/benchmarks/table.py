"""Rows as one JSON object and as one Markdown table."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.row import Row

HEAD = "| what | ferstore | against | ratio (spread) | aim | |\n|---|---|---|---|---|---|"


def markdown(rows: Sequence[Row]) -> str:
    """A table with both sides' medians, the median ratio and its spread, the aim, and whether it is met."""
    return "\n".join([HEAD, *map(_line, rows)])


def as_json(rows: Mapping[str, Sequence[Row]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of every turn, by benchmark."""
    return {**about, "rows": [_fields(name, row) for name, some in rows.items() for row in some]}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", info)
    flags = set(re.search(r"flags\s*:\s*(.*)", info)[1].split()) if "flags" in info else set()  # type: ignore[index]
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bfloat16_instructions": sorted(flags & {"avx512_bf16", "amx_bf16"}),
        "load": list(os.getloadavg()),
    }


def verdict(row: Row) -> str:
    """``pass``, ``short``, or nothing where there is no aim or no figure."""
    return {True: "pass", False: "**short**", None: ""}[row.passes]


def _line(row: Row) -> str:
    what = f"{row.what}; {row.note}" if row.note else row.what
    if row.missing:
        return f"| {what} | not measured: {row.missing} | | | {_aim(row)} | |"
    ours = f"{_number(statistics.median(row.ours))} {row.unit}".strip()
    if not row.other:
        spread = f"{_number(min(row.ours))} to {_number(max(row.ours))}"
        return f"| {what} | {ours} | | {spread} | {_aim(row)} | {verdict(row)} |"
    other = f"{_number(statistics.median(row.other))} {row.unit}"
    ratios = row.ratios
    spread = f"{row.ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {what} | {ours} | {other} | {spread} | {_aim(row)} | {verdict(row)} |"


def _aim(row: Row) -> str:
    if row.aim is None:
        return ""
    unit = "" if row.other or row.missing else f" {row.unit}"
    return f"{'≥' if row.higher else '≤'} {row.aim:.4g}{unit}".strip()


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _fields(name: str, row: Row) -> dict[str, Any]:
    measured = not row.missing
    return {
        "benchmark": name,
        "what": row.what,
        "note": row.note,
        "unit": row.unit,
        "ours": list(row.ours),
        "other": list(row.other),
        "ratios": row.ratios if measured else [],
        "ratio": row.ratio if measured else None,
        "spread": [min(row.ratios), max(row.ratios)] if measured else [],
        "aim": row.aim,
        "higher": row.higher,
        "passes": row.passes,
        "missing": row.missing,
    }
