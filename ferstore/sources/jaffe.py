"""JAFFE, the Japanese Female Facial Expression set: ``KA.AN1.39.tiff`` is subject, class and take, number.

Lyons, Akamatsu, Kamachi, Gyoba, "Coding Facial Expressions with Gabor Wavelets", FG 1998.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator

from ferstore.sources.item import Expectation, Item, Listing, Refused
from ferstore.sources.tree import IMAGE_SUFFIXES, Tree

_CLASSES = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "NE": "neutral",
    "SA": "sadness",
    "SU": "surprise",
}
# facts.md, section 3, in the order of _CLASSES.
_IMAGES = (30, 29, 32, 31, 30, 31, 30)
_SUBJECTS = 10
_NAME = re.compile(rf"([A-Z]{{2}})\.({'|'.join(_CLASSES)})[0-9]+\.[0-9]+\.tiff?", re.IGNORECASE)


def listing(tree: Tree) -> Listing:
    """List JAFFE.

    Raises:
        SourceError: no file is named like one of JAFFE's.
    """
    if not any(_NAME.fullmatch(posixpath.basename(name)) for name in tree.files):
        raise tree.mismatch("jaffe", "files named like KA.AN1.39.tiff")
    entries = tree.settled(_entries(tree))
    items = [entry for entry in entries if isinstance(entry, Item)]
    per_class = Counter(item.label for item in items)
    expected = (
        *(Expectation(label, count, per_class[label]) for label, count in zip(_CLASSES.values(), _IMAGES, strict=True)),
        Expectation("images", sum(_IMAGES), len(items)),
        Expectation("subjects", _SUBJECTS, len({item.subject for item in items})),
    )
    return tree.listing("jaffe", "files", entries, expected)


def _entries(tree: Tree) -> Iterator[Item | Refused]:
    for name in tree.files:
        if match := _NAME.fullmatch(posixpath.basename(name)):
            yield Item(name, tree.url_of(name), _CLASSES[match[2].upper()], subject=match[1].upper())
        elif name.casefold().endswith(IMAGE_SUFFIXES):
            yield Refused(name, tree.url_of(name), "not named like KA.AN1.39.tiff")
