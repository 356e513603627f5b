"""Drawn faces: the only faces ferstore ships, for its demo and its tests.

A face is drawn from three things: a :class:`Subject` (whose face it is), an :class:`Expression` (what it shows; the
action units each one moves follow the prototypes of Ekman and Friesen, *Facial Action Coding System*, 1978) and a
seed for pose, light and noise. Nothing here reads a file, and the same arguments give the same pixels on one machine.

Shapes live in a frame of x and y from -1 to 1, y downwards, the head in the middle; :class:`_Pen` turns, shifts and
scales them onto a canvas four times the size asked for, which is then reduced, so that edges are smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ferstore.errors import InputError

Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
Hair = Literal["short", "fringe", "long", "parted", "bald"]

_OVERSAMPLE: Final = 4
_EYE_LEVEL: Final = -0.10
_MOUTH_LEVEL: Final = 0.40
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
            shirt=_colour(rng.integers(40, 210, 3)),
            hair=hair,
            lashes=float(rng.uniform(0.024, 0.03) if long_haired else rng.uniform(0.014, 0.02)),
            glasses=bool(rng.random() < 0.25),
            beard=bool(not long_haired and rng.random() < 0.4),
        )


def _colour(values: npt.ArrayLike) -> Colour:
    """Three numbers as a colour, rounded and held within 0 to 255."""
    red, green, blue = np.clip(np.rint(np.asarray(values, dtype=np.float64)), 0, 255)
    return int(red), int(green), int(blue)


def _shade(colour: Colour, gain: float) -> Colour:
    return _colour(np.asarray(colour) * gain)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return _colour(np.asarray(one) * (1 - share) + np.asarray(other) * share)


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


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws shapes of the frame onto the big canvas, under one pose."""

    canvas: ImageDraw.ImageDraw
    pixels: int  # edge of the canvas
    roll: float  # radians
    yaw: float
    pitch: float
    scale: float
    shift: tuple[float, float]

    def place(self, points: npt.ArrayLike) -> Floats:
        x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        # The middle of a head is nearest to the camera, so a turn moves it more than the outline.
        x = x + self.yaw * np.clip(1 - (x / 0.6) ** 2, 0, 1)
        y = y + self.pitch * np.clip(1 - (y / 0.8) ** 2, 0, 1)
        cosine, sine = math.cos(self.roll) * self.scale, math.sin(self.roll) * self.scale
        placed = np.stack([cosine * x - sine * y + self.shift[0], sine * x + cosine * y + self.shift[1]], axis=1)
        return np.asarray((placed + 1) / 2 * self.pixels)

    def area(self, points: npt.ArrayLike, colour: Colour) -> None:
        self.canvas.polygon([(float(x), float(y)) for x, y in self.place(points)], fill=colour)

    def oval(self, centre: tuple[float, float], radii: tuple[float, float], colour: Colour) -> None:
        self.area(_oval(centre, radii), colour)

    def stroke(self, points: npt.ArrayLike, width: float, colour: Colour, *, ends: float = 0.25) -> None:
        """A line that is `width` wide in its middle and `ends` of that at its ends."""
        if width < 0.002:  # Pillow would still draw the outline of a shape without an area
            return
        path = np.asarray(points, dtype=np.float64)
        along = np.gradient(path, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
        half = 0.5 * width * (ends + (1 - ends) * np.sin(np.linspace(0, np.pi, len(path))))[:, None]
        self.area(np.concatenate([path + across * half, (path - across * half)[::-1]]), colour)


def _oval(centre: tuple[float, float], radii: tuple[float, float]) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 60)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], axis=1)


def _curve(*control: tuple[float, float]) -> Floats:
    """The Bezier curve of some control points, as 24 points."""
    t, last = np.linspace(0, 1, 24)[:, None], len(control) - 1
    terms = [math.comb(last, i) * (1 - t) ** (last - i) * t**i * np.asarray(p) for i, p in enumerate(control)]
    return np.asarray(sum(terms), dtype=np.float64)


def _outline(who: Subject, shows: Expression, grow: float = 1.0) -> Floats:
    """The head, clockwise on the picture from the temple at the right; narrower towards the chin."""
    angle = np.linspace(0, 2 * np.pi, 120)
    down = np.clip(np.sin(angle), 0, 1)
    x = who.head_width * grow * np.cos(angle) * (1 - who.jaw * down**1.5)
    y = who.head_height * grow * np.sin(angle) + shows.jaw_drop * down**2
    return np.stack([x, y], axis=1)


