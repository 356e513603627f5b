"""What an extract finds missing in a store that has features, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from drawn import noise_store
from filled import REQUEST, fill

from ferstore.extract.run import extract


def test_another_extractor_finds_everything_missing(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 3)
    fill(store)
    again = extract(store, REQUEST, dry_run=True)
    assert (again.wanted, again.present, again.shards) == (3, 3, 0)
    for other in (replace(REQUEST, seed=1), replace(REQUEST, precision="bfloat16")):
        report = extract(store, other, dry_run=True)
        assert (report.wanted, report.present) == (3, 0)
