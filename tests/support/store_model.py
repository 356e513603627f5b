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

from ferstore.store.commit import erasures
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
        sets: (item, image, part, label) of each training set.
    """

    images: Mapping[str, Image] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    features: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    sets: Mapping[str, frozenset[tuple[str, str, str, str]]] = field(default_factory=dict)

    def without(self, pictures: frozenset[str], items: frozenset[str]) -> Content:
        """Less some pictures, and the items of them that could not be read."""
        return Content(
            {item: image for item, image in self.images.items() if image[0] not in pictures},
            {item: error for item, error in self.held.items() if item not in items},
            {key: item for key, item in self.failed.items() if key[1] not in pictures},
            {key: who for key, who in self.features.items() if key[2] not in pictures},
            {name: frozenset(row for row in rows if row[1] not in pictures) for name, rows in self.sets.items()},
        )


@dataclass(frozen=True)
class Model:
    """A store.

    Attributes:
        now: the newest state.
        tags: what each names.
        past: item, picture and person of every row of ``images`` in any kept state.
        erasures: how many there were.
    """

    now: Content = field(default_factory=Content)
    tags: Mapping[str, Content] = field(default_factory=dict)
    past: frozenset[tuple[str, str, str | None]] = frozenset()
    erasures: int = 0

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
        images = pin.tables["images"]
        past = {
            (row["item_id"], row["image_id"], row["subject"])
            for snapshot in images.metadata.snapshots
            for path in self._files(images, snapshot)
            for row in self._read(path)
        }
        return Model(self.content(store, pin, pin.snapshots), tags, frozenset(past), erasures(pin))

    def stray(self, store: Store, pictures: frozenset[str]) -> list[str]:
        """Data files, of a snapshot or not, with a row of one of these pictures."""
        files = list(_path(store.url).glob("tables/*/data/*.parquet"))
        return [str(path) for path in files if any(r.get("image_id") in pictures for r in self._read(f"file://{path}"))]

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
        sets: dict[str, set[tuple[str, str, str, str]]] = {row["name"]: set() for row in rows["training_sets"]}
        for row in rows["training_set_items"]:
            sets[row["training_set"]].add((row["item_id"], row["image_id"], row["part"], row["label"]))
        return Content(
            images={r["item_id"]: (r["image_id"], r["label"], r["subject"]) for r in rows["images"]},
            held={row["item"]: row["error"] for row in quarantine if row["stage"] == "ingest"},
            failed={(r["extractor_id"], r["image_id"]): r["item"] for r in quarantine if r["stage"] == "extract"},
            features=features,
            sets={name: frozenset(items) for name, items in sets.items()},
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
