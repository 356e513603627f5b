"""``ferstore compact``: many small data files of a table become few large ones; no row changes.

A shard of extraction is a file, and so is every small commit; a query opens each of them. The files replaced stay until
no kept snapshot needs them (`ferstore.store.vacuum`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyiceberg.manifest import DataFile

from ferstore.errors import CorruptionError
from ferstore.progress import Progress, Silent
from ferstore.store.commit import Change, transact
from ferstore.store.files import StoredFile
from ferstore.store.pin import Pin
from ferstore.store.reach import reaching
from ferstore.store.rewrite import rewrite
from ferstore.store.runs import Run, new_run, record_run
from ferstore.store.store import Store

TARGET = 128 << 20
"""Bytes of a file: large enough for sequential reading, small enough to be rewritten when a person is erased."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """One table: data files, their bytes and their rows before, files and bytes after."""

    table: str
    rows: int
    files: int
    nbytes: int
    files_after: int
    nbytes_after: int


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What was merged.

    Attributes:
        tables: those with something to merge; a dry run estimates ``nbytes_after`` as ``nbytes``.
        run_id: the run; None where nothing was to do, or for a dry run.
    """

    tables: tuple[Compacted, ...]
    run_id: str | None


def merges(sizes: Sequence[int], target: int = TARGET) -> list[list[int]]:
    """Which files to merge: those below half the target, next to one another, up to the target each time.

    A merged file is over half the target, except the last, so a second time finds nothing to do.

    Args:
        sizes: bytes of each file.
        target: bytes of a merged file.

    Returns:
        Indices of the files of each merge, two or more.
    """
    groups: list[list[int]] = []
    total = 0
    for index, size in enumerate(sizes):
        if size * 2 >= target:
            continue
        if not groups or total + size > target:
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += size
    return [group for group in groups if len(group) > 1]


@reaching("the store")
def compact(
    store: Store, *, target: int = TARGET, dry_run: bool = False, progress: Progress | None = None
) -> CompactReport:
    """Merge the small data files of every table.

    Each merge is a commit of its own, planned again when another writer was quicker, and left out when that writer
    replaced one of its files. Memory is bounded by a file.

    Args:
        store: the store.
        target: bytes of a merged file, about.
        dry_run: say what would be merged; change nothing.
        progress: told of every file.

    Raises:
        CorruptionError: a file is damaged; its table is as it was.
        ConflictError: other writers kept getting there first.
        UnavailableError: files or catalog cannot be reached, read or written.
    """
    progress = progress or Silent()
    pin = store.pin()
    files = {name: pin.data_files(name) for name in store.schemas}  # once: an erasure may take this state away
    chosen = {name: _groups(files[name], target) for name in files}
    todo = sum(len(group) for groups in chosen.values() for group in groups)
    if dry_run or not todo:
        return CompactReport(tuple(_compacted(n, files[n], groups) for n, groups in chosen.items() if groups), None)
    run = new_run("compact", {})
    progress.start("compact", todo)
    done = []
    for name, groups in chosen.items():
        if groups and name != "runs":
            done.append(_merge_all(store, name, files[name], groups, run, progress))
    record_run(store, run, "done", {f"{t.table} files": t.files - t.files_after for t in done})
    rows = store.pin().data_files("runs")  # they come last, with this run's row: a second compact finds nothing to do
    done.append(_merge_all(store, "runs", rows, _groups(rows, target), run, progress))
    return CompactReport(tuple(table for table in done if table.files_after < table.files), run.run_id)


def _groups(files: Sequence[DataFile], target: int) -> list[list[DataFile]]:
    return [[files[index] for index in group] for group in merges([f.file_size_in_bytes for f in files], target)]


def _merge_all(
    store: Store,
    table: str,
    files: Sequence[DataFile],
    groups: Sequence[Sequence[DataFile]],
    run: Run,
    progress: Progress,
) -> Compacted:
    merged: list[tuple[Sequence[DataFile], StoredFile]] = []
    for sources in groups:
        if file := _merge(store, table, sources, run.summary({"files": len(sources)})):
            merged.append((sources, file))
        progress.advance(len(sources))
    gained = sum(sum(source.file_size_in_bytes for source in sources) - file.nbytes for sources, file in merged)
    return _compacted(table, files, [sources for sources, _ in merged], gained)


def _merge(store: Store, table: str, sources: Sequence[DataFile], summary: Mapping[str, str]) -> StoredFile | None:
    """Merge and commit; None where a source left the table meanwhile, so that its rows must not come back."""
    try:
        file = rewrite(store, table, [source.file_path for source in sources])
    except CorruptionError:
        if not _all_live(store.pin(), table, sources):  # an erasure removes the files that it replaces
            return None
        raise
    rows = sum(source.record_count for source in sources)
    if file is None or file.rows != rows:
        raise CorruptionError(
            f"files of table {table!r} hold {file.rows if file else 0} rows, their manifest says {rows}",
            hint="nothing was changed; see: ferstore verify",
        )
    left = False

    def plan(pin: Pin) -> list[Change]:
        nonlocal left
        live = {data_file.file_path: data_file for data_file in pin.data_files(table)}
        if file.url in live:  # an earlier attempt landed, and only its answer was lost
            return []
        left = any(source.file_path not in live for source in sources)
        return [] if left else [Change(table, (file,), tuple(live[source.file_path] for source in sources))]

    transact(store, plan, summary)
    return None if left else file


def _all_live(pin: Pin, table: str, sources: Sequence[DataFile]) -> bool:
    return {source.file_path for source in sources} <= {file.file_path for file in pin.data_files(table)}


def _compacted(
    table: str, files: Sequence[DataFile], merged: Sequence[Sequence[DataFile]], gained: int = 0
) -> Compacted:
    nbytes = sum(file.file_size_in_bytes for file in files)
    fewer = sum(len(sources) - 1 for sources in merged)
    rows = sum(file.record_count for file in files)
    return Compacted(table, rows, len(files), nbytes, len(files) - fewer, nbytes - gained)
