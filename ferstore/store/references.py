"""Which files the kept snapshots of a store need, and which lie about that none of them names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from ferstore.store.files import files_below, filesystem
from ferstore.store.pin import Pin, readable_metadata
from ferstore.store.store import Store


@dataclass(frozen=True, slots=True)
class References:
    """Files that some kept snapshot of some table needs, by URL.

    Attributes:
        data: data files and their sizes in bytes.
        metadata: metadata files, manifest lists and manifests.
    """

    data: Mapping[str, int]
    metadata: frozenset[str]

    @property
    def urls(self) -> frozenset[str]:
        """All of them."""
        return self.metadata | self.data.keys()


def references(pin: Pin, *, without: Collection[int] = ()) -> References:
    """What the tables of a pin need, all kept snapshots included.

    Args:
        pin: tables as loaded.
        without: snapshots to leave out: what the rest needs.

    Raises:
        CorruptionError: a manifest is missing.
    """
    data: dict[str, int] = {}
    metadata: set[str] = set()
    for name, table in pin.tables.items():
        with readable_metadata(f"table {name!r}"):
            snapshots = [s for s in table.metadata.snapshots if s.snapshot_id not in without]
            metadata |= {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
            metadata |= {snapshot.manifest_list for snapshot in snapshots}
            manifests = _manifests(table, snapshots)
            metadata |= manifests.keys()
            data |= {url: file.file_size_in_bytes for url, file in _data_files(table, manifests).items()}
    return References(data, frozenset(metadata))


def files_of(table: Table, snapshots: Collection[int] | None = None) -> dict[str, DataFile]:
    """Data files of some snapshots of a table, or of all that are kept, by URL.

    Raises:
        CorruptionError: a manifest is missing.
    """
    chosen = [s for s in table.metadata.snapshots if snapshots is None or s.snapshot_id in snapshots]
    with readable_metadata(f"table {table.name()[-1]!r}"):
        return _data_files(table, _manifests(table, chosen))


def _manifests(table: Table, snapshots: Iterable[Snapshot]) -> dict[str, ManifestFile]:
    return {manifest.manifest_path: manifest for s in snapshots for manifest in s.manifests(table.io)}


def _data_files(table: Table, manifests: Mapping[str, ManifestFile]) -> dict[str, DataFile]:
    entries = (e for m in manifests.values() for e in m.fetch_manifest_entry(table.io, discard_deleted=True))
    return {entry.data_file.file_path: entry.data_file for entry in entries}


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no kept snapshot names: of a killed run, of a lost race, or of a job at work.

    Attributes:
        url: where it lies.
        nbytes: its size.
        modified: when it was written; None where the filesystem does not say.
        data: it lies among the data files, else among the metadata.
    """

    url: str
    nbytes: int
    modified: datetime | None
    data: bool


def leftovers(store: Store, needed: References) -> list[Leftover]:
    """Files below the tables' folders that are not needed."""
    fs = filesystem(store.url)
    live = {fs._strip_protocol(url) for url in needed.urls}
    found = []
    for name in store.schemas:
        for part in ("data", "metadata"):
            entries = files_below(f"{store.url}/tables/{name}/{part}").items()
            found += [_leftover(fs, path, about, part == "data") for path, about in entries if path not in live]
    return found


def _leftover(fs: Any, path: str, about: Mapping[str, Any], data: bool) -> Leftover:
    return Leftover(fs.unstrip_protocol(path), int(about.get("size") or 0), _modified(about), data)


def _modified(about: Mapping[str, Any]) -> datetime | None:
    """When a file was written, as its filesystem lists it: seconds (local), or a time (s3, gs, az, memory)."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = about.get(key)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None
