"""``ferstore doctor``: is the store sound, atomic and reachable; what lies about that nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc
from pyiceberg.schema import Schema
from pyiceberg.types import IcebergType

from ferstore.errors import FerstoreError
from ferstore.store.erase import unfinished_erasures
from ferstore.store.exclusive import check_exclusive, decided_by_server
from ferstore.store.liveness import alive
from ferstore.store.pin import Pin
from ferstore.store.references import leftovers, references
from ferstore.store.rows import read_rows
from ferstore.store.store import Store

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what, how it went, and what to do where it did not go well."""

    check: str
    state: State
    detail: str


def doctor(store: Store) -> list[Finding]:
    """Run all checks. One small file is written and removed; nothing else is changed."""
    pin = store.pin(afresh=True)
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "tables": lambda: _tables(store, pin),
        "atomic": lambda: _atomic(store),
        "orphans": lambda: _orphans(store, pin),
        "runs": lambda: _runs(store, pin),
        "erasures": lambda: _erasures(store),
    }
    findings = [Finding("reachable", "ok", f"{store.url}: {len(pin.tables)} tables, maps stored as {store.map_dtype}")]
    for name, check in checks.items():
        try:
            findings += check()
        except (OSError, FerstoreError) as error:
            findings.append(Finding(name, "fail", str(error)))
    return findings


def _tables(store: Store, pin: Pin) -> Iterator[Finding]:
    wrong = [
        name
        for name, schema in store.schemas.items()
        if name not in pin.tables or _columns(pin.tables[name].schema()) != _columns(schema.iceberg())
    ]
    if wrong:
        yield Finding(
            "tables", "fail", f"differ from schemas/: {', '.join(wrong)}; use the version of ferstore that made them"
        )
    else:
        yield Finding("tables", "ok", "all as schemas/ declares them")


def _columns(schema: Schema) -> list[tuple[str, IcebergType, bool]]:
    """What decides whether files conform; a description may be worded better later."""
    return [(field.name, field.field_type, field.required) for field in schema.fields]


def _atomic(store: Store) -> Iterator[Finding]:
    """Making a file that is there must fail: `ferstore.store.exclusive` says for whom."""
    check_exclusive(store.url)
    if decided_by_server(store.url):
        yield Finding("atomic", "ok", "a file cannot be made twice")
    else:
        scheme = store.url.partition("://")[0]
        detail = f"a file cannot be made twice by one writer; whether by two at once is not known of {scheme}://"
        yield Finding("atomic", "warn", detail)


def _orphans(store: Store, pin: Pin) -> Iterator[Finding]:
    found = [file for file in leftovers(store, references(pin)) if file.data]
    if found:
        size = sum(file.nbytes for file in found)
        detail = (
            f"{len(found)} files ({size / 1e6:.1f} MB) in no snapshot: leftovers of killed runs, or work of running "
            "ones; no query sees them, and ferstore vacuum removes them in time"
        )
        yield Finding("orphans", "warn", detail)
    else:
        yield Finding("orphans", "ok", "every data file is in a snapshot")


def _erasures(store: Store) -> Iterator[Finding]:
    if unfinished := unfinished_erasures(store):
        yield Finding("erasures", "warn", f"{unfinished} cut short, some files remain; finish with: ferstore vacuum")
    else:
        yield Finding("erasures", "ok", "none unfinished")


def _runs(store: Store, pin: Pin) -> Iterator[Finding]:
    rows = read_rows(
        store, pin, "runs", ["run_id", "command", "host", "pid", "started_at"], pc.field("state") == "running"
    )
    stale = [row for row in rows.to_pylist() if not alive(row["host"], row["pid"], row["started_at"])]
    for row in stale:
        yield Finding(
            "runs",
            "warn",
            f"{row['command']} {row['run_id']} was killed; run the same command again, it continues",
        )
    if running := len(rows) - len(stale):
        yield Finding("runs", "ok", f"{running} at work (here, or on another machine)")
    elif not stale:
        yield Finding("runs", "ok", "none unfinished")
