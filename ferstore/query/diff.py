"""``ferstore diff``: what changed between two states of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from ferstore.store.pin import Pin
from ferstore.store.rows import read_file
from ferstore.store.schema import TableSchema
from ferstore.store.store import Store
from ferstore.store.writer import feature_values


@dataclass(frozen=True, slots=True)
class TableDiff:
    """Rows of one table by key: only in the second state, only in the first, in both with other values."""

    table: str
    added: int
    removed: int
    changed: int


@dataclass(frozen=True, slots=True)
class Relabelled:
    """An item whose label or votes differ."""

    dataset: str
    item_id: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """How the vectors of one extractor moved as a whole.

    Attributes:
        extractor_id: whose.
        before: vectors in the first state.
        after: vectors in the second.
        mean_cosine: cosine of the two mean vectors; 1 is no drift.
        largest_shift: largest move of a channel's mean, in its standard deviations in the first state.
    """

    extractor_id: str
    before: int
    after: int
    mean_cosine: float
    largest_shift: float


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that differs."""

    tables: tuple[TableDiff, ...]
    relabelled: tuple[Relabelled, ...]
    drift: tuple[Drift, ...]


def diff(store: Store, first: Pin, second: Pin) -> Diff:
    """Compare two states. Files in both are the same rows, so only the others are read (drift: all of ``pool_3``)."""
    tables, relabelled = [], []
    for name, schema in store.schemas.items():
        before = {data_file.file_path for data_file in first.data_files(name)}
        after = {data_file.file_path for data_file in second.data_files(name)}
        if before == after:
            continue
        columns = [c.name for c in schema.columns if c.name not in (schema.value, "ingested_at", "extracted_at")]
        old, new = (_rows(urls, columns, schema) for urls in (before - after, after - before))
        changed = [key for key in old.keys() & new.keys() if not _same(old[key], new[key])]
        tables.append(TableDiff(name, len(new.keys() - old.keys()), len(old.keys() - new.keys()), len(changed)))
        if name == "images":
            relabelled = [
                Relabelled(str(key[0]), str(key[1]), old[key]["label"], new[key]["label"])  # type: ignore[arg-type]
                for key in sorted(changed, key=str)
                if (old[key]["label"], old[key]["votes"]) != (new[key]["label"], new[key]["votes"])
            ]
    return Diff(
        tuple(t for t in tables if t.added or t.removed or t.changed), tuple(relabelled), _drift(store, first, second)
    )


def _rows(urls: set[str], columns: list[str], schema: TableSchema) -> dict[tuple[object, ...], Mapping[str, object]]:
    rows: dict[tuple[object, ...], Mapping[str, object]] = {}
    for url in urls:
        for row in read_file(url, columns, whole=schema.value is None).to_pylist():
            rows[tuple(row[name] for name in schema.key)] = row
    return rows


def _same(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    """Equal values, where not-a-number equals itself."""
    return all(a == b or (a != a and b != b) for a, b in zip(old.values(), new.values(), strict=True))


@dataclass(slots=True)
class _Moments:
    count: int
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


def _drift(store: Store, first: Pin, second: Pin) -> tuple[Drift, ...]:
    if {f.file_path for f in first.data_files("pool_3")} == {f.file_path for f in second.data_files("pool_3")}:
        return ()
    before, after = _moments(store, first), _moments(store, second)
    found = []
    for extractor_id in sorted(before.keys() & after.keys()):
        a, b = before[extractor_id], after[extractor_id]
        if not a.count or not b.count:
            continue
        mean_a, mean_b = a.total / a.count, b.total / b.count
        deviation = np.sqrt(np.maximum(a.squares / a.count - mean_a**2, 0))
        shift = np.abs(mean_b - mean_a) / np.maximum(deviation, 1e-12)
        norms = float(np.linalg.norm(mean_a) * np.linalg.norm(mean_b))
        cosine = min(1.0, float(mean_a @ mean_b) / norms) if norms else 1.0
        largest = float(shift[deviation > 0].max(initial=0.0))
        found.append(Drift(extractor_id, a.count, b.count, cosine, largest))
    return tuple(found)


def _moments(store: Store, pin: Pin) -> dict[str, _Moments]:
    """Count, sum and sum of squares of ``pool_3`` a channel, by extractor; a file at a time."""
    schema = store.schemas["pool_3"]
    moments: dict[str, _Moments] = {}
    for data_file in pin.data_files("pool_3"):
        rows = read_file(data_file.file_path, ["extractor_id", "pool_3"], pc.field("view") == "identity")
        for extractor_id in pc.unique(rows["extractor_id"]).to_pylist():
            mine = rows.filter(pc.equal(rows["extractor_id"], extractor_id))
            values = feature_values(schema, mine["pool_3"].combine_chunks()).astype(np.float64)
            values = values[np.isfinite(values).all(axis=1)]  # one that is not would hide the drift of all others
            zero = np.zeros(values.shape[1])
            moment = moments.setdefault(extractor_id, _Moments(0, zero, zero.copy()))
            moment.count += len(values)
            moment.total = moment.total + values.sum(axis=0)
            moment.squares = moment.squares + (values**2).sum(axis=0)
    return moments
