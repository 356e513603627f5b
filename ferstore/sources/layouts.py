"""Drawn faces written as FERPLUS, CK+ and JAFFE lie on a user's disk, for the demo and the tests.

File names, folders, picture sizes and label files follow each distribution; the faces are those of
:mod:`ferstore.sources.faces`. One seed gives one cast of people, so the three sets share their subjects. Each writer
plans first (no effects) and then writes, and returns a :class:`Drawn`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from PIL import Image

from ferstore.errors import InputError
from ferstore.sources.faces import draw
from ferstore.sources.people import EXPRESSIONS, Subject

CAST: Final = 12
"""How many people a seed knows."""

_FERPLUS_FOLDERS: Final = ("FER2013Train", "FER2013Valid", "FER2013Test")
# About the imbalance of FERPLUS, but with enough of the rare classes to learn from a few hundred faces.
_FERPLUS_SHARES: Final = MappingProxyType({
    "neutral": 0.20, "happiness": 0.19, "surprise": 0.15, "sadness": 0.13,
    "anger": 0.12, "disgust": 0.07, "fear": 0.08, "contempt": 0.06,
})  # fmt: skip
_FERPLUS_LEAST: Final = 16
_MISTAKEN_FOR: Final = MappingProxyType({
    "neutral": ("sadness", "contempt"), "happiness": ("neutral", "surprise"), "surprise": ("fear", "happiness"),
    "sadness": ("neutral", "disgust"), "anger": ("disgust", "sadness"), "disgust": ("anger", "sadness"),
    "fear": ("surprise", "sadness"), "contempt": ("neutral", "happiness"),
})  # fmt: skip

_CKPLUS_SUBJECTS: Final = (5, 10, 11, 14, 22, 26, 32, 37, 42, 44, 50, 52)
_CKPLUS_CLASSES: Final = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")  # codes from 1
_CKPLUS_INTENSITIES: Final = (0.0, 0.5, 0.8, 1.0)  # of the frames of a sequence
_CKPLUS_SIZE: Final = (320, 245)
_CKPLUS_ACTION_UNITS: Final = MappingProxyType({
    "anger": (4, 5, 7, 23), "contempt": (14,), "disgust": (4, 9, 10, 17), "fear": (1, 2, 4, 5, 20, 25),
    "happiness": (6, 12, 25), "sadness": (1, 4, 15, 17), "surprise": (1, 2, 5, 26, 27),
})  # fmt: skip

_JAFFE_SUBJECTS: Final = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
_JAFFE_CODES: Final = MappingProxyType({
    "AN": "anger", "DI": "disgust", "FE": "fear", "HA": "happiness",
    "NE": "neutral", "SA": "sadness", "SU": "surprise",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a writer wrote."""

    folder: Path
    images: int  # image files
    groups: Mapping[str, int]  # image files of each official part (FERPLUS) or of each subject (CK+, JAFFE)
    labels: Mapping[str, int]  # labels of each expression: of images, or of sequences in CK+; FERPLUS under majority


Kind = Literal["clear", "ambiguous", "unknown", "not a face", "copy"]


@dataclass(frozen=True, slots=True)
class _Face:
    """One row planned for FERPLUS."""

    folder: str
    name: str
    expression: str
    kind: Kind
    votes: tuple[int, ...]


def cast(seed: int) -> tuple[Subject, ...]:
    """The :data:`CAST` people of a seed."""
    seeds = np.random.Generator(np.random.PCG64([seed, 0])).integers(2**32, size=CAST)
    return tuple(Subject.drawn(int(each)) for each in seeds)


