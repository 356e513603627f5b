"""A table's metadata as one process holds it: what happened to the table is shared and never changed.

PyIceberg 0.12 copies all snapshots of a table's past each of the forty times that a commit looks at its metadata, walks
them from the oldest to find the newest, and makes JSON of each again for every metadata file. With all three, a commit
costs more the more there were before it.
"""

from __future__ import annotations

from typing import Any

from pydantic import PrivateAttr
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2
from pyiceberg.table.snapshots import Snapshot


class SharedMetadata(TableMetadataV2):
    """Metadata of a table of format 2 (https://iceberg.apache.org/spec/#table-metadata-fields).

    PyIceberg replaces what it changes by new lists and new snapshots, so a copy may share them.
    """

    _written: dict[int, tuple[Snapshot, str]] = PrivateAttr(default_factory=dict)  # by snapshot id; shared by copies

    @classmethod
    def of(cls, metadata: TableMetadata) -> TableMetadata:
        """The same metadata, if it is of the format that stores have."""
        if type(metadata) is not TableMetadataV2:
            return metadata
        return cls.model_construct(metadata.model_fields_set, **dict(metadata))

    def __deepcopy__(self, memo: dict[int, object] | None = None) -> SharedMetadata:
        return self.model_copy()

    def snapshot_by_id(self, snapshot_id: int) -> Snapshot | None:
        """The snapshot with this id, the newest looked at first, because commits and readers ask for these."""
        return next((found for found in reversed(self.snapshots) if found.snapshot_id == snapshot_id), None)

    def model_dump_json(self, *given: Any, **options: Any) -> str:
        """JSON of the metadata file. As PyIceberg asks for it, only snapshots that are new are turned into JSON."""
        if given or options not in ({}, {"exclude_none": True}):
            return super().model_dump_json(*given, **options)
        written = self._written
        texts = []
        for snapshot in self.snapshots:
            known = written.get(snapshot.snapshot_id)
            # One whose parent expired is another object with the same id.
            if known is None or known[0] is not snapshot:
                known = written[snapshot.snapshot_id] = snapshot, snapshot.model_dump_json()
            texts.append(known[1])
        rest = super().model_dump_json(exclude={"snapshots"})
        return f'{rest[:-1]},"snapshots":[{",".join(texts)}]}}'
