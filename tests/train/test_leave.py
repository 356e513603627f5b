"""What a training leaves: weights under their digest, and curves that TensorBoard reads."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_job import VECTOR, faces, job_of, training_data

import tensorflow as tf  # isort: skip
from ferstore.train.job import Job, Measured
from ferstore.train.leave import write_events, write_weights
from ferstore.train.recipe import PAPER
from ferstore.train.state import unpack

LABELS = [0, 1, 2, 0]
PARTS = ["train", "train", "train", "test"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    data = training_data(tmp_path, {"pool_3": faces(LABELS, (VECTOR,))}, LABELS, PARTS)
    return job_of(tmp_path, data, "deepest", PAPER)


def read_events(folder: Path, part: str) -> list[Any]:
    (path,) = (folder / "run" / "events" / part).iterdir()
    assert "tfevents" in path.name  # what TensorBoard looks for
    tf.get_logger().setLevel("ERROR")  # summary_iterator is deprecated, and says so
    return list(tf.compat.v1.train.summary_iterator(str(path)))


def test_weights_lie_under_their_digest_and_are_what_was_given(job: Job) -> None:
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(size=shape).astype(np.float32) for name, shape in (("a/kernel", (3, 2)), ("b", (2,)))
    }
    url, digest = write_weights(job, weights)
    data = Path(url.removeprefix("file://")).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    assert url == f"{job.folder}/weights-{digest}.safetensors"
    found = unpack(data)
    assert sorted(found) == sorted(weights)
    for name in weights:
        np.testing.assert_array_equal(found[name], weights[name], strict=True)


def test_other_weights_are_another_file(job: Job, tmp_path: Path) -> None:
    one, other = (write_weights(job, {"a": np.full(2, value, np.float32)}) for value in (1, 2))
    assert write_weights(replace(job, run_id="another"), {"a": np.full(2, 1, np.float32)}) == one
    assert one != other
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_events_are_the_curve_each_part_by_itself(job: Job, tmp_path: Path) -> None:
    curve = [
        Measured(1, 1, "train", 2.5, 0.25),
        Measured(2, 1, "train", 1.5, 0.5),
        Measured(2, 1, "validation", 1.75, 0.375),
        Measured(3, 2, "train", float("nan"), 0.125),
    ]
    write_events(job, curve)
    for part in ("train", "validation"):
        first, *events = read_events(tmp_path, part)
        assert first.file_version == "brain.Event:2"
        points = [point for point in curve if point.part == part]
        assert [event.step for event in events] == [point.step for point in points]
        for event, point in zip(events, points, strict=True):
            said = {value.tag: value.simple_value for value in event.summary.value}
            assert said == pytest.approx({"loss": point.loss, "accuracy": point.accuracy}, nan_ok=True)
        times = [event.wall_time for event in (first, *events)]
        assert times == sorted(times)


def test_events_of_an_attempt_replace_those_of_the_one_before(job: Job, tmp_path: Path) -> None:
    write_events(job, [Measured(1, 1, "train", 2.5, 0.25)])
    write_events(job, [Measured(1, 1, "train", 1.5, 0.5)])
    _, event = read_events(tmp_path, "train")
    assert event.summary.value[0].simple_value == 1.5
    assert len(read_events(tmp_path, "validation")) == 1  # a part without points is a chart without points
