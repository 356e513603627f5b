"""What the options before a command stand for: which store, and where its log goes."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ferstore.redaction import ScrubbingFormatter

if TYPE_CHECKING:
    from ferstore.api import FeatureStore


class Globals:
    """Options before the command (also accepted after it)."""

    store: str | None = None
    catalog: str | None = None
    debug: bool = False
    checking: bool = False


class Checked(Exception):  # noqa: N818  no error
    """Comes instead of a store where a command is only checked: all that it looks at before is right.

    Args:
        asked: what the command makes of its options, if it says so.
    """

    def __init__(self, asked: object = None) -> None:
        super().__init__(asked)
        self.asked = asked


def open_store(asked: object = None) -> FeatureStore:
    """The store that was named; warnings of libraries go to its log.

    Args:
        asked: what it is opened for, which was checked.
    """
    if Globals.checking:
        raise Checked(asked)
    from ferstore import api

    store = api.open(Globals.store, catalog=Globals.catalog)
    log_to(store)
    return store


def _log_folder(store: FeatureStore) -> Path | None:
    from ferstore.store.files import local_path

    folder = local_path(store.url)
    return folder / "log" if folder else None


def log_to(store: FeatureStore) -> None:
    """Libraries' warnings go to a file in a local store, never between the lines of a result."""
    folder = _log_folder(store)
    handler: logging.Handler = logging.NullHandler()
    if folder:
        try:
            folder.mkdir(exist_ok=True)
            handler = RotatingFileHandler(folder / "ferstore.log", maxBytes=5 << 20, backupCount=2, delay=True)
        except OSError:
            pass  # a store that can only be read can still be queried
    handler.setFormatter(ScrubbingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)


def decoder_log(store: FeatureStore, stack: ExitStack) -> IO[bytes] | None:
    """Where what decoders print to stderr goes."""
    folder = _log_folder(store)
    return stack.enter_context((folder / "decoders.log").open("ab")) if folder and folder.is_dir() else None
