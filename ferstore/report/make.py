"""``ferstore report``: everything is read and drawn first, then the folder is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ferstore.progress import Progress, Silent
from ferstore.query.session import Session
from ferstore.report.contents import Head, gather
from ferstore.report.csvs import csv_files
from ferstore.report.figures import pictures_of
from ferstore.report.missing import find_missing
from ferstore.report.output import MANIFEST, check_folder, manifest, write_folder
from ferstore.report.page import render

PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class ReportMade:
    """The account of a report.

    Attributes:
        page: path of the page.
        files: names in its folder, the page's included.
        training_sets: shown.
        trainings: runs behind Table 2.
        faces: thumbnails on the page; None without ``faces``.
        random: some features or results are of random weights.
        missing: what the page says is not there yet.
    """

    page: str
    files: tuple[str, ...]
    training_sets: tuple[str, ...]
    trainings: int
    faces: int | None
    random: bool
    missing: tuple[str, ...]


def make_report(
    session: Session,
    head_of: Callable[[int], Head],
    folder: Path,
    *,
    store: str,
    map_dtype: str,
    training_set: str | None = None,
    notice: str | None = None,
    faces: bool = False,
    progress: Progress | None = None,
) -> ReportMade:
    """Make the page, its figures and CSV files.

    Args:
        session: the pinned state that is shown.
        head_of: Table 1 for so many classes, from the code that builds the head: another stage's, handed in by the API.
        folder: where to; made where it is not there.
        store: URL of the store.
        map_dtype: how it keeps maps.
        training_set: one; None for all.
        notice: what must be read before any number.
        faces: show thumbnails of the items that fusion fixes and breaks.
        progress: told of every stage.

    Raises:
        InputError: no such training set, or a folder that cannot be one; nothing was written.
        CorruptionError: a file of the store is gone or damaged.
    """
    progress = progress or Silent()
    check_folder(folder, store)
    progress.start("report", 3)
    contents = gather(
        session,
        head_of,
        store=store,
        map_dtype=map_dtype,
        training_set=training_set,
        notice=notice or "",
        faces=faces,
    )
    progress.advance(1)
    pictures = pictures_of(contents)
    progress.advance(1)
    files = {name: data for mine in pictures for picture in mine for name, data in picture.files.items()}
    files |= csv_files(contents)
    files[PAGE] = render(contents, pictures)
    files[MANIFEST] = manifest(files)
    write_folder(folder, files)
    progress.advance(1)
    thumbnails = contents.faces
    return ReportMade(
        page=str(folder / PAGE),
        files=tuple(sorted(files)),
        training_sets=tuple(split.name for split in contents.splits),
        trainings=sum(entry.runs for entry in contents.entries),
        faces=None if thumbnails is None else sum(one.image is not None for one in thumbnails.values()),
        random=contents.random,
        missing=tuple(one.what for one in find_missing(contents)),
    )
