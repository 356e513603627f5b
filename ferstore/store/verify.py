"""``ferstore verify``: every live file read back against the digest in its name, every key once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ferstore.progress import Progress, Silent
from ferstore.store.files import file_digest, recorded_digest
from ferstore.store.references import references
from ferstore.store.rows import read_rows
from ferstore.store.store import Store


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found.

    Attributes:
        files: data files any kept snapshot refers to.
        nbytes: their size.
        undigested: files another engine wrote, whose name records no digest; only their size was checked.
        damaged: URL and reason of each file that is missing or differs.
        rows: rows of each table in its current snapshot.
        repeated: rows beyond the first with the same key, by table; any is a fault.
    """

    files: int
    nbytes: int
    undigested: int
    damaged: tuple[tuple[str, str], ...]
    rows: Mapping[str, int]
    repeated: Mapping[str, int]

    @property
    def sound(self) -> bool:
        """No file damaged, no key twice."""
        return not self.damaged and not self.repeated


def verify(store: Store, progress: Progress | None = None) -> VerifyReport:
    """Read everything back. Nothing is changed."""
    progress = progress or Silent()
    pin = store.pin()
    files = references(pin).data
    progress.start("verify", len(files))
    damaged = []
    with ThreadPoolExecutor(4) as threads:
        for url, problem in zip(files, threads.map(_check, files.items()), strict=True):
            progress.advance(1)
            if problem:
                damaged.append((url, problem))
    rows, repeated = {}, {}
    unreadable = {url for url, _ in damaged}
    for name, schema in store.schemas.items():
        if any(data_file.file_path in unreadable for data_file in pin.data_files(name)):
            continue
        try:
            keys = read_rows(store, pin, name, list(schema.key))
        except (OSError, ValueError) as error:  # a file of another engine, whose name holds no digest
            damaged.append((store.data_folder(name), f"cannot be read: {error}"))
            continue
        rows[name] = len(keys)
        if extra := len(keys) - len(keys.group_by(list(schema.key)).aggregate([])):
            repeated[name] = extra
    return VerifyReport(
        files=len(files),
        nbytes=sum(files.values()),
        undigested=sum(recorded_digest(url) is None for url in files),
        damaged=tuple(damaged),
        rows=rows,
        repeated=repeated,
    )


def _check(file: tuple[str, int]) -> str | None:
    url, size = file
    try:
        digest, found = file_digest(url)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if found != size:
        return f"has {found} bytes, the manifest says {size}"
    recorded = recorded_digest(url)
    return f"has digest {digest}" if recorded and recorded != digest else None
