"""The whole line with its store and its pictures on S3 and its catalog on PostgreSQL; Ray's processes read and write.

A stub stands for Inception v3 (the real one, with trained weights and real faces, was run by hand). The server is moto:
`tests/support/s3.py` says what that does not prove, such as throttling and real limits of parts.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import postgres as postgresql
import pytest
from drawn import noise_files, sql
from s3 import Server, objects
from stub_network import stub_factory

from ferstore.api import FeatureStore
from ferstore.cluster import cluster
from ferstore.extract.request import ExtractRequest
from ferstore.extract.run import extract
from ferstore.query.limits import Limits
from ferstore.sources.ingest import ingest
from ferstore.store.files import write_file
from ferstore.store.store import init_store
from ferstore.train.recipe import recipe_of
from ferstore.train.request import TrainRequest
from ferstore.train.split_plan import SplitRequest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),  # as in tests/train/test_run.py
]
FACES = 20


@pytest.fixture
def ray_here(s3: Server) -> Iterator[None]:
    """A cluster whose processes have the environment that reaches the server."""
    before = signal.getsignal(signal.SIGTERM)
    with cluster(None, cpus=3):
        yield
    signal.signal(signal.SIGTERM, before)


def test_the_whole_line(bucket: str, postgres: postgresql.Server, ray_here: None, tmp_path: Path) -> None:
    files = noise_files(FACES)
    for name, data in files.items():
        write_file(f"{bucket}/faces/{name}", data)
    store = init_store(f"{bucket}/store", catalog=postgres.new_database())
    face_store = FeatureStore(store)
    report = ingest(store, "folder", f"{bucket}/faces", name="faces")
    assert report.added == FACES
    asked = ExtractRequest(weights="random", batch_size=8, actors=2)
    assert extract(store, asked, network=stub_factory()).computed == FACES
    assert extract(store, asked, network=stub_factory()).computed == 0
    for layer in ("pool_3", "mixed_10"):
        assert sql(store, f"select count(*), count(distinct image_id) from {layer}") == [(FACES, FACES)]
    query = "select label, count(*) from features where pool_3 is not null group by label order by label"
    assert face_store.sql(query, limits=Limits()).rows() == [("happy", 10), ("sad", 10)]

    face_store.split(SplitRequest("parts", "faces", "random"))
    [trained] = face_store.train(TrainRequest("deepest", "parts", recipe=recipe_of("modern", ["hidden=8"], steps=4)))
    assert sql(store, "select experiment from trainings") == [("deepest",)]
    below = f"/store/training/{trained.run_id}/"
    assert any(key.startswith(f"{below}weights-") for key in objects(bucket))
    assert not any(key.startswith(f"{below}checkpoints/") for key in objects(bucket))
    face_store.report(tmp_path / "report")
    assert str(trained.run_id) in (tmp_path / "report" / "report.html").read_text("utf-8")

    assert face_store.verify().sound
    face_store.compact()
    face_store.vacuum(keep=timedelta(0), grace=timedelta(0))
    [(image,)] = sql(store, "select image_id from images limit 1")
    face_store.erase(image_id=str(image))
    assert sql(store, "select count(*) from pool_3") == [(FACES - 1,)]
    assert face_store.verify().sound
    assert {finding.state for finding in face_store.doctor()} == {"ok"}
