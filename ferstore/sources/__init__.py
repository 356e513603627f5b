"""Where images and labels come from: the data sets ferstore knows, and any folder or table of images."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ferstore.errors import SourceError
from ferstore.sources import ckplus, ferplus, folder, jaffe
from ferstore.sources.item import Listing
from ferstore.sources.tree import Tree, open_tree

KINDS = ("ferplus", "ckplus", "jaffe", "folder")
_LOADERS: dict[str, Callable[[Tree], Listing]] = {
    "ferplus": ferplus.listing,
    "ckplus": ckplus.listing,
    "jaffe": jaffe.listing,
    "folder": folder.listing,
}


def check_kind(kind: str) -> None:
    """Refuse a kind of data set that nobody loads.

    Raises:
        SourceError: naming those there are.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise SourceError(
            f"unknown kind of data set {kind!r}",
            allowed=", ".join(KINDS),
            hint=f"did you mean {near[0]!r}?" if near else "",
        )


def open_listing(kind: str, url: str) -> Listing:
    """List a data set: names and label files are read, images are not.

    Args:
        kind: one of ``KINDS``.
        url: a folder or an archive, local or on any fsspec filesystem; for ``folder`` also a CSV or Parquet table.

    Raises:
        SourceError: an unknown kind, nothing at ``url``, or not the layout of this kind.
    """
    check_kind(kind)
    if kind == "folder" and url.casefold().endswith(folder.TABLE_SUFFIXES):
        return folder.table_listing(url)
    with open_tree(url) as tree:
        return _LOADERS[kind](tree)
