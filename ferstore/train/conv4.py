"""The feature that a trained sub-deep head makes of an image, as other heads name it."""

from __future__ import annotations

CONV4 = "conv4"
"""Its table."""
CONV4_VALUES = 2048
