"""FERPLUS's label rule, as its loader needs it; it lives in `ferstore.labels`, which training uses too."""

from __future__ import annotations

from ferstore.labels import EMOTIONS, VOTES, majority, soft

__all__ = ["EMOTIONS", "VOTES", "majority", "soft"]