def _draw_body(pen: _Pen, who: Subject) -> None:
    skin = _shade(who.skin, 0.80)
    shoulders = _curve((-1.25, 1.35), (-1.0, 0.80), (-0.3, 0.86), (0.0, 0.86))
    pen.area(np.concatenate([shoulders, shoulders[::-1] * (-1, 1), [(1.25, 1.6), (-1.25, 1.6)]]), who.shirt)
    pen.area([(-0.27, 0.4), (0.27, 0.4), (0.30, 0.90), (0.0, 1.02), (-0.30, 0.90)], skin)
    if who.hair == "long":
        angle = np.linspace(0, 2 * np.pi, 120)
        wide, high = np.cos(angle), np.sin(angle)
        x = who.head_width * 1.22 * np.sign(wide) * np.abs(wide) ** np.where(high > 0, 0.45, 0.9)
        y = np.where(high > 0, 0.84 * np.abs(high) ** 0.8, who.head_height * 1.14 * high)
        pen.area(np.stack([x, y], axis=1), _shade(who.hair_colour, 0.78))
        pen.area([(-0.27, 0.4), (0.27, 0.4), (0.30, 0.90), (0.0, 1.02), (-0.30, 0.90)], skin)
        return  # the ears are under it
    for side in (-1, 1):
        ear = (side * who.head_width * 1.0, 0.0)
        pen.oval(ear, (0.075, 0.145), _shade(who.skin, 0.92))
        pen.oval((ear[0] + side * 0.012, ear[1]), (0.035, 0.085), _shade(who.skin, 0.74))


def _draw_hair(pen: _Pen, who: Subject) -> None:
    if who.hair == "bald":
        return
    angle = np.linspace(np.pi * 1.02, np.pi * 1.98, 60)
    above = np.stack([np.cos(angle) * who.head_width * 1.07, np.sin(angle) * who.head_height * 1.14], axis=1)
    u = np.linspace(1, -1, 60)
    temple, brow = -0.12, -who.head_height
    line = {
        "short": brow * 0.66 + (temple - brow * 0.66) * np.abs(u) ** 5,
        "fringe": brow * 0.60 + 0.02 * np.sin(u * 26) + (0.12 - brow * 0.60) * np.abs(u) ** 9,
        "long": brow * 0.78 + (0.42 - brow * 0.78) * np.abs(u) ** 3.2,
        "parted": brow * (0.66 + 0.16 * np.sin(u * 2.2)) + (temple - brow * 0.66) * np.abs(u) ** 6,
    }[who.hair]
    # The line stays below the top of the skull, or the backdrop would show between skull and hair.
    line = np.maximum(line, -0.92 * who.head_height * np.sqrt(1 - u**2))
    pen.area(np.concatenate([above, np.stack([u * who.head_width * 1.03, line], axis=1)]), who.hair_colour)
    glint = _mix(who.hair_colour, (255, 255, 255), 0.16)
    pen.stroke(above[14:44] * (0.86, 0.93), 0.05, glint, ends=0.0)


def _draw_eye(pen: _Pen, who: Subject, shows: Expression, side: int) -> None:
    """One eye; u runs from its inner corner (-1) to its outer one (1)."""
    u = np.linspace(-1, 1, 40)
    x = side * (who.eye_distance + u * who.eye_width)
    corner = _EYE_LEVEL - who.eye_tilt * u
    dome = (1 - u**2) ** 0.75
    upper = corner - 0.062 * shows.eye_open * dome
    lower = corner + 0.044 * (1 - 0.8 * shows.lid_raise) * dome
    skin, middle = who.skin, side * who.eye_distance
    if shows.lid_raise > 0:
        bag = np.stack([x, lower + 0.030], axis=1)[6:-6]
        pen.stroke(bag, 0.016 * shows.lid_raise, _shade(skin, 0.62), ends=0.1)
    pen.area(np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]]), (244, 243, 240))
    gaze = _EYE_LEVEL - 0.008
    for radius, colour in ((0.064, _shade(who.iris, 0.6)), (0.055, who.iris), (0.028, (12, 11, 12))):
        ball = _oval((middle, gaze), (radius, radius))
        order = np.argsort(x)
        ball[:, 1] = np.clip(
            ball[:, 1], np.interp(ball[:, 0], x[order], upper[order]), np.interp(ball[:, 0], x[order], lower[order])
        )
        pen.area(ball, colour)
    if shows.eye_open > 0.5:
        pen.oval((middle + 0.018, gaze - 0.018), (0.012, 0.012), (250, 250, 250))
    pen.stroke(np.stack([x, lower], axis=1), 0.009, _shade(skin, 0.5))
    pen.stroke(np.stack([x, upper], axis=1), who.lashes, (30, 22, 20), ends=0.4)
    crease = np.stack([x, upper - 0.022 - 0.012 * dome], axis=1)[4:-2]
    pen.stroke(crease, 0.012, _shade(skin, 0.68), ends=0.1)


