"""The catalog: which metadata file is each table's current one.

By default a SQLite file inside the store; a PostgreSQL or REST catalog by URI. A SQL catalog commits several tables in
one database transaction, so that a reader, who loads all tables in one query, sees all of a commit or none of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import urlparse

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchNamespaceError, RESTError
from pyiceberg.table import Table, Transaction
from pyiceberg.table.update import AssertTableUUID
from sqlalchemy import URL, event, select, update
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ferstore.errors import StoreError
from ferstore.store.files import local_path
from ferstore.store.metadata import SharedMetadata
from ferstore.store.reach import patiently

if TYPE_CHECKING:
    from ferstore.store.rest import TogetherRestCatalog

NAMESPACE = "ferstore"
_LOADS = 3
_SQLITE_WAIT = 60  # seconds a writer waits for another one's database transaction, which takes milliseconds


class TransactionalCatalog(SqlCatalog):
    """PyIceberg's SQL catalog, with one database transaction over several tables.

    It uses the steps of ``SqlCatalog.commit_table`` of pyiceberg 0.12 (stage, write metadata, compare and swap), the
    last of them for all tables at once; the version is bounded in ``pyproject.toml`` for that.

    A metadata file never changes, so each table's newest is read and parsed once.
    """

    def __init__(self, name: str, **properties: str) -> None:
        super().__init__(name, **properties)
        self._read: dict[str, Table] = {}
        event.listen(self.engine, "handle_error", _give_up_connection)

    def load_all(self) -> dict[str, Table]:
        """Every table of the store as of one instant, by name."""
        for attempt in range(_LOADS):
            with Session(self.engine) as session:
                rows = session.scalars(
                    select(IcebergTables).where(
                        IcebergTables.catalog_name == self.name, IcebergTables.table_namespace == NAMESPACE
                    )
                ).all()
                session.expunge_all()
            try:
                return {str(row.table_name): self._convert_orm_to_iceberg(row) for row in rows}
            except FileNotFoundError:
                # Other writers' commits remove old metadata files; the next look names newer ones.
                if attempt == _LOADS - 1:
                    raise
        raise AssertionError("not reached")

    def forget(self) -> None:
        """Read all metadata again."""
        self._read.clear()

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        name, location = str(orm_table.table_name), str(orm_table.metadata_location)
        read = self._read.get(name)
        if read is None or read.metadata_location != location:
            read = super()._convert_orm_to_iceberg(orm_table)
            read.metadata = SharedMetadata.of(read.metadata)
            self._read[name] = read
        return Table(read.name(), read.metadata, location, read.io, self)

    def commit_all(self, transactions: Sequence[Transaction], *, exact: bool = False) -> None:
        """Commit the transactions of several tables, all or none.

        A transaction that adds a snapshot fits only on the very metadata it was planned on. So does, with ``exact``,
        any other: one that removes snapshots must not take those that were tagged meanwhile.

        Raises:
            CommitFailedException: a table moved on since its transaction began; nothing was committed.
        """
        staged = []
        try:
            for transaction in transactions:
                table = transaction._table
                current = self.load_table(table.name())
                moved = current.metadata_location != table.metadata_location
                if moved and (exact or transaction._snapshot_producers):
                    raise CommitFailedException(f"table {table.name()[-1]} was changed by another writer")
                requirements = (*transaction._requirements, AssertTableUUID(uuid=table.metadata.table_uuid))
                try:
                    after = self._update_and_stage_table(current, table.name(), requirements, transaction._updates)
                except ValueError as error:  # a snapshot that it names was vacuumed or erased
                    raise CommitFailedException(str(error)) from error
                self._write_metadata(after.metadata, after.io, after.metadata_location)
                staged.append((table.name()[-1], current, after))
            with Session(self.engine) as session:
                for name, current, after in sorted(staged, key=lambda entry: entry[0]):  # one order: no deadlock
                    swapped = session.execute(
                        update(IcebergTables)
                        .where(
                            IcebergTables.catalog_name == self.name,
                            IcebergTables.table_namespace == NAMESPACE,
                            IcebergTables.table_name == name,
                            IcebergTables.metadata_location == current.metadata_location,
                        )
                        .values(
                            metadata_location=after.metadata_location,
                            previous_metadata_location=current.metadata_location,
                        )
                    )
                    if swapped.rowcount != 1:  # type: ignore[attr-defined]
                        raise CommitFailedException(f"table {name} was changed by another writer")
                session.commit()
        except CommitFailedException:
            # This error promises that nothing landed, so what was written for it can go.
            for transaction in transactions:
                for producer in transaction._snapshot_producers:
                    producer._clean_all_uncommitted()
            for _, _, after in staged:
                with contextlib.suppress(Exception):  # left over; the conflict is what to tell
                    after.io.delete(after.metadata_location)
            raise
        for name, current, after in staged:
            self._read[name] = Table(current.name(), after.metadata, after.metadata_location, after.io, self)
            with contextlib.suppress(Exception):  # it is committed, whatever becomes of files that nobody needs
                self._delete_old_metadata(after.io, current.metadata, after.metadata)


def _give_up_connection(context: ExceptionContext) -> None:
    """Close a connection whose COMMIT or ROLLBACK failed.

    A SQLite that was busy leaves the transaction open, and SQLAlchemy puts the connection back into the pool: whoever
    reads through it next sees what is not committed and takes it for landed.
    """
    if context.statement is None:
        context.is_disconnect = True


def open_catalog(uri: str | None, root: str) -> Catalog:
    """Open the catalog of the store at ``root``.

    Args:
        uri: ``sqlite:///…``, ``postgresql…://…``, ``http(s)://…`` (Iceberg REST), or None for SQLite inside the store.
        root: URL of the store.

    Raises:
        StoreError: the catalog cannot be reached, or SQLite was asked for on a store that is not a local folder.
    """
    common = {"py-io-impl": "ferstore.store.files.StoreFileIO", "warehouse": f"{root}/tables"}
    if uri is None:
        path = local_path(root)
        if path is None:
            raise StoreError(
                f"the store {root} is not a local folder, so its catalog cannot be a SQLite file inside it",
                hint="give --catalog (or FERSTORE_CATALOG) with a postgresql:// or REST http(s):// URI",
            )
        # A path may hold ? and %, which mean something in a URI.
        uri = URL.create("sqlite", database=str(path / "catalog.db")).render_as_string()
    scheme, address = urlparse(uri).scheme, uri
    try:
        if scheme in ("http", "https"):
            from ferstore.store.rest import open_rest

            return patiently(lambda: open_rest(address, **common))
        if scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            raise StoreError(
                f"catalog with scheme {scheme!r}", allowed="sqlite:///path, postgresql://host/db, http(s)://host (REST)"
            )
        if scheme == "sqlite":
            uri += ("&" if "?" in uri else "?") + f"timeout={_SQLITE_WAIT}"
        elif scheme == "postgresql":
            uri = "postgresql+psycopg2" + uri.removeprefix("postgresql")
        return patiently(lambda: TransactionalCatalog("ferstore", uri=uri, **common))
    except (SQLAlchemyError, RESTError, OSError, ImportError) as error:
        # The driver's message may quote the URI with its password; only its type is shown.
        raise StoreError(
            f"cannot open the {scheme} catalog of the store {root} ({type(error).__name__})",
            hint="check --catalog (or FERSTORE_CATALOG), that its server runs, and that its driver is installed",
        ) from error


def load_tables(catalog: Catalog) -> dict[str, Table]:
    """Every table by name, from one instant where the catalog can do that."""
    if isinstance(catalog, TransactionalCatalog):
        return patiently(catalog.load_all)
    try:
        return patiently(
            lambda: {identifier[-1]: catalog.load_table(identifier) for identifier in catalog.list_tables(NAMESPACE)}
        )
    except NoSuchNamespaceError:
        return {}


def forget(catalog: Catalog) -> None:
    """Read every table's metadata again, also what was read before."""
    if isinstance(catalog, TransactionalCatalog):
        catalog.forget()


def commit_transactions(catalog: Catalog, transactions: Sequence[Transaction], *, exact: bool = False) -> None:
    """Commit several tables' transactions: at once, or one after another in a REST catalog that cannot do that.

    Args:
        catalog: of the store.
        transactions: one a table.
        exact: no table may have changed in any way, tags included; a REST catalog cannot promise that.

    Raises:
        StoreError: ``exact`` with a REST catalog.
        CommitFailedException: a table moved on. Where they are committed one after another, those before it have been;
            every caller plans again from what landed, so the rest follows.
    """
    if isinstance(catalog, TransactionalCatalog):
        catalog.commit_all(transactions, exact=exact)
        return
    if exact:
        raise StoreError(
            "a REST catalog commits table by table, which could lose a tag or leave half a person",
            allowed="a SQLite or PostgreSQL catalog",
            hint="expire snapshots with the catalog's own tools",
        )
    cast("TogetherRestCatalog", catalog).commit_all(transactions)


def default_catalog_uri() -> str | None:
    """The catalog named by ``FERSTORE_CATALOG``, if any."""
    return os.environ.get("FERSTORE_CATALOG") or None
