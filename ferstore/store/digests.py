"""Data files held against the digests in their names before anything is read from them.

A page checksum covers a page: footers and page headers have none, and a file with another one's valid bytes has them
all right. The digest in the name covers every byte, and that the file is the one that was committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from ferstore.errors import CorruptionError
from ferstore.store.files import file_digest, filesystem, recorded_digest
from ferstore.store.reach import patiently

_THREADS = 4  # hashing and reading let go of the interpreter lock


def damaged(url: str, error: object) -> CorruptionError:
    """What to say of a data file that is not there, cannot be read, or is not what was committed."""
    problem = f"{url} cannot be read: {error}"
    return CorruptionError(problem, hint="see what is damaged: ferstore verify")


def check_digests(urls: Collection[str]) -> int:
    """Read data files whole against the digests in their names, a few at once, each 4 MiB at a time.

    Returns:
        Files that another engine wrote, whose names hold no digest: nothing is known of them.

    Raises:
        CorruptionError: the first, by URL, that is missing or differs.
    """
    digested = sorted(url for url in urls if recorded_digest(url))
    with ThreadPoolExecutor(_THREADS) as threads:
        for problem in threads.map(_problem, digested):
            if problem:
                threads.shutdown(cancel_futures=True)
                raise problem
    return len(urls) - len(digested)


def read_checked(url: str) -> bytes:
    """The bytes of a data file, with the digest in its name where it has one.

    Raises:
        CorruptionError: it is missing or differs.
        OSError: it cannot be reached.
    """
    try:
        data: bytes = patiently(lambda: filesystem(url).cat_file(url))
    except FileNotFoundError as error:
        raise damaged(url, error) from error
    if (recorded := recorded_digest(url)) and (found := hashlib.sha256(data).hexdigest()) != recorded:
        raise damaged(url, _differs(found))
    return data


def _problem(url: str) -> CorruptionError | None:
    try:
        found, _ = file_digest(url)
    except OSError as error:
        return damaged(url, error)
    return None if found == recorded_digest(url) else damaged(url, _differs(found))


def _differs(found: str) -> str:
    return f"its bytes are not those that were committed (they have digest {found})"
