"""The command line, one module a group of commands."""

import atexit
import gc

# What a command imports lasts until it ends: looking through all of it again and again for garbage takes a tenth of
# the start, and more as it ends.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)

from ferstore.cli.entry import main  # noqa: E402
from ferstore.cli.root import app  # noqa: E402

__all__ = ["app", "main"]
