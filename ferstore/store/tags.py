"""Tags: a name for one state of all tables, kept for ever."""

from __future__ import annotations

import re

from pyiceberg.table.update.snapshot import ManageSnapshots

from ferstore.errors import InputError
from ferstore.store.attempts import Attempts
from ferstore.store.catalog import commit_transactions
from ferstore.store.reach import reaching
from ferstore.store.store import Store

_NAME = re.compile(r"(?=.*[^\W\d_])[^\s\x00-\x1f'\"\\/][^\x00-\x1f'\"\\/]{0,99}")


def create_tag(store: Store, name: str, at: str | None = None) -> dict[str, int]:
    """Name the current state, or the one at a snapshot id or time.

    Args:
        store: the store.
        name: 1 to 100 characters with a letter among them.
        at: see `ferstore.store.pin.Pin.resolve`.

    Returns:
        The snapshot tagged in each table that has one.

    Raises:
        InputError: an impossible name, one that is taken, or nothing to tag.
        ConflictError: other writers kept getting there first.
        UnavailableError: files or catalog cannot be reached, read or written.
    """
    if not _NAME.fullmatch(name) or not name.isprintable() or name == "main":
        raise InputError(
            f"tag name {name!r}",
            allowed="1 to 100 printable characters with a letter, without quotes, slashes or 'main'",
        )
    asked: list[dict[str, int]] = []  # by tries of which nobody knows whether they landed
    for _ in (attempts := Attempts(f"the store {store.url}")):
        pin = store.pin()
        if name in pin.tags():
            if (found := pin.tags()[name]) in asked:
                return found
            raise InputError(f"tag {name!r} exists and never moves", hint="choose another name")
        state = pin.resolve(at) if at else pin
        tagged = {table: snapshot for table, snapshot in state.snapshots.items() if snapshot is not None}
        if not tagged:
            raise InputError("there is nothing to tag: all tables are empty", hint="ingest a data set first")
        transactions = []
        for table, snapshot in tagged.items():
            transaction = pin.tables[table].transaction()
            ManageSnapshots(transaction).create_tag(snapshot, name).commit()
            transactions.append(transaction)
        with reaching(f"the store {store.url}"), attempts.landing():
            commit_transactions(store.catalog, transactions)
        if attempts.landed:
            break
        if attempts.unsure:
            asked.append(tagged)
    return tagged