def write_ferplus(folder: Path, *, seed: int, per_part: tuple[int, int, int] = (160, 40, 40)) -> Drawn:
    """Write the official extraction of FERPLUS: ``FER2013Train/fer0000000.png`` and a ``label.csv`` beside them.

    Images are 48 x 48 grey. The ten votes of a row sum to 10; about a tenth of the rows of a part have no majority, one
    training row is unknown and one is no face, so that the majority rule has something to drop. Every part keeps every
    expression under that rule. The last test row is a training image again, byte for byte, under another name.

    Args:
        folder: a folder that is empty or not there yet.
        seed: 0 or more.
        per_part: rows of the training, validation and test part; each at least 16.

    Raises:
        InputError: a part that is too small, or a folder that is in use.
    """
    if min(per_part) < _FERPLUS_LEAST:
        raise InputError(f"parts of {per_part} faces cannot hold every expression", allowed="16 faces or more a part")
    _claim(folder)
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    rows = _plan_ferplus(rng, per_part)
    people = cast(seed)
    drawn: list[Image.Image] = []
    for row in rows:
        who = people[int(rng.integers(CAST))]
        intensity, jitter = float(rng.uniform(0.6, 1.0)), int(rng.integers(2**32))
        if row.kind == "copy":
            picture = drawn[0]
        elif row.kind == "not a face":
            picture = _no_face(rng)
        else:
            picture = draw(who, row.expression, intensity=intensity, seed=jitter, size=48)
        drawn.append(picture)
        (folder / row.folder).mkdir(exist_ok=True)
        picture.save(folder / row.folder / row.name)
    for part in _FERPLUS_FOLDERS:
        lines = [f'{r.name},"(0, 0, 48, 48)",{",".join(map(str, r.votes))}\n' for r in rows if r.folder == part]
        (folder / part / "label.csv").write_text("".join(lines), encoding="utf-8", newline="")
    kept = Counter(row.expression for row in rows if row.kind in ("clear", "copy"))
    return Drawn(folder, len(rows), Counter(row.folder for row in rows), {name: kept[name] for name in EXPRESSIONS})


def _plan_ferplus(rng: np.random.Generator, per_part: tuple[int, int, int]) -> list[_Face]:
    rows: list[_Face] = []
    for part, count in zip(_FERPLUS_FOLDERS, per_part, strict=True):
        copies = int(part == _FERPLUS_FOLDERS[-1])
        expressions = _allot(rng, count - copies)
        kinds: list[Kind] = ["clear"] * len(expressions)
        # The first face of an expression stays clear, so that no part loses a class to the majority rule.
        spare = [at for at, name in enumerate(expressions) if name in expressions[:at]]
        if part == _FERPLUS_FOLDERS[0]:
            kinds[spare.pop(0)] = "unknown"
            kinds[spare.pop(0)] = "not a face"
        for at in spare[::10]:
            kinds[at] = "ambiguous"
        plan: list[tuple[str, Kind]] = list(zip(expressions, kinds, strict=True))
        if copies:
            plan.append((rows[0].expression, "copy"))
        for name, kind in plan:
            rows.append(_Face(part, f"fer{len(rows):07d}.png", name, kind, _votes(rng, name, kind)))
    return rows


def _allot(rng: np.random.Generator, count: int) -> list[str]:
    """Expressions for `count` faces near the shares of FERPLUS, one of each at least, in random order."""
    names = list(_FERPLUS_SHARES)
    more = rng.choice(names, size=count - len(names), p=list(_FERPLUS_SHARES.values()))
    return [str(name) for name in rng.permutation(names + list(more))]


def _votes(rng: np.random.Generator, expression: str, kind: Kind) -> tuple[int, ...]:
    """Ten votes: for the eight expressions, then unknown and not a face."""
    order = [*EXPRESSIONS, "unknown", "NF"]
    near, far = _MISTAKEN_FOR[expression]
    if kind == "ambiguous":
        votes = {expression: 4, near: 4, far: 2}
    elif kind == "unknown":
        votes = {"unknown": 7, expression: 3}
    elif kind == "not a face":
        votes = {"NF": 8, "unknown": 2}
    else:
        certain = int(rng.integers(6, 11))
        others = rng.choice([near, far, "unknown"], size=10 - certain, p=[0.6, 0.3, 0.1])
        votes = Counter({expression: certain}) + Counter(str(name) for name in others)
    return tuple(votes.get(name, 0) for name in order)


def _no_face(rng: np.random.Generator) -> Image.Image:
    blobs = Image.fromarray(rng.integers(0, 256, (6, 6)).astype(np.uint8))
    return blobs.resize((48, 48), Image.Resampling.BICUBIC)


