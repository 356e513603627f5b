"""A store: one URL with tables, their schemas and a catalog."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, TableAlreadyExistsError
from pyiceberg.table import Table
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from ferstore.errors import CorruptionError, FerstoreError, StoreError, UnavailableError
from ferstore.store.catalog import NAMESPACE, forget, load_tables, open_catalog
from ferstore.store.exclusive import check_exclusive, has_folders
from ferstore.store.files import filesystem, normalise, write_file
from ferstore.store.pin import Pin, readable_metadata
from ferstore.store.properties import TABLE_PROPERTIES
from ferstore.store.reach import patiently, reaching
from ferstore.store.schema import MapDtype, TableSchema, declared_schemas
from ferstore.version import own_version

FORMAT = 1
_MARKER = "ferstore.json"
_INIT_ATTEMPTS = 4


class _Marker(BaseModel):
    """What ``ferstore.json`` says; unknown keys are kept for later versions to add."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    format: int
    store_id: str
    location: str
    map_dtype: MapDtype
    catalog: str  # "inside" or "outside": a URI could hold a password
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Store:
    """An open store.

    Attributes:
        url: its URL, without a trailing slash; a local folder as ``file://``.
        catalog: the Iceberg catalog.
        schemas: every declared table, with maps in this store's dtype.
    """

    url: str
    catalog: Catalog = field(repr=False)
    schemas: Mapping[str, TableSchema] = field(repr=False)
    map_dtype: MapDtype

    def pin(self, at: str | None = None, *, afresh: bool = False) -> Pin:
        """The current state, or the one at a tag, snapshot id or time.

        Args:
            at: a tag, snapshot id or time; None is the newest.
            afresh: read metadata again that was read before and never changes: whoever looks for damage wants to.

        Raises:
            InputError: ``at`` is none of them.
            StoreError: an older version made the store, without tables that this one has; or the catalog is empty or
                another store's.
        """
        if afresh:
            forget(self.catalog)
        pin = Pin.current(_own_tables(self.catalog, self.url))
        if missing := sorted(self.schemas.keys() - pin.tables.keys()):
            raise StoreError(
                f"the store {self.url} lacks tables that this version knows ({', '.join(missing)})",
                hint="add them with: ferstore init, which changes nothing else",
            )
        return pin.resolve(at) if at else pin

    def data_folder(self, table: str) -> str:
        """Where data files of a table go."""
        return f"{self.url}/tables/{table}/data"


def init_store(url: str, *, catalog: str | None = None, map_dtype: MapDtype | None = None) -> Store:
    """Make a store, or finish one whose making was cut short. An existing store gets the tables it lacks, no more.

    Args:
        url: folder or fsspec URL.
        catalog: see `open_catalog`.
        map_dtype: how maps are stored, ``float16`` unless said otherwise.

    Raises:
        UnavailableError: files or catalog cannot be reached, read or written.
        StoreError: the place cannot be made, holds something else, lets a file be made twice, or is a store with
            another ``map_dtype``.
    """
    url = normalise(url)
    marker = _read_marker(url)
    if marker:
        if map_dtype and marker.map_dtype != map_dtype:
            raise StoreError(
                f"the store {url} keeps its maps as {marker.map_dtype}, not {map_dtype}",
                hint="make another store for the other type",
            )
        store = open_store(url, catalog=catalog)
        _own_tables(store.catalog, url)
        with reaching(f"the store {url}"):
            patiently(lambda: _create_tables(store.catalog, url, store.map_dtype))
        return store
    dtype: MapDtype = map_dtype or "float16"
    try:
        strangers = [name for name in _listing(url) if name not in _OURS and not name.startswith(f".{_MARKER}.")]
        if strangers:
            raise StoreError(
                f"{url} is not empty (it holds {sorted(strangers)[0]!r}) and is no store",
                hint="name a new or empty folder",
            )
        if catalog and not catalog.startswith("sqlite:"):  # SQLite's file may lie in a folder made below
            open_catalog(catalog, url)  # a mistaken one is refused before anything is made
        if has_folders(url):
            patiently(lambda: filesystem(url).makedirs(url, exist_ok=True))
        check_exclusive(url)
        with reaching(url):
            _make_tables(catalog, url, dtype)
        marker = _Marker(
            format=FORMAT,
            store_id=uuid.uuid4().hex,
            location=url,
            map_dtype=dtype,
            catalog="outside" if catalog else "inside",
            created_by=f"ferstore {own_version()}",
            created_at=datetime.now(UTC),
        )
        write_file(f"{url}/{_MARKER}", marker.model_dump_json(indent=2).encode(), exclusive=True)
    except FileExistsError:
        pass  # another init was quicker; its store is as good as ours
    except OSError as error:
        raise StoreError(
            f"cannot make a store at {url}: {error.strerror or error}",
            hint="check the path and its permissions, or name another with --store",
        ) from error
    try:
        return open_store(url, catalog=catalog)
    except StoreError as error:  # whose exit code would say that nothing was changed, but the store is made
        raise UnavailableError(error.problem, hint=error.hint) from error


def open_store(url: str, *, catalog: str | None = None) -> Store:
    """Open a store.

    Raises:
        StoreError: there is none, it was made by another version, was moved, or cannot be reached.
    """
    url = normalise(url)
    marker = _read_marker(url)
    if marker is None:
        raise StoreError(f"no store at {url}", hint="make one with: ferstore init (or name another with --store)")
    if marker.location != url:
        raise StoreError(
            f"the store at {url} was made at {marker.location}, and its tables name files there",
            hint="move it back, or make a new one and run ingest and extract again",
        )
    if marker.catalog == "outside" and not catalog:
        raise StoreError(
            f"the store {url} keeps its catalog outside", hint="give --catalog or FERSTORE_CATALOG, as at init"
        )
    if marker.catalog == "inside" and catalog:
        raise StoreError(
            f"the store {url} keeps its catalog inside", hint="leave out --catalog and unset FERSTORE_CATALOG"
        )
    schemas = {name: schema.with_map_dtype(marker.map_dtype) for name, schema in declared_schemas().items()}
    return Store(url, open_catalog(catalog, url), schemas, marker.map_dtype)


