"""FERPLUS's label rule: ten votes to one class, or to a distribution over eight.

Barsoum, Zhang, Canton Ferrer, Zhang, "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced
Label Distribution" (https://arxiv.org/abs/1608.01041), as ``_process_data`` of microsoft/FERPlus, src/ferplus.py:

- *majority*: counts of one vote are dropped, then the top count must exceed half the sum of what remains, unknown and
  NF included (its ``maxval > 0.5*sum_list``); otherwise the row is unknown. Two equal top counts never exceed half.
  Rows that are unknown or NF are left out.
- *soft*: ferstore keeps the rows of *majority* and the whole distribution of the eight emotions. Microsoft's
  ``majority`` mode sets all but the top count to zero first, and its ``crossentropy`` mode keeps up to three emotions
  that together reach 75 % of the votes, which keeps other rows than *majority*.
"""

from __future__ import annotations

from collections.abc import Sequence

from ferstore.errors import SourceError

EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTES = (*EMOTIONS, "unknown", "NF")


def majority(votes: Sequence[int]) -> str | None:
    """The class of ten votes in the order of ``VOTES``, or None where the rule drops the row.

    Raises:
        SourceError: not ten counts, or one below zero.
    """
    kept = _without_single_votes(votes)
    top = max(kept)
    if 2 * top <= sum(kept):
        return None
    name = VOTES[kept.index(top)]
    return name if name in EMOTIONS else None


def soft(votes: Sequence[int]) -> tuple[float, ...] | None:
    """Eight shares in the order of ``EMOTIONS``, summing to 1, or None where ``majority`` drops the row.

    Raises:
        SourceError: as ``majority``.
    """
    if majority(votes) is None:
        return None
    emotions = _without_single_votes(votes)[: len(EMOTIONS)]
    return tuple(count / sum(emotions) for count in emotions)


def _without_single_votes(votes: Sequence[int]) -> list[int]:
    if len(votes) != len(VOTES) or min(votes) < 0:
        raise SourceError(f"votes {list(votes)}", allowed=f"{len(VOTES)} counts: {', '.join(VOTES)}")
    return [count if count > 1 else 0 for count in votes]
