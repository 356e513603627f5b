"""One call, one figure: what a notebook asks for about a training or an image."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ferstore.errors import InputError
from ferstore.image.location import normalise
from ferstore.query.session import Session
from ferstore.query.similar import Neighbour
from ferstore.report import charts
from ferstore.report.asking import Row, among, ask
from ferstore.report.results import confusion_of, curve_of
from ferstore.report.thumbnails import of_file, thumbnails

EVALUATED = ("validation", "test")


def confusion_matrix(session: Session, run_id: str, part: str = "test") -> charts.Chart:
    """Items of a part by class and predicted class.

    Args:
        session: the pinned state.
        run_id: a training.
        part: test or validation.

    Raises:
        InputError: another part, no such training, or one without predictions of it.
    """
    if part not in EVALUATED:
        raise InputError(f"part {part!r}", allowed=" or ".join(EVALUATED), hint="train has no predictions")
    run = _training(session, run_id)
    arguments = json.loads(run["arguments"])
    sets = ask(session, f"select classes from training_sets where {among('name', [arguments['training_set']])}")  # noqa: S608
    counts = confusion_of(session, [run_id], sets[0]["classes"], part)
    if not counts.any():
        raise InputError(
            f"training {run_id} has no predictions of {part}", hint=f"it is {run['error'] or run['state']}"
        )
    return charts.confusions([(f"{_title(run)}, {part}", counts)], sets[0]["classes"])


def curve(session: Session, run_id: str) -> charts.Chart:
    """Accuracy and loss of a training over its epochs, train orange and validation blue.

    Raises:
        InputError: no such training, or one without a curve yet.
    """
    run = _training(session, run_id)
    points = curve_of(session, [run_id])
    if not points:
        raise InputError(f"training {run_id} has no curve yet", hint=f"it is {run['error'] or run['state']}")
    return charts.curves(points, _title(run))


def neighbour_grid(session: Session, image_id: str | None, image: str, found: Sequence[Neighbour]) -> charts.Chart:
    """The image asked about and its neighbours, with their cosines and classes.

    Args:
        session: the pinned state.
        image_id: of the image asked about, where the store has it.
        image: what was asked, an image_id or a file.
        found: its neighbours.
    """
    ids = [neighbour.image_id for neighbour in found] + ([image_id] if image_id else [])
    query = f"select image_id, min(source_url) as url from images where {among('image_id', ids)} group by image_id"  # noqa: S608
    small = thumbnails((row["image_id"], row["url"]) for row in ask(session, query))
    own = small.get(image_id) if image_id else of_file(normalise(image))
    cells = [(own.image if own else None, "asked about")]
    for neighbour in found:
        picture = small.get(neighbour.image_id)
        name = neighbour.item_id or neighbour.image_id[:12]
        said = f"{neighbour.similarity:.3f}  {neighbour.label or 'no class'}\n{name[-24:]}"
        cells.append((picture.image if picture else None, said))
    shown = f"{image[:12]}..." if image_id else image
    return charts.pictures(cells, f"{len(found)} nearest to {shown}, by cosine")


def _training(session: Session, run_id: str) -> Row:
    rows = ask(session, f"from runs where command = 'train' and {among('run_id', [run_id])}")
    if not rows:
        known = ask(session, "select run_id from runs where command = 'train' order by started_at desc limit 5")
        raise InputError(
            f"no training {run_id!r}",
            allowed=", ".join(row["run_id"] for row in known) or "none yet",
            hint="list them with: ferstore runs",
        )
    return rows[0]


def _title(run: Row) -> str:
    arguments = json.loads(run["arguments"])
    return f"{arguments['experiment']} on {arguments['training_set']} (run {run['run_id']})"
