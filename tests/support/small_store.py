"""Stores made in milliseconds: real tables with features of a few values, copied from a template in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from inline import Inline
from pyiceberg.io import InputFile
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromByteStream, FromInputFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.utils.concurrent import ExecutorFactory

from ferstore.store import store as store_module
from ferstore.store.schema import TableSchema, declared_schemas
from ferstore.store.store import Store, init_store, open_store

TABLES = (
    "conv4",
    "extractors",
    "images",
    "mixed_10",
    "pool_3",
    "predictions",
    "quarantine",
    "runs",
    "training_set_items",
    "training_set_leaks",
    "training_sets",
)
"""The tables there are: one vector, one map, and what is not a layer."""


def small_schemas() -> Mapping[str, TableSchema]:
    """`TABLES` as declared, with small features, and without descriptions, which are most of the metadata."""
    found = {}
    for name in TABLES:
        schema = declared_schemas()[name]
        columns = tuple(replace(column, description="", unit="") for column in schema.columns)
        schema = replace(schema, columns=columns, description="")
        if schema.feature is not None:
            shape = (4,) if schema.feature.pool else (1, 1, 4)
            schema = replace(schema, feature=replace(schema.feature, shape=shape))
        found[name] = schema
    return found


class SmallStores:
    """Makes the same empty store again and again, at the same place."""

    def __init__(self, folder: Path) -> None:
        self._read: dict[str, TableMetadata] = {}
        self._template, self._place = folder / "template", folder / "store"
        init_store(str(self._place))
        self._place.rename(self._template)

    def fresh(self) -> Store:
        """A new store; the last one is gone."""
        self._read.clear()
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.copytree(self._template, self._place)
        return open_store(str(self._place))

    def metadata(self, file: InputFile) -> TableMetadata:
        """Metadata of a table, parsed once: its file is never changed. One that is gone is missed as ever."""
        with file.open() as stream:
            if file.location not in self._read:
                self._read[file.location] = FromByteStream.table_metadata(stream)
        return self._read[file.location]


@contextmanager
def small_stores() -> Iterator[SmallStores]:
    """Small stores in a folder of the machine's memory, where it has one."""
    memory = Path("/dev/shm")
    schemas = small_schemas()
    with (
        mock.patch.object(store_module, "declared_schemas", return_value=schemas),
        mock.patch.object(Schema, "__deepcopy__", lambda schema, _: schema, create=True),  # nobody changes one
        tempfile.TemporaryDirectory(prefix="ferstore-", dir=memory if memory.is_dir() else None) as folder,
    ):
        stores = SmallStores(Path(folder).resolve())
        with (
            mock.patch.object(FromInputFile, "table_metadata", staticmethod(stores.metadata)),
            mock.patch.object(ExecutorFactory, "get_or_create", staticmethod(Inline)),
        ):
            yield stores
