"""Who is drawn and what they show: made-up people and the eight expressions, as numbers.

The action units each expression moves follow the prototypes of Ekman and Friesen, *Facial Action Coding System*, 1978.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ferstore.errors import InputError

Colour = tuple[int, int, int]
Hair = Literal["short", "fringe", "long", "parted", "bald"]

_SKINS: Final[tuple[Colour, ...]] = (
    (246, 214, 190),
    (232, 190, 160),
    (214, 168, 132),
    (188, 138, 100),
    (150, 104, 74),
    (112, 76, 56),
)
_HAIRS: Final[tuple[Colour, ...]] = ((28, 24, 24), (62, 42, 30), (104, 70, 42), (176, 134, 78), (150, 148, 146))
_IRISES: Final[tuple[Colour, ...]] = ((58, 40, 28), (84, 66, 40), (64, 92, 112), (70, 96, 68))
_STYLES: Final[tuple[Hair, ...]] = ("short", "fringe", "long", "parted", "bald")


@dataclass(frozen=True, slots=True)
class Expression:
    """How far each part of the face moves; lengths are in frame units, and the defaults are a neutral face."""

    brow_raise: float = 0.0  # whole brow up
    brow_tilt: float = 0.0  # inner end up against the outer end (negative: a frown)
    brow_pinch: float = 0.0  # inner ends towards each other
    brow_asymmetry: float = 0.0  # the brow at the right of the picture up alone
    eye_open: float = 1.0  # height of the upper lid, as a factor
    lid_raise: float = 0.0  # lower lid up: 0 to 1
    nose_wrinkle: float = 0.0  # 0 to 1
    fold: float = 0.0  # depth of the folds from nose to mouth: 0 to 1
    forehead_lines: float = 0.0  # 0 to 1
    frown_lines: float = 0.0  # 0 to 1
    mouth_width: float = 0.235  # half of it
    mouth_curve: float = 0.005  # corners up (negative: down)
    mouth_open: float = 0.0  # gap between the lips
    mouth_square: float = 0.0  # the gap's shape: 0 is an ellipse, 1 nearly a box
    mouth_asymmetry: float = 0.0  # the corner at the right of the picture up alone
    mouth_lift: float = 0.0  # whole mouth up (negative: down)
    lip_fullness: float = 1.0  # thickness of both lips, as a factor
    teeth: float = 0.0  # share of the gap that the upper teeth fill
    jaw_drop: float = 0.0  # chin down


EXPRESSIONS: Final[dict[str, Expression]] = {
    "neutral": Expression(),
    "happiness": Expression(
        brow_raise=0.015, eye_open=0.78, lid_raise=0.75, fold=0.8, mouth_width=0.34, mouth_curve=0.125,
        mouth_open=0.115, mouth_square=0.25, mouth_lift=0.02, lip_fullness=0.85, teeth=0.8, jaw_drop=0.02,
    ),
    "surprise": Expression(
        brow_raise=0.125, eye_open=1.75, lid_raise=-0.35, forehead_lines=1.0, mouth_width=0.155, mouth_curve=-0.01,
        mouth_open=0.30, mouth_lift=-0.02, lip_fullness=0.95, teeth=0.12, jaw_drop=0.10,
    ),
    "sadness": Expression(
        brow_raise=0.02, brow_tilt=0.125, brow_pinch=0.035, eye_open=0.62, forehead_lines=0.3, fold=0.25,
        mouth_width=0.225, mouth_curve=-0.095, mouth_lift=0.03, lip_fullness=1.05,
    ),
    "anger": Expression(
        brow_raise=-0.055, brow_tilt=-0.135, brow_pinch=0.055, eye_open=0.92, lid_raise=0.35, nose_wrinkle=0.2,
        frown_lines=1.0, fold=0.2, mouth_width=0.255, mouth_curve=-0.04, mouth_open=0.085, mouth_square=0.95,
        lip_fullness=0.6, teeth=1.0,
    ),
    "disgust": Expression(
        brow_raise=-0.045, brow_tilt=-0.045, brow_pinch=0.03, eye_open=0.42, lid_raise=0.75, nose_wrinkle=1.0,
        frown_lines=0.4, fold=1.0, mouth_width=0.225, mouth_curve=-0.10, mouth_open=0.045, mouth_asymmetry=0.03,
        mouth_lift=0.065, lip_fullness=1.3, teeth=0.5,
    ),
    "fear": Expression(
        brow_raise=0.10, brow_tilt=0.10, brow_pinch=0.05, eye_open=1.65, lid_raise=0.05, forehead_lines=0.8,
        frown_lines=0.3, mouth_width=0.315, mouth_curve=-0.055, mouth_open=0.135, mouth_square=0.7, mouth_lift=-0.01,
        lip_fullness=0.7, teeth=0.35, jaw_drop=0.03,
    ),
    "contempt": Expression(
        brow_raise=-0.01, brow_asymmetry=0.085, eye_open=0.66, lid_raise=0.15, fold=0.15, mouth_width=0.24,
        mouth_curve=-0.005, mouth_asymmetry=0.105, lip_fullness=0.8,
    ),
}  # fmt: skip
"""The eight expressions of FERPLUS, in its order, at full intensity."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One made-up person's own geometry and colours; lengths are in frame units."""

    head_width: float
    head_height: float
    jaw: float  # how much the face narrows towards the chin
    eye_distance: float  # from the middle of the face to the middle of an eye
    eye_width: float
    eye_tilt: float
    nose_length: float
    nose_width: float
    lip: float
    brow_thickness: float
    brow_height: float
    skin: Colour
    hair_colour: Colour
    iris: Colour
    shirt: Colour
    hair: Hair
    lashes: float
    glasses: bool
    beard: bool

    @classmethod
    def drawn(cls, seed: int) -> Subject:
        """The subject of a seed (0 or more)."""
        rng = np.random.Generator(np.random.PCG64(seed))
        hair = _STYLES[int(rng.choice(len(_STYLES), p=(0.26, 0.22, 0.22, 0.22, 0.08)))]
        long_haired = hair in ("fringe", "long")
        return cls(
            head_width=float(rng.uniform(0.50, 0.59)),
            head_height=float(rng.uniform(0.69, 0.78)),
            jaw=float(rng.uniform(0.10, 0.30)),
            eye_distance=float(rng.uniform(0.225, 0.265)),
            eye_width=float(rng.uniform(0.115, 0.14)),
            eye_tilt=float(rng.uniform(-0.012, 0.028)),
            nose_length=float(rng.uniform(0.27, 0.34)),
            nose_width=float(rng.uniform(0.075, 0.115)),
            lip=float(rng.uniform(0.034, 0.055)),
            brow_thickness=float(rng.uniform(0.018, 0.026) if long_haired else rng.uniform(0.024, 0.038)),
            brow_height=float(rng.uniform(0.155, 0.195)),
            skin=_SKINS[int(rng.integers(len(_SKINS)))],
            hair_colour=_HAIRS[int(rng.integers(len(_HAIRS)))],
            iris=_IRISES[int(rng.integers(len(_IRISES)))],
            shirt=as_colour(rng.integers(40, 210, 3)),
            hair=hair,
            lashes=float(rng.uniform(0.024, 0.03) if long_haired else rng.uniform(0.014, 0.02)),
            glasses=bool(rng.random() < 0.25),
            beard=bool(not long_haired and rng.random() < 0.4),
        )


def as_colour(values: npt.ArrayLike) -> Colour:
    """Three numbers as a colour, rounded and held within 0 to 255."""
    red, green, blue = np.clip(np.rint(np.asarray(values, dtype=np.float64)), 0, 255)
    return int(red), int(green), int(blue)


def expression_at(name: str, intensity: float) -> Expression:
    """An expression part of the way from neutral (intensity 0) to its full form (1).

    Raises:
        InputError: no such expression, or an intensity outside 0 to 1.
    """
    if name not in EXPRESSIONS:
        raise InputError(f"no expression is named {name!r}", allowed=", ".join(EXPRESSIONS))
    if not 0 <= intensity <= 1:
        raise InputError(f"intensity {intensity} is outside the scale", allowed="0 (neutral) to 1")
    rest, full = EXPRESSIONS["neutral"], EXPRESSIONS[name]
    return Expression(
        *((1 - intensity) * getattr(rest, f.name) + intensity * getattr(full, f.name) for f in fields(Expression))
    )
