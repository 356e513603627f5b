"""Drawn faces: the only faces ferstore ships, for its demo and its tests.

A face is drawn from three things: a :class:`Subject` (whose face it is), an :class:`Expression` (what it shows) and a
seed for pose, light and noise. Nothing here reads a file, and the same arguments give the same pixels on one machine.

Shapes live in a frame of x and y from -1 to 1, y downwards, the head in the middle; :class:`Pen` turns, shifts and
scales them onto a canvas four times the size asked for, which is then reduced, so that edges are smooth.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageDraw

from ferstore.errors import InputError
from ferstore.sources.pen import Floats, Pen, curve, oval
from ferstore.sources.people import Colour, Expression, Subject, as_colour, expression_at

_OVERSAMPLE: Final = 4
_EYE_LEVEL: Final = -0.10
_MOUTH_LEVEL: Final = 0.40


def _shade(colour: Colour, gain: float) -> Colour:
    return as_colour(np.asarray(colour) * gain)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return as_colour(np.asarray(one) * (1 - share) + np.asarray(other) * share)


def _outline(who: Subject, shows: Expression, grow: float = 1.0) -> Floats:
    """The head, clockwise on the picture from the temple at the right; narrower towards the chin."""
    angle = np.linspace(0, 2 * np.pi, 120)
    down = np.clip(np.sin(angle), 0, 1)
    x = who.head_width * grow * np.cos(angle) * (1 - who.jaw * down**1.5)
    y = who.head_height * grow * np.sin(angle) + shows.jaw_drop * down**2
    return np.stack([x, y], axis=1)


def _draw_body(pen: Pen, who: Subject) -> None:
    skin = _shade(who.skin, 0.80)
    shoulders = curve((-1.25, 1.35), (-1.0, 0.80), (-0.3, 0.86), (0.0, 0.86))
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


def _draw_hair(pen: Pen, who: Subject) -> None:
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


def _draw_eye(pen: Pen, who: Subject, shows: Expression, side: int) -> None:
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
        ball = oval((middle, gaze), (radius, radius))
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


def _draw_brow(pen: Pen, who: Subject, shows: Expression, side: int) -> None:
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


def _draw_lines(pen: Pen, who: Subject, shows: Expression) -> None:
    """The lines that a moving face makes: forehead, between the brows, nose, nose to mouth."""
    deep = _shade(who.skin, 0.60)
    brows = _EYE_LEVEL - who.brow_height - max(shows.brow_raise, 0)
    for step in range(3):
        y = brows - 0.085 - 0.055 * step
        line = curve((-0.26, y + 0.012), (-0.1, y - 0.022), (0.1, y - 0.022), (0.26, y + 0.012))
        pen.stroke(line, 0.015 * shows.forehead_lines, deep, ends=0.1)
    for side in (-1, 1):
        frown = curve((side * 0.040, brows - 0.05), (side * 0.028, brows + 0.02), (side * 0.050, brows + 0.085))
        pen.stroke(frown, 0.022 * shows.frown_lines, deep, ends=0.1)
        for step in range(3):
            y = _EYE_LEVEL + 0.005 + 0.045 * step
            wrinkle = curve((side * 0.015, y + 0.012), (side * 0.05, y - 0.012), (side * 0.085, y + 0.035))
            pen.stroke(wrinkle, 0.017 * shows.nose_wrinkle, deep, ends=0.1)
        wing = (side * (who.nose_width + 0.035), _EYE_LEVEL + who.nose_length - 0.03)
        end = (side * (shows.mouth_width + 0.075), _MOUTH_LEVEL - shows.mouth_lift + 0.02)
        fold = curve(wing, (side * (shows.mouth_width + 0.05), wing[1] + 0.03), end)
        pen.stroke(fold, 0.024 * shows.fold, _shade(who.skin, 0.66), ends=0.1)


def _draw_nose(pen: Pen, who: Subject, shows: Expression) -> None:
    tip = _EYE_LEVEL + who.nose_length - 0.03 * shows.nose_wrinkle
    wide = who.nose_width * (1 + 0.18 * shows.nose_wrinkle)
    shadow, dark = _shade(who.skin, 0.78), _shade(who.skin, 0.40)
    pen.stroke(curve((-0.055, _EYE_LEVEL - 0.06), (-0.035, 0.05), (-wide * 0.8, tip - 0.04)), 0.026, shadow, ends=0.3)
    pen.stroke(
        curve((0.012, _EYE_LEVEL), (0.018, 0.06), (0.015, tip - 0.05)),
        0.040,
        _mix(who.skin, (255, 255, 255), 0.28),
        ends=0.1,
    )
    base = curve((-wide, tip - 0.02), (-wide * 0.7, tip + 0.045), (wide * 0.7, tip + 0.045), (wide, tip - 0.02))
    pen.stroke(base, 0.020, _shade(who.skin, 0.62), ends=0.4)
    for side in (-1, 1):
        pen.oval((side * wide * 0.5, tip + 0.006), (0.024, 0.013), dark)
        alar = curve((side * wide, tip - 0.055), (side * wide * 1.3, tip - 0.02), (side * wide * 0.95, tip + 0.015))
        pen.stroke(alar, 0.016, _shade(who.skin, 0.62))


def _draw_mouth(pen: Pen, who: Subject, shows: Expression) -> None:
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
    pen.stroke(curve((-0.10, under), (0.0, under + 0.022), (0.10, under)), 0.022, _shade(who.skin, 0.80), ends=0.1)


def _band(x: Floats, upper: Floats, lower: Floats) -> Floats:
    """The closed shape between two curves over the same x."""
    return np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])


def _draw_beard(pen: Pen, who: Subject, shows: Expression) -> None:
    tone = _mix(who.hair_colour, who.skin, 0.45)
    edge = _outline(who, shows, 1.0)
    edge = edge[(edge[:, 1] > 0.12)]
    inner = edge[::-1] * (0.72, 1.0)
    inner[:, 1] = 0.22 + 0.16 * (1 - (inner[:, 0] / np.abs(inner[:, 0]).max()) ** 2)
    pen.area(np.concatenate([edge, inner]), tone)


def _draw_glasses(pen: Pen, who: Subject) -> None:
    rim = (36, 34, 38)
    for side in (-1, 1):
        ring = oval((side * who.eye_distance, _EYE_LEVEL + 0.015), (0.185, 0.15))
        pen.stroke(ring, 0.018, rim, ends=1.0)
        pen.stroke(
            [(side * (who.eye_distance + 0.185), _EYE_LEVEL), (side * who.head_width, -0.12)], 0.018, rim, ends=1
        )
    pen.stroke(curve((-who.eye_distance + 0.185, -0.1), (0, -0.14), (who.eye_distance - 0.185, -0.1)), 0.018, rim)


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
        expression: a key of :data:`ferstore.sources.people.EXPRESSIONS`.
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
    picture = Image.new("RGB", (pixels, pixels), as_colour([backdrop] * 3))
    pose = (0.035 * roll, 0.025 * yaw, 0.012 * pitch, 1.14 + 0.02 * scale, (0.018 * right, 0.03 + 0.014 * down))
    pen = Pen(ImageDraw.Draw(picture), pixels, *pose)
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
    Pen(ImageDraw.Draw(mask), pixels, *pose).canvas.polygon([(float(x), float(y)) for x, y in pen.place(outline)], 255)
    inside = np.asarray(mask.reduce(_OVERSAMPLE), dtype=np.float64) / 255
    values = np.asarray(picture.reduce(_OVERSAMPLE), dtype=np.float64)
    lit = values * _light(rng, size, inside)[..., None] + rng.normal(0, 2.5, (size, size, 1))
    return Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8), "RGB").convert(mode)
