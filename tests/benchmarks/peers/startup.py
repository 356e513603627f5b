"""What a start of an extraction cannot do without, one after the other: ``startup.py WEIGHTS`` prints seconds of each.

Ray with one worker process that answers; importing TensorFlow; building the network and computing its first batch.
"""

from __future__ import annotations

import os
import sys
import time

clock = time.perf_counter()
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray  # noqa: E402

ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=512 << 20)


@ray.remote
def answer() -> None:
    """Nothing."""


ray.get(answer.remote())
print("ray", time.perf_counter() - clock)

clock = time.perf_counter()
from ferstore.extract import inception  # noqa: E402  with TensorFlow and Keras

print("tensorflow", time.perf_counter() - clock)

import numpy as np  # noqa: E402

from ferstore.extract.layer import LAYERS  # noqa: E402
from ferstore.extract.weights import resolve  # noqa: E402

clock = time.perf_counter()
inception.configure("float32", gpus=0, threads=None)
layers = [LAYERS["pool_3"], LAYERS["mixed_10"]]
network = inception.Network(layers, resolve(sys.argv[1]).load(), batch_size=32, precision="float32")
network(np.zeros((32, 299, 299, 3), np.uint8))
print("network", time.perf_counter() - clock)
ray.shutdown()
