"""What is in a store as plain dicts, and the reading of it that shares no code with ferstore's.

Files are never changed, only made and removed, so what was read once is kept; that they are still there, and that their
digests are those of their names, is looked at every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from ferstore.store.pin import Pin
from ferstore.store.store import Store

Image = tuple[str, str | None, str | None]
"""image_id, label, subject"""


@dataclass(frozen=True)
class Content:
    """The rows of one state.

    Attributes:
        images: by item.
        held: error of each item that an ingest could not read.
        failed: item of each (extractor, image) that an extract could not compute.
        features: who computed each (layer, extractor, image).
        sets: (item, part, label) of each training set.
        derived: (table, run, image) of predictions and of features of trained heads.
    """

    images: Mapping[str, Image] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    features: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    sets: Mapping[str, frozenset[tuple[str, str, str]]] = field(default_factory=dict)
    derived: frozenset[tuple[str, str, str]] = frozenset()


@dataclass(frozen=True)
class Model:
    """The current state, and what each tag names."""

    now: Content = field(default_factory=Content)
    tags: Mapping[str, Content] = field(default_factory=dict)

    def but(self, **changes: Any) -> Model:
        """With other rows now."""
        return replace(self, now=replace(self.now, **changes))


class Looker:
    """Reads stores, and checks of each that it is whole."""

    def __init__(self) -> None:
        self._lists: dict[str, list[str]] = {}
        self._manifests: dict[str, list[str]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def look(self, store: Store, pin: Pin) -> Model:
        """The state at a fresh pin; all its files must be there and whole, and every key once."""
        for name, table in pin.tables.items():
            for snapshot in table.metadata.snapshots:
                for path in self._files(table, snapshot):
                    _check(path, f"a snapshot of {name}")
        tags = {name: self.content(store, pin, snapshots) for name, snapshots in pin.tags().items()}
        return Model(self.content(store, pin, pin.snapshots), tags)

    def content(self, store: Store, pin: Pin, snapshots: Mapping[str, int | None]) -> Content:
        """The rows of one state."""
        rows = {name: self._table(store, pin, name, snapshots.get(name)) for name in store.schemas}
        known = {row["extractor_id"] for row in rows["extractors"]}
        features = {
            (layer, row["extractor_id"], row["image_id"]): row["norm"]
            for layer in ("pool_3", "mixed_10")
            for row in rows[layer]
        }
        assert {extractor for _, extractor, _ in features} <= known, "features of an extractor that no row tells of"
        quarantine = rows["quarantine"]
        sets: dict[str, set[tuple[str, str, str]]] = {row["name"]: set() for row in rows["training_sets"]}
        for row in rows["training_set_items"]:
            sets[row["training_set"]].add((row["item_id"], row["part"], row["label"]))
        return Content(
            images={r["item_id"]: (r["image_id"], r["label"], r["subject"]) for r in rows["images"]},
            held={row["item"]: row["error"] for row in quarantine if row["stage"] == "ingest"},
            failed={(r["extractor_id"], r["image_id"]): r["item"] for r in quarantine if r["stage"] == "extract"},
            features=features,
            sets={name: frozenset(items) for name, items in sets.items()},
            derived=frozenset((t, row["run_id"], row["image_id"]) for t in ("predictions", "conv4") for row in rows[t]),
        )

    def _table(self, store: Store, pin: Pin, name: str, snapshot_id: int | None) -> list[dict[str, Any]]:
        if snapshot_id is None:
            return []
        table = pin.tables[name]
        snapshot = table.metadata.snapshot_by_id(snapshot_id)
        assert snapshot is not None, f"a snapshot of {name} is gone"
        found = [row for path in self._files(table, snapshot) for row in self._read(path)]
        keys = [tuple(row[column] for column in store.schemas[name].key) for row in found]
        assert len(set(keys)) == len(keys), f"a key twice in {name}: {sorted(keys, key=str)}"
        return found

    def _files(self, table: Table, snapshot: Snapshot) -> list[str]:
        """Data files of a snapshot; the files that name them must be there too."""
        if snapshot.manifest_list not in self._lists:
            self._lists[snapshot.manifest_list] = [m.manifest_path for m in snapshot.manifests(table.io)]
        assert _path(snapshot.manifest_list).exists(), f"{snapshot.manifest_list} is gone"
        files = []
        for path in self._lists[snapshot.manifest_list]:
            if path not in self._manifests:
                (manifest,) = (m for m in snapshot.manifests(table.io) if m.manifest_path == path)
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                self._manifests[path] = [entry.data_file.file_path for entry in entries]
            assert _path(path).exists(), f"{path} is gone"
            files += self._manifests[path]
        return files

    def _read(self, path: str) -> list[dict[str, Any]]:
        if path not in self._rows:
            self._rows[path] = pq.read_table(_path(path), partitioning=None).to_pylist()
        return self._rows[path]


def _path(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def _check(url: str, where: str) -> None:
    path = _path(url)
    assert path.exists(), f"{url} of {where} is gone"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in path.name, f"{url} of {where} is not what it was"