def _draw_brow(pen: _Pen, who: Subject, shows: Expression, side: int) -> None:
    u = np.linspace(0, 1, 30)  # inner to outer end
    inner = who.eye_distance - 0.125 - shows.brow_pinch
    x = side * (inner + u * (0.315 + 0.5 * shows.brow_pinch))
    y = _EYE_LEVEL - who.brow_height - shows.brow_raise - shows.brow_tilt * (1 - u) ** 1.3
    y = y - 0.035 * np.sin(np.pi * u**1.3) + 0.25 * shows.brow_tilt * u**2 + 0.02 * u**2
    if side > 0:
        y = y - shows.brow_asymmetry * np.sin(np.pi * (0.15 + 0.75 * u))
    half = who.brow_thickness * np.interp(u, [0, 0.08, 0.5, 1], [0.5, 1.0, 1.0, 0.15])
    tone = _shade(who.hair_colour, 0.75)
    if abs(sum(tone) - sum(who.skin)) < 200:  # a brow that has the skin's own grey would carry no expression
        tone = _shade(who.skin, 0.35)
    pen.area(np.concatenate([np.stack([x, y - half], axis=1), np.stack([x, y + half], axis=1)[::-1]]), tone)


def _draw_lines(pen: _Pen, who: Subject, shows: Expression) -> None:
    """The lines that a moving face makes: forehead, between the brows, nose, nose to mouth."""
    deep = _shade(who.skin, 0.60)
    brows = _EYE_LEVEL - who.brow_height - max(shows.brow_raise, 0)
    for step in range(3):
        y = brows - 0.085 - 0.055 * step
        line = _curve((-0.26, y + 0.012), (-0.1, y - 0.022), (0.1, y - 0.022), (0.26, y + 0.012))
        pen.stroke(line, 0.015 * shows.forehead_lines, deep, ends=0.1)
    for side in (-1, 1):
        frown = _curve((side * 0.040, brows - 0.05), (side * 0.028, brows + 0.02), (side * 0.050, brows + 0.085))
        pen.stroke(frown, 0.022 * shows.frown_lines, deep, ends=0.1)
        for step in range(3):
            y = _EYE_LEVEL + 0.005 + 0.045 * step
            wrinkle = _curve((side * 0.015, y + 0.012), (side * 0.05, y - 0.012), (side * 0.085, y + 0.035))
            pen.stroke(wrinkle, 0.017 * shows.nose_wrinkle, deep, ends=0.1)
        wing = (side * (who.nose_width + 0.035), _EYE_LEVEL + who.nose_length - 0.03)
        end = (side * (shows.mouth_width + 0.075), _MOUTH_LEVEL - shows.mouth_lift + 0.02)
        fold = _curve(wing, (side * (shows.mouth_width + 0.05), wing[1] + 0.03), end)
        pen.stroke(fold, 0.024 * shows.fold, _shade(who.skin, 0.66), ends=0.1)


