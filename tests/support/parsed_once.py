"""PyIceberg parses the schema of every Avro file anew, which is most of the time of a test that opens thousands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pyiceberg.avro import file as avro
from pyiceberg.avro import resolver
from pyiceberg.avro.reader import Reader
from pyiceberg.schema import Schema


def remember_schemas(patch: pytest.MonkeyPatch) -> None:
    """Parse each schema once, and make one reader for each pair of schemas; neither changes as it is used."""
    schemas: dict[str, Schema] = {}
    readers: dict[Any, tuple[Reader, Any]] = {}
    parsed, resolved = avro.AvroFileHeader.get_schema, avro.resolve_reader
    header_reader = resolver.construct_reader(avro.META_SCHEMA, {-1: avro.AvroFileHeader})

    def get_schema(header: avro.AvroFileHeader) -> Schema:
        text = header.meta["avro.schema"]
        return schemas.get(text) or schemas.setdefault(text, parsed(header))

    def resolve_reader(written: Any, read: Any, types: Mapping[int, Any], enums: Mapping[int, Any]) -> Reader:
        key = id(written), id(read), frozenset(types.items()), frozenset(enums.items())
        if key not in readers:
            readers[key] = resolved(written, read, dict(types), dict(enums)), (written, read)  # whose ids stay theirs
        return readers[key][0]

    patch.setattr(avro.AvroFileHeader, "get_schema", get_schema)
    patch.setattr(avro.AvroFile, "_read_header", lambda file: header_reader.read(file.decoder))
    patch.setattr(avro, "resolve_reader", resolve_reader)
