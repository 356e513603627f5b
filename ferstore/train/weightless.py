"""Heads as they are built, without values for their weights: the paper's 133 million cost no memory to be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ferstore.stderr import without_remarks
from ferstore.train.job import HeadSpec

T = TypeVar("T")


def look_at(spec: HeadSpec, see: Callable[[Any], T]) -> T:
    """What ``see`` makes of the built ``keras.Model``, of which weights have a shape and nothing else.

    Keras notes such weights, a thread by itself, to give each a value when a later scope in that thread ends. So the
    head is built in a thread of its own, with which the note ends.
    """

    def build_and_see() -> T:
        import keras

        from ferstore.train.heads import build

        with keras.StatelessScope(initialize_variables=False):
            return see(build(spec))

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_remarks():
        import keras  # noqa: F401  here, where what TensorFlow says as it is loaded is kept off the terminal
    with ThreadPoolExecutor(1, thread_name_prefix="ferstore-weightless") as thread:
        return thread.submit(build_and_see).result()