def _own_tables(catalog: Catalog, url: str) -> Mapping[str, Table]:
    """Tables of a finished store. A lost or mistaken catalog must not look like a store without rows."""
    try:
        with readable_metadata(f"the store {url}"):
            tables = load_tables(catalog)
    except SQLAlchemyError as error:
        raise unusable_catalog(url, error) from error
    found = next((table.location() for table in tables.values()), "no tables")
    if not found.startswith(f"{url}/tables/"):
        raise StoreError(
            f"the catalog of the store {url} holds {found}",
            allowed="the catalog it was made with",
            hint="check --catalog (or FERSTORE_CATALOG), or restore catalog.db from a backup",
        )
    return tables


def unusable_catalog(url: str, error: SQLAlchemyError) -> FerstoreError:
    """What to say of a catalog that is damaged, or cannot be reached; of the driver's words, the first line."""
    cause = getattr(error, "orig", None) or error
    said = (str(cause).splitlines() or [""])[0][:200]
    problem = f"the catalog of the store {url} cannot be read: {type(cause).__name__}: {said}"
    if isinstance(error, OperationalError):  # locked, or a server that does not answer
        return UnavailableError(problem, hint="see that its server runs, and run the same command again")
    return CorruptionError(problem, hint="restore it (catalog.db, where it is inside the store) from a backup")


_OURS = frozenset({"tables", "catalog.db", "catalog.db-journal", "log"})


def _listing(url: str) -> list[str]:
    """Names in a folder; none where it is not there.

    Raises:
        StoreError: it is a file.
    """
    fs = filesystem(url)
    try:
        # `exists` and `isdir` would say no of a store that does not answer.
        if patiently(lambda: fs.info(url))["type"] == "file":
            raise StoreError(f"{url} is a file", hint="name a folder")
        found = patiently(lambda: fs.ls(url, detail=False))
    except FileNotFoundError:
        return []
    return [str(name).rstrip("/").rsplit("/", 1)[-1] for name in found]


def _make_tables(catalog: str | None, url: str, map_dtype: MapDtype) -> None:
    """Make the catalog and all tables; again where another init made the same ones at the same moment."""
    for attempt in range(_INIT_ATTEMPTS):
        try:
            _create_tables(open_catalog(catalog, url), url, map_dtype)
        except (SQLAlchemyError, StoreError):
            if attempt == _INIT_ATTEMPTS - 1:
                raise
            time.sleep(0.2)
        else:
            return


def _create_tables(catalog: Catalog, url: str, map_dtype: MapDtype) -> None:
    with contextlib.suppress(NamespaceAlreadyExistsError, IntegrityError):  # the second: another init is at work
        catalog.create_namespace(NAMESPACE)
    there = load_tables(catalog)
    for name, schema in declared_schemas().items():
        wanted = schema.with_map_dtype(map_dtype).iceberg()
        try:
            table = there.get(name) or catalog.create_table(
                (NAMESPACE, name),
                wanted,
                location=f"{url}/tables/{name}",
                properties=_properties(schema, map_dtype),
            )
        except TableAlreadyExistsError:  # another init is at work
            table = catalog.load_table((NAMESPACE, name))
        if table.location() != f"{url}/tables/{name}":
            raise StoreError(
                f"the catalog already holds a store at {table.location()}", hint="give each store its own catalog"
            )
        if table.schema().as_struct() != wanted.as_struct():
            raise StoreError(
                f"{url} is a half-made store whose table {name!r} has other columns or another map type",
                hint="finish it with the version and options that began it, or name a new folder",
            )


def _properties(schema: TableSchema, map_dtype: MapDtype) -> dict[str, str]:
    shown = schema.with_map_dtype(map_dtype)
    properties = {
        **TABLE_PROPERTIES,
        "comment": schema.description,
        "schema.name-mapping.default": shown.iceberg().name_mapping.model_dump_json(),
        "ferstore.key": ",".join(schema.key),
    }
    for column in shown.columns:
        if column.name in shown.unmeasured:  # PyIceberg would warn of each at every file
            path = f"{column.name}.element" if column.type.startswith("list<") else column.name
            properties[f"write.metadata.metrics.column.{path}"] = "none"
    if shown.feature:
        properties["ferstore.feature"] = json.dumps(
            {"node": shown.feature.node, "shape": shown.feature.shape, "dtype": shown.feature.dtype}
        )
    return properties


def _read_marker(url: str) -> _Marker | None:
    try:
        text = patiently(lambda: filesystem(url).cat_file(f"{url}/{_MARKER}"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(
            f"cannot read {url}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    try:
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] != FORMAT:
            raise StoreError(
                f"the store {url} has format {found['format']} (made by {found.get('created_by', 'unknown')})",
                allowed=f"format {FORMAT} in this version of ferstore",
                hint="use the version that made it, or make a new store",
            )
        return _Marker.model_validate(found)
    except (json.JSONDecodeError, ValidationError) as error:
        raise StoreError(
            f"{url}/{_MARKER} is damaged ({type(error).__name__})", hint="restore it from a backup; tables are intact"
        ) from error
