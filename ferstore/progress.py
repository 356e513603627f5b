"""How long work reports itself, without a dependency on the terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Something that shows how far a piece of work is."""

    def start(self, what: str, total: int | None) -> None:
        """Begin a stage of ``total`` items (None: not known)."""
        ...

    def advance(self, items: int) -> None:
        """So many more items are done."""
        ...

    def note(self, text: str) -> None:
        """One line worth telling."""
        ...


class Silent:
    """Reports nothing: the default of the Python API."""

    def start(self, what: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, items: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
