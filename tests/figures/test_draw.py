"""What is said of a head beside its maps."""

from __future__ import annotations

import numpy as np

from ferstore.figures.draw import _about_head, _silent
from ferstore.network import FusedMap


def test_a_map_that_is_zero_everywhere_is_named_and_a_flat_one_is_not() -> None:
    maps = [
        FusedMap("conv1", (2, 2, 8), np.zeros((2, 2), np.float32)),
        FusedMap("conv2", (2, 2, 8), np.full((2, 2), 0.25, np.float32)),
        FusedMap("conv3", (2, 2, 8), np.array([[0, 0], [0, 1]], np.float32)),
    ]
    assert _silent(maps) == ("conv1",)


def test_without_a_trained_head_the_figures_say_so_and_whose_heads_are_drawn() -> None:
    for trained, said in ((True, "No head with conv1 to conv4 is trained"), (False, "No store is read")):
        row, drawn = _about_head(None, trained=trained)
        assert row.startswith(said)
        assert "left out" in row
        assert "the paper's, at full width 2,048" in drawn