def _draw_nose(pen: _Pen, who: Subject, shows: Expression) -> None:
    tip = _EYE_LEVEL + who.nose_length - 0.03 * shows.nose_wrinkle
    wide = who.nose_width * (1 + 0.18 * shows.nose_wrinkle)
    shadow, dark = _shade(who.skin, 0.78), _shade(who.skin, 0.40)
    pen.stroke(_curve((-0.055, _EYE_LEVEL - 0.06), (-0.035, 0.05), (-wide * 0.8, tip - 0.04)), 0.026, shadow, ends=0.3)
    pen.stroke(
        _curve((0.012, _EYE_LEVEL), (0.018, 0.06), (0.015, tip - 0.05)),
        0.040,
        _mix(who.skin, (255, 255, 255), 0.28),
        ends=0.1,
    )
    base = _curve((-wide, tip - 0.02), (-wide * 0.7, tip + 0.045), (wide * 0.7, tip + 0.045), (wide, tip - 0.02))
    pen.stroke(base, 0.020, _shade(who.skin, 0.62), ends=0.4)
    for side in (-1, 1):
        pen.oval((side * wide * 0.5, tip + 0.006), (0.024, 0.013), dark)
        alar = _curve((side * wide, tip - 0.055), (side * wide * 1.3, tip - 0.02), (side * wide * 0.95, tip + 0.015))
        pen.stroke(alar, 0.016, _shade(who.skin, 0.62))


def _draw_mouth(pen: _Pen, who: Subject, shows: Expression) -> None:
    """Lips, and between them the gap with upper teeth and tongue; u runs from corner to corner."""
    u = np.linspace(-1, 1, 60)
    x = u * shows.mouth_width
    middle = _MOUTH_LEVEL - shows.mouth_lift + 0.3 * shows.jaw_drop
    seam = middle - shows.mouth_curve * (u**2 - 0.35) - shows.mouth_asymmetry * np.clip(u, 0, 1) ** 1.4
    gap = shows.mouth_open * (1 - np.abs(u) ** (2 + 6 * shows.mouth_square)) ** 0.6
    top, bottom = seam - 0.38 * gap, seam + 0.62 * gap
    taper = (1 - u**2) ** 0.6
    full = who.lip * shows.lip_fullness
    bow = 1 - 0.28 * np.exp(-((u / 0.16) ** 2))
    lip = _mix(_shade(who.skin, 0.70), (168, 62, 66), 0.45)
    pen.area(_band(x, top - 0.85 * full * taper * bow, top), _shade(lip, 0.86))
    pen.area(_band(x, bottom, bottom + 1.15 * full * taper), lip)
    pen.stroke(np.stack([x, bottom + 0.5 * full * taper], axis=1)[18:-18], 0.3 * full, _mix(lip, (255, 255, 255), 0.25))
    if shows.mouth_open > 0.004:
        pen.area(_band(x, top, bottom), (46, 16, 18))
        tongue = bottom - 0.30 * gap * np.clip(1 - (u / 0.75) ** 2, 0, 1)
        pen.area(_band(x, tongue, bottom), (150, 66, 68))
        bite = np.minimum(top + shows.teeth * gap, bottom)
        pen.area(_band(x, top, bite), (240, 236, 226))
        if shows.teeth > 0.9:  # both rows are bared: show where they meet
            pen.stroke(np.stack([x, (top + bottom) / 2], axis=1)[4:-4], 0.012, (120, 104, 98))
            for at in range(8, 56, 6):
                pen.stroke([(x[at], top[at]), (x[at], bottom[at])], 0.005, (168, 156, 148), ends=1.0)
    else:
        pen.stroke(np.stack([x, seam], axis=1), 0.020, _shade(lip, 0.36), ends=0.3)
    for side, end in ((-1, 0), (1, -1)):
        pen.oval((x[end] + side * 0.006, seam[end]), (0.016, 0.013), _shade(who.skin, 0.55))
    under = bottom[30] + 1.15 * full + 0.045
    pen.stroke(_curve((-0.10, under), (0.0, under + 0.022), (0.10, under)), 0.022, _shade(who.skin, 0.80), ends=0.1)


def _band(x: Floats, upper: Floats, lower: Floats) -> Floats:
    """The closed shape between two curves over the same x."""
    return np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])


def _draw_beard(pen: _Pen, who: Subject, shows: Expression) -> None:
    tone = _mix(who.hair_colour, who.skin, 0.45)
    edge = _outline(who, shows, 1.0)
    edge = edge[(edge[:, 1] > 0.12)]
    inner = edge[::-1] * (0.72, 1.0)
    inner[:, 1] = 0.22 + 0.16 * (1 - (inner[:, 0] / np.abs(inner[:, 0]).max()) ** 2)
    pen.area(np.concatenate([edge, inner]), tone)


