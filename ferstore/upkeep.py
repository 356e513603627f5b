"""Reports of maintenance as text for people, beside `ferstore.rendering`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ferstore.terminal import human_bytes, print_table, say, tell

if TYPE_CHECKING:
    from ferstore.store.compact import CompactReport
    from ferstore.store.erase import EraseReport
    from ferstore.store.vacuum import VacuumReport


def show_compact(report: CompactReport, *, dry_run: bool) -> None:
    """Files before and after, table by table."""
    if not report.tables:
        say("nothing to merge")
        return
    after = "files (at most)" if dry_run else "files now"
    rows = [
        (t.table, f"{t.rows:,}", f"{t.files:,}", f"{t.files_after:,}", human_bytes(t.nbytes_after))
        for t in report.tables
    ]
    names = ["table", "rows", "files", after, "bytes"]
    print_table(names, rows, numbers=names[1:])
    if not dry_run:
        tell("the files replaced stay for past states; ferstore vacuum removes them in time")


def show_vacuum(report: VacuumReport, *, dry_run: bool) -> None:
    """What went, and what jobs at work hold."""
    verb = "would remove" if dry_run else "removed"
    past = ", ".join(f"{table} {count:,}" for table, count in report.snapshots.items())
    say(f"{verb} {report.files:,} files ({human_bytes(report.nbytes)}), {report.leftovers:,} of them of no snapshot")
    say(f"  past states: {past or 'none'}")
    for run in report.held:
        tell(f"  at work, so that its files stay: {run}; if it is dead: ferstore runs --abandon RUN")


def show_erase(report: EraseReport, *, dry_run: bool) -> None:
    """What went, what is no longer reproducible, and what is left to the user."""
    verb = "would erase" if dry_run else "erased"
    rows = ", ".join(f"{table} {count:,}" for table, count in report.rows.items())
    pictures = "1 picture" if report.images == 1 else f"{report.images:,} pictures"
    say(f"{verb} {pictures}; rows: {rows or 'none in the newest state'}")
    files = "at most " if dry_run else ""
    say(f"  past states expired: {report.snapshots:,}; files removed: {files}{report.files:,}")
    if report.tags:
        say(f"  tags moved to a state without them: {', '.join(report.tags)}")
    if report.training_sets:
        say(f"  training sets no longer exactly reproducible: {', '.join(report.training_sets)}")
    if report.trainings:
        say(f"  trainings that learnt from those, whose weights stay: {', '.join(report.trainings)}")
    if not dry_run:
        tell("what lies outside the store is yours to remove: the pictures, and reports made with --faces:")
        for url in report.urls[:5]:
            tell(f"  {url}")
        if len(report.urls) > 5:
            tell(f"  and {len(report.urls) - 5:,} more: --json lists them")
