"""A pen for shapes in a frame of x and y from -1 to 1, y downwards, turned, shifted and scaled onto a canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from ferstore.sources.people import Colour

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pen:
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
        self.area(oval(centre, radii), colour)

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


def oval(centre: tuple[float, float], radii: tuple[float, float]) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 60)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], axis=1)


def curve(*control: tuple[float, float]) -> Floats:
    """The Bezier curve of some control points, as 24 points."""
    t, last = np.linspace(0, 1, 24)[:, None], len(control) - 1
    terms = [math.comb(last, i) * (1 - t) ** (last - i) * t**i * np.asarray(p) for i, p in enumerate(control)]
    return np.asarray(sum(terms), dtype=np.float64)