def _draw_glasses(pen: _Pen, who: Subject) -> None:
    rim = (36, 34, 38)
    for side in (-1, 1):
        ring = _oval((side * who.eye_distance, _EYE_LEVEL + 0.015), (0.185, 0.15))
        pen.stroke(ring, 0.018, rim, ends=1.0)
        pen.stroke(
            [(side * (who.eye_distance + 0.185), _EYE_LEVEL), (side * who.head_width, -0.12)], 0.018, rim, ends=1
        )
    pen.stroke(_curve((-who.eye_distance + 0.185, -0.1), (0, -0.14), (who.eye_distance - 0.185, -0.1)), 0.018, rim)


def _light(rng: np.random.Generator, size: int, inside: Floats) -> Floats:
    """Gain of every pixel, shape (size, size): light from one side, and a head that turns away at its edge."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size),) * 2, indexing="ij")
    angle = rng.uniform(-np.pi, 0)  # a lamp at the side or above
    slope = rng.uniform(0.04, 0.16)
    gain = rng.uniform(0.92, 1.06) * (1 + slope * (np.cos(angle) * x + np.sin(angle) * y))
    round_head = 1.04 - 0.30 * np.clip((x / 0.62) ** 2 + (y / 0.95) ** 2, 0, 1) ** 2
    return np.asarray(gain * (1 + inside * (round_head - 1)))


def draw(
    subject: Subject,
    expression: str,
    *,
    intensity: float,
    seed: int,
    size: int,
    mode: Literal["L", "RGB"] = "L",
) -> Image.Image:
    """Draw one face.

    Args:
        subject: whose face.
        expression: a key of :data:`EXPRESSIONS`.
        intensity: 0 (neutral) to 1.
        seed: of pose, light, noise and small variations of the expression; 0 or more. Two drawings that share it
            share all of these, as two frames of one recording do.
        size: edge of the square picture in pixels, 16 or more.
        mode: grey or colour.

    Returns:
        An image of ``size`` by ``size`` pixels, 8 bits a channel.

    Raises:
        InputError: no such expression, an intensity outside 0 to 1, or a size below 16.
    """
    if size < 16:
        raise InputError(f"a face of {size} pixels cannot be drawn", allowed="16 pixels or more")
    rng = np.random.Generator(np.random.PCG64(seed))
    shows = expression_at(expression, intensity)
    wander = rng.normal(1, 0.05, len(fields(Expression)))
    shows = Expression(*(getattr(shows, f.name) * float(w) for f, w in zip(fields(Expression), wander, strict=True)))
    roll, yaw, pitch, scale, right, down = (float(v) for v in rng.normal(0, 1, 6).clip(-2, 2))
    backdrop = rng.uniform(70, 200)
    pixels = size * _OVERSAMPLE
    picture = Image.new("RGB", (pixels, pixels), _colour([backdrop] * 3))
    pose = (0.035 * roll, 0.025 * yaw, 0.012 * pitch, 1.14 + 0.02 * scale, (0.018 * right, 0.03 + 0.014 * down))
    pen = _Pen(ImageDraw.Draw(picture), pixels, *pose)
    _draw_body(pen, subject)
    outline = _outline(subject, shows)
    pen.area(outline, subject.skin)
    if subject.beard:
        _draw_beard(pen, subject, shows)
    _draw_nose(pen, subject, shows)
    _draw_lines(pen, subject, shows)
    _draw_mouth(pen, subject, shows)
    _draw_hair(pen, subject)
    for side in (-1, 1):
        _draw_eye(pen, subject, shows, side)
        _draw_brow(pen, subject, shows, side)  # over the hair: a raised brow must not vanish under a fringe
    if subject.glasses:
        _draw_glasses(pen, subject)
    mask = Image.new("L", (pixels, pixels), 0)
    _Pen(ImageDraw.Draw(mask), pixels, *pose).canvas.polygon([(float(x), float(y)) for x, y in pen.place(outline)], 255)
    inside = np.asarray(mask.reduce(_OVERSAMPLE), dtype=np.float64) / 255
    values = np.asarray(picture.reduce(_OVERSAMPLE), dtype=np.float64)
    lit = values * _light(rng, size, inside)[..., None] + rng.normal(0, 2.5, (size, size, 1))
    return Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8), "RGB").convert(mode)
