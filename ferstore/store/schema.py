"""What a table is: ``schemas/*.toml`` read once, checked, and turned into Iceberg and Arrow schemas.

A new table, a feature layer included, is a new TOML file; no code names its columns twice.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ferstore.errors import SchemaError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.schema import Schema
    from pyiceberg.types import IcebergType

MapDtype = Literal["float16", "float32"]
ColumnType = Literal[
    "string", "int", "long", "float", "double", "timestamptz", "list<string>", "list<int>", "list<float>", "tensor"
]


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    type: ColumnType
    required: bool = False
    unit: str = ""
    description: str


class _Feature(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    node: str
    pool: bool
    shape: tuple[int, ...]
    dtype: MapDtype


class _SchemaFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    description: str
    source: str
    key: tuple[str, ...]
    columns: tuple[_Column, ...]
    feature: _Feature | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _SchemaFile:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("a column is declared twice")
        if missing := [name for name in self.key if name not in names]:
            raise ValueError(f"key names no column: {missing}")
        if any(column.type == "tensor" for column in self.columns) and self.feature is None:
            raise ValueError("a tensor column needs a [feature] with its shape")
        return self


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, declared type, whether it may be null, unit and meaning."""

    name: str
    type: ColumnType
    required: bool
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class Feature:
    """How a feature table is computed and stored.

    Attributes:
        node: layer of ``keras.applications.InceptionV3`` whose output it is.
        pool: whether the output is averaged over its positions.
        shape: shape of one value, row-major.
        dtype: how a map is stored; vectors are always float32.
    """

    node: str
    pool: bool
    shape: tuple[int, ...]
    dtype: MapDtype

    @property
    def values(self) -> int:
        """Number of values of one image."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one stored value."""
        return 4 if self.pool or self.dtype == "float32" else 2

    @property
    def nbytes(self) -> int:
        """Bytes of one stored feature before compression."""
        return self.values * self.itemsize


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table as its TOML file declares it."""

    name: str
    description: str
    source: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    feature: Feature | None

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def tensor(self) -> str | None:
        """Name of the map column, which views leave out unless it is named."""
        return next((column.name for column in self.columns if column.type == "tensor"), None)

    @property
    def value(self) -> str | None:
        """Name of the column that holds the feature itself (it is named as the table is)."""
        return self.name if self.feature else None

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Columns whose files carry no statistics: a minimum says nothing of a map, and by one of floats DuckDB would
        leave out row groups with what is not a number."""
        return tuple(c.name for c in self.columns if c.type in ("float", "double", "list<float>", "tensor"))

    def iceberg(self) -> Schema:
        """Iceberg schema, field ids in column order."""
        from pyiceberg.schema import Schema
        from pyiceberg.types import FixedType, ListType, NestedField

        scalars = _iceberg_types()
        fields: list[NestedField] = []
        last = len(self.columns)
        for number, column in enumerate(self.columns, 1):
            if column.type.startswith("list<"):
                last += 1
                kind: IcebergType = ListType(
                    element_id=last, element_type=scalars[column.type[5:-1]], element_required=False
                )
            elif column.type == "tensor":
                kind = FixedType(self._tensor_bytes())
            else:
                kind = scalars[column.type]
            doc = f"{column.description} [{column.unit}]" if column.unit else column.description
            fields.append(NestedField(number, column.name, kind, required=column.required, doc=doc))
        return Schema(*fields)

    def arrow(self) -> pa.Schema:
        """Arrow schema of a conforming file: no field ids, since files are added by name."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, self._arrow_type(c), nullable=not c.required) for c in self.columns])

    def with_map_dtype(self, dtype: MapDtype) -> TableSchema:
        """The same table with its maps stored as ``dtype``; other tables are returned as they are."""
        if self.feature is None or self.feature.pool:
            return self
        feature = Feature(self.feature.node, False, self.feature.shape, dtype)
        return TableSchema(self.name, self.description, self.source, self.key, self.columns, feature)

    def _arrow_type(self, column: Column) -> pa.DataType:
        import pyarrow as pa

        return pa.binary(self._tensor_bytes()) if column.type == "tensor" else _arrow_types()[column.type]

    def _tensor_bytes(self) -> int:
        assert self.feature is not None  # noqa: S101  held by _SchemaFile
        return self.feature.nbytes


# A wrong setting is refused by what is declared alone: Arrow and Iceberg take longer to import than that may take.
@lru_cache(maxsize=1)
def _iceberg_types() -> Mapping[str, IcebergType]:
    from pyiceberg.types import DoubleType, FloatType, IntegerType, LongType, StringType, TimestamptzType

    return {
        "string": StringType(),
        "int": IntegerType(),
        "long": LongType(),
        "float": FloatType(),
        "double": DoubleType(),
        "timestamptz": TimestamptzType(),
    }


@lru_cache(maxsize=1)
def _arrow_types() -> Mapping[str, pa.DataType]:
    import pyarrow as pa

    scalars = {
        "string": pa.string(),
        "int": pa.int32(),
        "long": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "timestamptz": pa.timestamp("us", tz="UTC"),
    }
    return scalars | {f"list<{name}>": pa.list_(scalars[name]) for name in ("string", "int", "float")}


def schema_folder() -> Path:
    """Where the TOML files are: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "schemas"
    return inside if inside.is_dir() else package.parent / "schemas"


def parse_schema(name: str, text: str) -> TableSchema:
    """Read one schema file.

    Raises:
        SchemaError: the text is not TOML, or does not say what a table needs.
    """
    try:
        file = _SchemaFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SchemaError(f"schema {name!r} is not TOML: {error}", hint=f"mend schemas/{name}.toml") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise SchemaError(f"schema {name!r}: {where}: {first['msg']}", hint=f"mend schemas/{name}.toml") from error
    columns = tuple(Column(c.name, c.type, c.required, c.unit, c.description) for c in file.columns)
    feature = Feature(**file.feature.model_dump()) if file.feature else None
    return TableSchema(name, file.description, file.source, file.key, columns, feature)


@lru_cache(maxsize=1)
def declared_schemas() -> Mapping[str, TableSchema]:
    """Every declared table by name, in name order."""
    files = sorted(schema_folder().glob("*.toml"))
    if not files:
        raise SchemaError(f"no schema files in {schema_folder()}", hint="reinstall ferstore")
    return MappingProxyType({file.stem: parse_schema(file.stem, file.read_text("utf-8")) for file in files})


@lru_cache(maxsize=1)
def declared_views() -> Mapping[str, str]:
    """SQL text of every view of ``schemas/views``, by name."""
    return MappingProxyType({f.stem: f.read_text("utf-8") for f in sorted((schema_folder() / "views").glob("*.sql"))})


def feature_layers() -> tuple[str, ...]:
    """Names of the layers that can be asked for: the tables with a ``[feature]``."""
    return tuple(name for name, schema in declared_schemas().items() if schema.feature)
