"""Making a file that must not be there: who relies on it, and how a store is asked whether it can.

- ``ferstore.json``, which says what a store is: of two ``init`` at one moment, one must find the other's.
- Iceberg's metadata, manifests and their lists. Their names hold a UUID and the catalog decides which metadata is a
  table's (in one database transaction, or in the REST server), so no commit hangs on it; a name used twice, by a fault
  or a retry that crossed another writer, must still end in an error and never in other bytes under a name in use.
- Not data files: their names are random and hold their digest, so a second write is of the same bytes.

A driver may let the server decide (``If-None-Match: *`` on S3, also for the end of a multi-part upload;
``ifGenerationMatch=0`` on Google Cloud Storage, ``If-None-Match: *`` on Azure), or look first and write then, which two
writers at once get past. A store that ignores the condition shows when a key is made twice; a driver that looks first
does not, so those that leave it to the server are listed here. Read in s3fs 2026.9 (``_pipe_file``), gcsfs 2026.10
(``simple_upload``; its zonal buckets ignore the condition) and adlfs 2026.8 (``_pipe_file``).
"""

from __future__ import annotations

import contextlib
import uuid
from urllib.parse import urlparse

from ferstore.errors import StoreError
from ferstore.store.files import filesystem, write_file
from ferstore.store.reach import patiently

_DECIDED_THERE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
_DECIDED_HERE = frozenset({"", "file", "memory"})  # by the kernel, and by the one process that has it


def check_exclusive(url: str) -> None:
    """Make one file twice, below the folder of a store: the second time must fail. Nothing of it stays.

    Args:
        url: of the store.

    Raises:
        StoreError: it does not.
        OSError: it cannot be written, read or removed.
    """
    probe = f"{url}/tables/probe-{uuid.uuid4().hex}"  # where one left by a killed init keeps no later one away
    write_file(probe, b"first", exclusive=True)
    try:
        write_file(probe, b"second", exclusive=True)
    except FileExistsError:
        return
    finally:
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: filesystem(probe).rm_file(probe))
    raise StoreError(
        f"what {url} lies on ignores conditional writes: a file that was there was replaced",
        allowed="an object store that refuses a PUT with If-None-Match, as Amazon's does, or a folder",
        hint="turn that on or update its server, or name another store",
    )


def decided_by_server(url: str) -> bool:
    """Whether it is known that no two writers at once can both make a file of this URL's protocol."""
    return urlparse(url).scheme in _DECIDED_THERE | _DECIDED_HERE


def has_folders(url: str) -> bool:
    """Whether a folder must be made before its files. On an object store that would make a bucket instead."""
    return urlparse(url).scheme not in _DECIDED_THERE
