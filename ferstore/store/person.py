"""What in a store is of one person or one picture, and what stays of a table without it. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ferstore.store.schema import TableSchema

ERASED = "[erased]"
_SHORTEST = 5  # characters of an item's name that is looked for in text: "12" would be found in every count
_SEPARATORS = re.compile(r"[/._\-]")


@dataclass(frozen=True)
class Person:
    """What is to be erased.

    Attributes:
        image_ids: contents of the pictures; whatever is keyed by one of them goes.
        items: data set and item of each; what has no content (a quarantined file) goes by them.
        urls: where the pictures came from.
        subject: the person's name, None where one picture was named.
    """

    image_ids: frozenset[str]
    items: frozenset[tuple[str, str]]
    urls: frozenset[str]
    subject: str | None = None

    def joined(self, other: Person) -> Person:
        """With what was found of the same person in another state."""
        return replace(
            self,
            image_ids=self.image_ids | other.image_ids,
            items=self.items | other.items,
            urls=self.urls | other.urls,
        )

    def columns(self, schema: TableSchema) -> list[str]:
        """Columns that tell which rows of a table are the person's."""
        ids = _ids(schema)
        pair = [name for name in ("dataset", "item_id", "item") if name in schema.names] if ids else []
        return [*ids, *pair] or _texts(schema)

    def without(self, schema: TableSchema, rows: pa.Table) -> pa.Table:
        """What stays of some rows: rows of the person leave; text of tables that know no pictures is blacked out.

        Args:
            schema: of the table.
            rows: any rows of it, with the columns of `columns` at least.
        """
        ids = _ids(schema)
        if not ids:
            return self._blackened(schema, rows)
        return rows.filter(pa.array(~self._theirs(ids, rows)))

    def affected(self, schema: TableSchema, rows: pa.Table) -> int:
        """How many of some rows leave or change."""
        after = self.without(schema, rows)
        if len(after) < len(rows):
            return len(rows) - len(after)
        changed = np.zeros(len(rows), bool)
        for name in rows.column_names if after is not rows else ():
            changed |= np.asarray(pc.fill_null(pc.not_equal(rows[name], after[name]), False))
        return int(changed.sum())

    def _theirs(self, ids: Collection[str], rows: pa.Table) -> npt.NDArray[np.bool_]:
        known = pa.array(sorted(self.image_ids), pa.string())
        found = np.zeros(len(rows), bool)
        for name in ids:
            found |= np.asarray(pc.fill_null(pc.is_in(rows[name], known), False))
        item = next((name for name in ("item_id", "item") if name in rows.column_names), None)
        if item is None or "dataset" not in rows.column_names:
            return found
        datasets, items = rows["dataset"].to_pylist(), rows[item].to_pylist()
        for index in np.flatnonzero(np.asarray(pc.is_null(rows["image_id"])) & ~found):
            found[index] = self._has(datasets[index], items[index])
        return found

    def _has(self, dataset: str, item: str) -> bool:
        """Whether an item that could not be read is theirs: listed once, or with their name in its path."""
        named = self.subject is not None and dataset in self._datasets and self.subject in _SEPARATORS.split(item)
        return (dataset, item) in self.items or named

    @cached_property
    def _datasets(self) -> frozenset[str]:
        return frozenset(dataset for dataset, _ in self.items)

    def _blackened(self, schema: TableSchema, rows: pa.Table) -> pa.Table:
        for name in _texts(schema):
            if name not in rows.column_names:
                continue
            texts = rows[name].to_pylist()
            clean = [self.pattern.sub(ERASED, text) if text else text for text in texts]
            if clean != texts:
                rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), [clean])
        return rows

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The names by which text would speak of the pictures."""
        named = {item for _, item in self.items if len(item) >= _SHORTEST and not item.isdigit()}
        words = sorted({*self.image_ids, *self.urls, *named}, key=len, reverse=True)
        return re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words) or r"(?!)")


def _ids(schema: TableSchema) -> list[str]:
    """Columns that name a picture: a new table's are found by their name."""
    return [name for name in schema.names if name.endswith("image_id")]


def _texts(schema: TableSchema) -> list[str]:
    return [column.name for column in schema.columns if column.type == "string"]


def person_of(rows: pa.Table, *, subject: str | None, dataset: str | None, image_id: str | None) -> Person:
    """Who is meant, from the rows of ``images`` of every kept state.

    Args:
        rows: columns dataset, item_id, image_id, source_url, subject.
        subject: a person's name in the data sets; or
        image_id: one picture.
        dataset: only the person of that name in this data set.
    """
    if image_id is not None:
        mask = pc.equal(rows["image_id"], image_id)
    else:
        mask = pc.fill_null(pc.equal(rows["subject"], subject), False)
        if dataset is not None:
            mask = pc.and_(mask, pc.equal(rows["dataset"], dataset))
    image_ids = frozenset(rows.filter(mask)["image_id"].to_pylist()) | ({image_id} if image_id is not None else set())
    same = rows.filter(pc.is_in(rows["image_id"], pa.array(sorted(image_ids), pa.string())))
    pairs = zip(same["dataset"].to_pylist(), same["item_id"].to_pylist(), strict=True)
    return Person(image_ids, frozenset(pairs), frozenset(same["source_url"].to_pylist()), subject)
