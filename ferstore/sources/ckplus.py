"""CK+, the Extended Cohn-Kanade set, as distributed (``sequences``), and its derivative CK+48 (``ck48``).

Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010. Sequences run from neutral to peak, so the
emotion of a labelled sequence is given to its last three frames; the frames before keep no label.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from ferstore.errors import SourceError
from ferstore.image.location import redact
from ferstore.sources.item import Expectation, Item, Listing, Refused
from ferstore.sources.tree import Tree

EMOTIONS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
_PEAK_FRAMES = 3
# facts.md, section 3.
_SEQUENCES, _SUBJECTS, _PEAK_IMAGES = 593, 123, 981
_LABELLED_SEQUENCES = (45, 18, 59, 25, 69, 28, 83)
_CK48_IMAGES = (135, 54, 177, 75, 207, 84, 249)

_FRAME_NAME = re.compile(r"(S[0-9]{3})_([0-9]{3})_([0-9]{1,8})\.png", re.IGNORECASE)
_FRAME = re.compile(r"(?:.*/)?(S[0-9]{3})/([0-9]{3})/\1_\2_([0-9]{1,8})\.png", re.IGNORECASE | re.DOTALL)
_EMOTION = re.compile(r"(?:.*/)?(S[0-9]{3})/([0-9]{3})/\1_\2_[0-9]{1,8}_emotion\.txt", re.IGNORECASE | re.DOTALL)


def listing(tree: Tree) -> Listing:
    """List CK+ in either layout.

    Raises:
        SourceError: neither layout is there, or both are.
    """
    sequences = any(_FRAME.fullmatch(name) for name in tree.files)
    ck48 = any(_class_of(name) and _FRAME_NAME.fullmatch(posixpath.basename(name)) for name in tree.files)
    if sequences and ck48:
        raise SourceError(f"{redact(tree.url)} holds CK+ and CK+48", hint="give the folder of one of them")
    if sequences:
        return _sequences(tree)
    if ck48:
        return _ck48(tree)
    raise tree.mismatch("ckplus", "S005/001/S005_001_00000011.png, or anger/S010_004_00000017.png as in CK+48")


# Layout "sequences"


def _sequences(tree: Tree) -> Listing:
    entries = tree.settled(_sequence_entries(tree))
    items = [entry for entry in entries if isinstance(entry, Item)]
    labels = {item.sequence: item.label for item in items if item.label is not None}
    per_class = Counter(labels.values())
    expected = (
        Expectation("sequences", _SEQUENCES, len({item.sequence for item in items})),
        Expectation("subjects", _SUBJECTS, len({item.subject for item in items})),
        Expectation("labelled sequences", sum(_LABELLED_SEQUENCES), len(labels)),
        *(
            Expectation(f"labelled sequences: {label}", count, per_class[label])
            for label, count in zip(EMOTIONS, _LABELLED_SEQUENCES, strict=True)
        ),
        Expectation("labelled images", _PEAK_IMAGES, sum(item.label is not None for item in items)),
    )
    return tree.listing("ckplus", "sequences", entries, expected)


def _sequence_entries(tree: Tree) -> Iterator[Item | Refused]:
    # By folder and not by sequence name, so that a second copy of the data set does not change which frames are last.
    folders: dict[str, list[tuple[int, str, str, str]]] = defaultdict(list)
    for name in tree.files:
        if match := _FRAME.fullmatch(name):
            subject = match[1].upper()
            folders[posixpath.dirname(name)].append((int(match[3]), name, subject, f"{subject}_{match[2]}"))
        elif name.casefold().endswith(".png"):
            yield Refused(name, tree.url_of(name), "not named like S005/001/S005_001_00000011.png")
    labels, refused = _emotions(tree, {frames[0][3] for frames in folders.values()})
    yield from refused
    for folder in folders.values():
        frames = sorted(folder)
        for index, (_, name, subject, sequence) in enumerate(frames):
            label = labels.get(sequence) if index >= len(frames) - _PEAK_FRAMES else None
            yield Item(name, tree.url_of(name), label, subject=subject, sequence=sequence)


def _emotions(tree: Tree, sequences: set[str]) -> tuple[dict[str, str], list[Refused]]:
    """The class of each labelled sequence.

    An emotion file that says nothing usable is refused by its own name, so that it is seen; its frames stay unlabelled.
    """
    labels: dict[str, str] = {}
    refused: list[Refused] = []
    for name in tree.files:
        if match := _EMOTION.fullmatch(name):
            sequence = f"{match[1].upper()}_{match[2]}"
            label = _emotion(tree.read_bytes(name))
            if label is None:
                error = f"not a number from 1 to {len(EMOTIONS)}"
            elif sequence not in sequences:
                error = f"labels the sequence {sequence}, which has no frames"
            elif labels.setdefault(sequence, label) != label:
                error = f"labels the sequence {sequence} again, as {label} after {labels[sequence]}"
            else:
                continue
            refused.append(Refused(name, tree.url_of(name), error))
    return labels, refused


def _emotion(content: bytes) -> str | None:
    try:
        number = float(content)
    except ValueError:
        return None
    return EMOTIONS[int(number) - 1] if number in range(1, len(EMOTIONS) + 1) else None


# Layout "ck48"


def _ck48(tree: Tree) -> Listing:
    entries = tree.settled(_ck48_entries(tree))
    per_class = Counter(entry.label for entry in entries if isinstance(entry, Item))
    expected = (
        *(Expectation(label, count, per_class[label]) for label, count in zip(EMOTIONS, _CK48_IMAGES, strict=True)),
        Expectation("images", _PEAK_IMAGES, per_class.total()),
    )
    return tree.listing("ckplus", "ck48", entries, expected)


def _ck48_entries(tree: Tree) -> Iterator[Item | Refused]:
    for name in tree.files:
        label = _class_of(name)
        match = _FRAME_NAME.fullmatch(posixpath.basename(name))
        if label and match:
            subject = match[1].upper()
            yield Item(name, tree.url_of(name), label, subject=subject, sequence=f"{subject}_{match[2]}")
        elif label:
            yield Refused(name, tree.url_of(name), "not named like S010_004_00000017.png")


def _class_of(name: str) -> str | None:
    folder = posixpath.basename(posixpath.dirname(name)).casefold()
    return folder if folder in EMOTIONS else None