def write_ckplus(folder: Path, *, seed: int, subjects: int = 6) -> Drawn:
    """Write the four folders of CK+: two sequences of four frames a subject, from neutral to the peak.

    Images are ``cohn-kanade-images/S005/001/S005_001_00000001.png``, 320 x 245 grey. Every twelfth sequence has an
    empty ``Emotion`` folder, as the unlabelled ones have; the others have one file, named after the peak frame.
    ``FACS`` holds the action units of the peak frame. ``Landmarks`` holds, in place of the 68 points of the
    distribution, two corners of the square that was drawn into; ferstore reads neither of the two.

    Args:
        folder: a folder that is empty or not there yet.
        seed: 0 or more.
        subjects: 1 to 12.

    Raises:
        InputError: a number of subjects out of range, or a folder that is in use.
    """
    _check_subjects(subjects, len(_CKPLUS_SUBJECTS))
    _claim(folder)
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    people = cast(seed)
    groups: Counter[str] = Counter()
    labels = dict.fromkeys(_CKPLUS_CLASSES, 0)
    for index in range(2 * subjects):
        subject, sequence = f"S{_CKPLUS_SUBJECTS[index // 2]:03d}", f"{index % 2 + 1:03d}"
        expression = _CKPLUS_CLASSES[index % len(_CKPLUS_CLASSES)]
        tops = ("cohn-kanade-images", "Emotion", "FACS", "Landmarks")
        images, emotion, facs, landmarks = (folder / top / subject / sequence for top in tops)
        for each in (images, emotion, facs, landmarks):
            each.mkdir(parents=True)
        jitter = int(rng.integers(2**32))  # one for all frames: they are one recording
        stem = ""
        for frame, intensity in enumerate(_CKPLUS_INTENSITIES, start=1):
            stem = f"{subject}_{sequence}_{frame:08d}"
            picture = draw(people[index // 2], expression, intensity=intensity, seed=jitter, size=_CKPLUS_SIZE[1])
            _widen(picture).save(images / f"{stem}.png")
            left = (_CKPLUS_SIZE[0] - _CKPLUS_SIZE[1]) // 2
            box = ((left, 0), (left + _CKPLUS_SIZE[1], _CKPLUS_SIZE[1]))
            (landmarks / f"{stem}_landmarks.txt").write_text("".join(_numbers(*point) for point in box))
            groups[subject] += 1
        units = _CKPLUS_ACTION_UNITS[expression]
        (facs / f"{stem}_facs.txt").write_text("".join(_numbers(unit, 0) for unit in units))
        if index % 12 != 11:
            code = _CKPLUS_CLASSES.index(expression) + 1
            (emotion / f"{stem}_emotion.txt").write_text(_numbers(code))
            labels[expression] += 1
    return Drawn(folder, groups.total(), groups, labels)


def _widen(square: Image.Image) -> Image.Image:
    """The backdrop of a square picture carried on to both sides, 320 x 245."""
    missing = _CKPLUS_SIZE[0] - square.width
    sides = (missing // 2, missing - missing // 2)
    return Image.fromarray(np.pad(np.asarray(square), ((0, 0), sides), mode="edge"))


def _numbers(*values: float) -> str:
    """One line of numbers as CK+ writes them."""
    return "".join(f"   {value:.7e}" for value in values) + "\n"


def write_jaffe(folder: Path, *, seed: int, subjects: int = 6) -> Drawn:
    """Write JAFFE: seven images a subject, one of each class, as ``KA.AN1.39.tiff``, 256 x 256 grey.

    Args:
        folder: a folder that is empty or not there yet.
        seed: 0 or more.
        subjects: 1 to 10.

    Raises:
        InputError: a number of subjects out of range, or a folder that is in use.
    """
    _check_subjects(subjects, len(_JAFFE_SUBJECTS))
    _claim(folder)
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    number = 0
    # CK+ begins with the first of the cast, JAFFE with the third: two small sets share some people and not others.
    for initials, person in zip(_JAFFE_SUBJECTS[:subjects], cast(seed)[2:], strict=False):
        for code, expression in _JAFFE_CODES.items():
            number += 1
            intensity, jitter = float(rng.uniform(0.7, 1.0)), int(rng.integers(2**32))
            picture = draw(person, expression, intensity=intensity, seed=jitter, size=256)
            picture.save(folder / f"{initials}.{code}1.{number}.tiff")
    groups = dict.fromkeys(_JAFFE_SUBJECTS[:subjects], len(_JAFFE_CODES))
    return Drawn(folder, number, groups, dict.fromkeys(_JAFFE_CODES.values(), subjects))


def _check_subjects(subjects: int, most: int) -> None:
    if not 1 <= subjects <= most:
        raise InputError(f"{subjects} subjects cannot be drawn in this layout", allowed=f"1 to {most}")


def _claim(folder: Path) -> None:
    """Make the folder, or refuse one in use: drawn faces must never end up among a user's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"the folder {folder} is not empty", allowed="an empty or a new folder")
