"""Bombs and strangers, through the decoder in a bounded process and through ingest: refused, or a bounded cost."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bombs import bombs, heavy_bombs
from bounded import PEAK, Bounded
from drawn import noise_files, sql, write
from mutants import png_of
from stub_network import stub_factory

from ferstore.errors import DecodeError
from ferstore.extract.plan import Shard, WorkItem
from ferstore.extract.worker import ShardWorker, Target
from ferstore.image.probe import Prober
from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import ingest
from ferstore.store.schema import declared_schemas
from ferstore.store.store import init_store
from tests.faults.conftest import Level, Tally

PICTURES = {
    "png whose pixels are a bomb",  # what its header promises is read, and no more
    "png, exif loop",
    "png just under the limit, all of it there",
    "gif of 2,000 frames",
    "gif of 50,000 frames, each larger than the last",
    "tiff whose directory follows itself",
    "tiff, a tag of 2^32 - 1 values",
    "tiff of 65,535 samples a pixel",
    "webp of 2,000 frames",
    "webp of 9,999 x 9,999, all of it there",
    "jpeg of 9,999 x 9,999 with nothing in it",
    "jpeg of 16 MiB of comment",
    "mpo of 2^32 - 1 pictures",
    "a zip with a picture in front",
}
"""All others are refused."""


def _is_large(name: str) -> bool:
    """Whether the file is, or truthfully says that it is, an image of tens of millions of pixels, or tens of MB."""
    return any(word in name for word in ("9,999", "9,000", "limit", "million"))


def _some(files: dict[str, bytes], level: Level) -> dict[str, bytes]:
    """All, or where time is short every fourth: the first test of this file has decoded all of them."""
    return dict(list(files.items())[:: 4 if level == "ci" else 1])


def test_a_bomb_is_refused_or_costs_no_more_than_a_picture_of_its_size(
    bounded: Bounded, level: Level, tally: Tally
) -> None:
    files = bombs() if level == "ci" else bombs() | heavy_bombs()
    for name, data in sorted(files.items(), key=lambda file: _is_large(file[0])):
        found = bounded.decode(data)
        assert isinstance(found, dict), f"{name}: {found}\n{bounded.printed()}"
        assert (found["refused"] is None) == (name in PICTURES), (name, found)
        assert int(str(found["peak"])) < (PEAK if _is_large(name) else 192 << 20), (name, found)
    assert bounded.printed() == ""
    tally("hostile files", len(files))


def test_ingest_quarantines_every_bomb_with_its_reason_and_keeps_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Level, tally: Tally
) -> None:
    monkeypatch.setattr(ingest_module, "_READERS", 1)
    chosen = _some(bombs(), level)
    files = {f"class/{number:03}.png": data for number, data in enumerate(chosen.values())}
    folder = write(tmp_path / "faces", {**files, **noise_files(3)})
    store = init_store(str(tmp_path / "store"))
    with (tmp_path / "log").open("wb") as log:
        report = ingest(store, "folder", str(folder), name="set", log=log)
    pictures = sum(name in PICTURES for name in chosen)
    assert (report.listed, report.added) == (len(files) + 3, pictures + 3)
    held = sql(store, "select item, error from quarantine")
    assert len(held) == report.quarantined == len(files) - pictures
    assert all(error and "\n" not in str(error) for _, error in held)
    assert (tmp_path / "log").read_bytes() == b""
    tally("hostile files", len(files))


def test_extract_fails_every_bomb_alone_and_computes_the_pictures(tmp_path: Path, level: Level, tally: Tally) -> None:
    """In the threads of an actor: what would kill them never came through ingest, whose child decodes the same way."""
    files = _some(bombs(), level) | noise_files(3)
    folder = write(tmp_path / "faces", {f"{number}.png": data for number, data in enumerate(files.values())})
    items = [
        WorkItem(hashlib.sha256(data).hexdigest(), "identity", (f"file://{folder}/{number}.png",), "set", str(number))
        for number, data in enumerate(files.values())
    ]
    targets = {"pool_3": Target(declared_schemas()["pool_3"], f"file://{tmp_path}/out")}
    worker = ShardWorker(
        stub_factory()(), targets, extractor_id="e", run_id="r", batch_size=4, decode_threads=2
    )  # fmt: skip
    result = worker.run(Shard(tuple(items), ("pool_3",)))
    good = [item for item, name in zip(items, files, strict=True) if name in PICTURES or name in noise_files(3)]
    assert list(result.done) == good
    assert {failure.item.item_id for failure in result.failures} == {item.item_id for item in set(items) - set(good)}
    tally("hostile files", len(items))


def test_a_decoder_that_asks_for_more_than_its_memory_refuses_that_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the child, not that of the header: 98 million pixels of colour do not fit 300 MiB."""
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        program = "from ferstore.image import probe; probe.MEMORY = 300 << 20; probe._serve()"
        return real([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    prober = Prober()
    try:
        with pytest.raises(DecodeError, match="MemoryError"):
            prober.probe(png_of(9_900, 9_900))
        assert prober.probe(next(iter(noise_files(1).values()))).width == 16
    finally:
        prober.close()
