"""The command line, one module a group of commands."""

from ferstore.cli.entry import main
from ferstore.cli.root import app

__all__ = ["app", "main"]
