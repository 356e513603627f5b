"""The difference hash: near for one picture saved twice, far for two."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ferstore.image.decode import decode
from ferstore.image.phash import DIGITS, distance, perceptual_hash

NEAR = 6


def shapes(seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (160, 120), tuple(random.integers(256, size=3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, w, h = random.integers((160, 120, 80, 60)).tolist()
        draw.ellipse((x - w, y - h, x + w, y + h), fill=tuple(random.integers(256, size=3).tolist()))
    return image


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return decode(buffer.getvalue()).image


def test_bits_say_where_the_next_pixel_is_brighter() -> None:
    rising = np.tile(np.arange(9, dtype=np.uint8) * 10, (8, 1))
    assert perceptual_hash(Image.fromarray(rising)) == "f" * DIGITS
    assert perceptual_hash(Image.fromarray(rising[:, ::-1].copy())) == "0" * DIGITS
    rising[0] = 7
    assert perceptual_hash(Image.fromarray(rising)) == "00" + "f" * 14


def test_distance_counts_the_bits_that_differ() -> None:
    assert distance("00ff000000000000", "00ff000000000000") == 0
    assert distance("00ff000000000000", "80fe000000000000") == 2
    assert distance("f" * DIGITS, "0" * DIGITS) == 64


def test_a_drawing_is_near_itself_as_jpeg_scaled_or_brighter_and_far_from_others() -> None:
    drawings = [shapes(seed) for seed in range(12)]
    hashes = [perceptual_hash(drawing) for drawing in drawings]
    for drawing, known in zip(drawings, hashes, strict=True):
        assert distance(known, perceptual_hash(as_jpeg(drawing))) <= NEAR
        assert distance(known, perceptual_hash(drawing.resize((320, 240)))) <= NEAR
        assert distance(known, perceptual_hash(drawing.point(lambda value: value * 3 // 4 + 20))) <= NEAR
    assert min(distance(a, b) for a, b in combinations(hashes, 2)) > NEAR


def test_a_face_is_near_its_jpeg_and_far_from_other_faces(shared: Path) -> None:
    files = sorted((shared / "data/ferplus-sample/FER2013Test").glob("*.png"))[:60]
    faces = [decode(file.read_bytes()).image for file in files]
    hashes = [perceptual_hash(face) for face in faces]
    again = [perceptual_hash(as_jpeg(face)) for face in faces]
    assert max(map(distance, hashes, again)) <= NEAR
    apart = [distance(a, b) for a, b in combinations(hashes, 2)]
    assert np.median(apart) == pytest.approx(32, abs=4)
    assert np.mean(np.array(apart) <= NEAR) < 0.01
