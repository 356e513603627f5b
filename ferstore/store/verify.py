"""``ferstore verify``: every manifest and every live file read back against its digest, every key once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from pyiceberg.manifest import ManifestFile, read_manifest_list

from ferstore.errors import CorruptionError
from ferstore.progress import Progress, Silent
from ferstore.store.files import file_digest, recorded_digest
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.seal import BROKEN
from ferstore.store.store import Store


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found.

    Attributes:
        files: data files any kept snapshot refers to.
        nbytes: their size.
        undigested: files another engine wrote, whose name records no digest; only their size was checked.
        damaged: URL and reason of each data file, manifest or list of manifests that is missing or differs.
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


def _scan(pin: Pin) -> tuple[dict[str, int], dict[str, str]]:
    """Size of every data file that any kept snapshot needs; and manifests, and lists of them, that are damaged.

    As `references`, which stops at the first that is.
    """
    files: dict[str, int] = {}
    damaged: dict[str, str] = {}
    for table in pin.tables.values():
        manifests: dict[str, ManifestFile] = {}
        for snapshot in table.metadata.snapshots:
            with _noting(damaged, snapshot.manifest_list):
                found = list(read_manifest_list(table.io.new_input(snapshot.manifest_list)))
                manifests.update((manifest.manifest_path, manifest) for manifest in found)
        for url, manifest in manifests.items():
            with _noting(damaged, url):
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                    files[entry.data_file.file_path] = entry.data_file.file_size_in_bytes
    return files, damaged


@contextmanager
def _noting(damaged: dict[str, str], url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        damaged[url] = "missing"
    except CorruptionError:
        damaged[url] = BROKEN
    except Exception as error:  # the parsers raise whatever a damaged file of another engine makes them run into
        damaged[url] = f"cannot be read: {type(error).__name__}: {str(error)[:200]}"


def verify(store: Store, progress: Progress | None = None) -> VerifyReport:
    """Read everything back. Nothing is changed."""
    progress = progress or Silent()
    pin = store.pin(afresh=True)
    files, lost = _scan(pin)
    damaged = list(lost.items())
    progress.start("verify", len(files))
    with ThreadPoolExecutor(4) as threads:
        for url, problem in zip(files, threads.map(_check, files.items()), strict=True):
            progress.advance(1)
            if problem:
                damaged.append((url, problem))
    rows, repeated = {}, {}
    unreadable = {url for url, _ in damaged}
    for name, schema in store.schemas.items():
        try:
            if any(data_file.file_path in unreadable for data_file in pin.data_files(name)):
                continue
            keys = read_rows(store, pin, name, list(schema.key))
        except CorruptionError as error:  # its manifests, or a file of another engine, whose name holds no digest
            if not any(url.startswith(f"{pin.tables[name].location()}/") for url in unreadable):
                damaged.append((store.data_folder(name), error.problem))
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
