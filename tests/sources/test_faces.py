"""The drawn faces: repeatable, and different where an expression is read."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from ferstore.errors import InputError
from ferstore.sources.faces import draw
from ferstore.sources.people import EXPRESSIONS, Expression, Subject, expression_at

SIZE = 48
BLOCK = 3  # pixels; changes are compared as means of blocks, which a shift of the head by a pixel leaves alone
Floats = npt.NDArray[np.float64]
Changes = dict[str, list[Floats]]


def _pixels(who: Subject, expression: str, *, seed: int, intensity: float = 1.0) -> Floats:
    return np.asarray(draw(who, expression, intensity=intensity, seed=seed, size=SIZE), dtype=np.float64)


def _distance(one: Floats, other: Floats) -> float:
    return float(np.abs(one - other).mean())


@pytest.fixture(scope="module", params=[1, 9])
def changes(request: pytest.FixtureRequest) -> Changes:
    """What each expression does to one person's neutral face under the same pose and light, in eight draws."""
    who = Subject.drawn(request.param)
    rest = [_pixels(who, "neutral", seed=seed) for seed in range(8)]
    blocks = (SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK)
    return {
        name: [
            (_pixels(who, name, seed=seed) - rest[seed]).reshape(blocks).mean(axis=(1, 3), dtype=np.float64)
            for seed in range(8)
        ]
        for name in EXPRESSIONS
    }


def test_the_same_arguments_draw_the_same_bytes() -> None:
    once, again = (draw(Subject.drawn(3), "fear", intensity=0.7, seed=9, size=SIZE) for _ in range(2))
    assert once.tobytes() == again.tobytes()


def test_another_seed_draws_other_bytes() -> None:
    who = Subject.drawn(3)
    assert not np.array_equal(_pixels(who, "fear", seed=9), _pixels(who, "fear", seed=10))


def test_another_subject_seed_is_another_person() -> None:
    assert len({Subject.drawn(seed) for seed in range(50)}) == 50
    assert Subject.drawn(7) == Subject.drawn(7)


def test_the_expressions_are_those_of_ferplus_in_its_order() -> None:
    order = "neutral happiness surprise sadness anger disgust fear contempt"
    assert list(EXPRESSIONS) == order.split()


def test_two_expressions_of_one_person_differ_more_than_draws_of_one_expression_do(changes: Changes) -> None:
    first = {name: np.mean(draws[:4], axis=0) for name, draws in changes.items()}
    second = {name: np.mean(draws[4:], axis=0) for name, draws in changes.items()}
    for one, other in combinations(EXPRESSIONS, 2):
        within = max(_distance(first[name], second[name]) for name in (one, other))
        assert _distance(first[one], second[other]) > 1.3 * within, (one, other)


def test_every_draw_is_nearest_to_the_average_of_other_draws_of_its_own_expression(changes: Changes) -> None:
    averages = {name: np.mean(draws[:4], axis=0) for name, draws in changes.items()}
    for name, draws in changes.items():
        for face in draws[4:]:
            assert min(averages, key=lambda other: _distance(averages[other], face)) == name


def test_an_expression_moves_brows_and_mouth_more_than_the_rest_of_the_face() -> None:
    who = Subject.drawn(1)
    for name in ("surprise", "sadness", "anger", "disgust", "fear", "contempt"):
        gap = np.abs(_pixels(who, name, seed=2) - _pixels(who, "neutral", seed=2))[:, 8:40].mean(axis=1)
        assert min(gap[10:24].mean(), gap[30:42].mean()) > 2 * gap[:8].mean(), name


def test_a_full_expression_is_further_from_neutral_than_a_slight_one() -> None:
    who = Subject.drawn(0)
    for name in EXPRESSIONS:
        if name == "neutral":
            continue
        rest, slight, full = (_pixels(who, name, seed=4, intensity=level) for level in (0.0, 0.2, 1.0))
        assert 0 < _distance(rest, slight) < _distance(rest, full), name


def test_frames_that_share_a_seed_share_pose_light_and_noise() -> None:
    who = Subject.drawn(0)
    rest, peak = (_pixels(who, "surprise", seed=4, intensity=level) for level in (0.0, 1.0))
    assert np.array_equal(rest[:, :3], peak[:, :3])  # backdrop only


def test_intensity_zero_is_neutral_and_one_is_the_full_expression() -> None:
    assert expression_at("anger", 0) == Expression()
    assert expression_at("anger", 1) == EXPRESSIONS["anger"]


@pytest.mark.parametrize(("mode", "bands"), [("L", ("L",)), ("RGB", ("R", "G", "B"))])
@pytest.mark.parametrize("size", [16, 48, 101])
def test_mode_and_size_are_those_asked_for(mode: str, bands: tuple[str, ...], size: int) -> None:
    face = draw(Subject.drawn(2), "neutral", intensity=1, seed=0, size=size, mode="RGB" if mode == "RGB" else "L")
    assert face.getbands() == bands
    assert face.size == (size, size)


@pytest.mark.parametrize("seed", range(12))
def test_every_subject_can_show_every_expression(seed: int) -> None:
    who = Subject.drawn(seed)
    for name in EXPRESSIONS:
        assert _pixels(who, name, seed=seed).std() > 10


def test_an_unknown_expression_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'boredom'.*neutral, happiness"):
        draw(Subject.drawn(0), "boredom", intensity=1, seed=0, size=SIZE)


@pytest.mark.parametrize("intensity", [-0.1, 1.1, float("nan")])
def test_an_intensity_off_the_scale_is_refused(intensity: float) -> None:
    with pytest.raises(InputError, match="intensity"):
        draw(Subject.drawn(0), "fear", intensity=intensity, seed=0, size=SIZE)


def test_a_size_too_small_for_a_face_is_refused() -> None:
    with pytest.raises(InputError, match="16 pixels"):
        draw(Subject.drawn(0), "fear", intensity=1, seed=0, size=15)
