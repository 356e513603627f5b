"""Files that a training leaves beside its tables: the head's weights, and its curves for TensorBoard."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.util.event_pb2 import Event

from ferstore.store.files import write_file
from ferstore.train.job import Job, Measured
from ferstore.train.state import State, pack


def write_weights(job: Job, weights: State) -> tuple[str, str]:
    """The head's weights as a file of the training: URL and SHA-256, which is in its name too."""
    data = pack(weights)  # no run in it: equal weights are equal files
    digest = hashlib.sha256(data).hexdigest()
    url = f"{job.folder}/weights-{digest}.safetensors"
    write_file(url, data)
    return url, digest


def write_events(job: Job, curve: Sequence[Measured]) -> None:
    """The curves as TensorBoard event files, train and validation as two runs of one chart.

    ``tf.summary`` needs the package tensorboard; records of the protocol buffer that both share do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        for part in ("train", "validation"):
            path = Path(folder, part)
            with tf.io.TFRecordWriter(str(path)) as out:
                out.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
                for point in curve:
                    if point.part == part:
                        event = Event(wall_time=time.time(), step=point.step)
                        event.summary.value.add(tag="loss", simple_value=point.loss)
                        event.summary.value.add(tag="accuracy", simple_value=point.accuracy)
                        out.write(event.SerializeToString())
            write_file(f"{job.folder}/events/{part}/events.out.tfevents.{0:010d}.ferstore", path.read_bytes())
