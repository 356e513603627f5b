"""Extraction against the bare network, bytes an image, and rows a second read back for training.

    python tests/benchmarks/extraction.py FACES [--weights W] [--images N] [--repeat R] [--precision P]

FACES is a folder in the layout of the official FERPLUS extraction. In one run, turn by turn: the bare network in a loop
over decoded batches in memory (one process, its default threads), then ``extract`` of the same images into a new store.
The steady rate of ``extract`` counts from the moment every actor has delivered its first shard. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import ferstore
from ferstore.extract import inception
from ferstore.extract.layer import LAYERS
from ferstore.extract.request import ExtractRequest
from ferstore.extract.weights import resolve
from ferstore.image.decode import pixels
from ferstore.store.files import local_path
from ferstore.store.writer import feature_values


class Clock:
    """Notes when items are done."""

    def __init__(self) -> None:
        self.events: list[tuple[float, int]] = []

    def start(self, what: str, total: int | None) -> None:
        self.events.clear()

    def advance(self, items: int) -> None:
        self.events.append((time.perf_counter(), items))

    def note(self, text: str) -> None:
        """Nothing."""

    def steady_rate(self, actors: int) -> float:
        """Items a second after the first ``actors`` shards."""
        begin = self.events[actors - 1][0]
        return sum(items for _, items in self.events[actors:]) / (self.events[-1][0] - begin)


def bare_rate(network: inception.Network, batches: list[np.ndarray], seconds: float) -> float:
    """Images a second of the network alone."""
    network(batches[0])
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for batch in batches:
            network(batch)
            done += len(batch)
    return done / (time.perf_counter() - begin)


def read_rate(store: ferstore.FeatureStore) -> float:
    """Rows of mixed_10 a second, Parquet to arrays, one process, warm, through the public pieces of the reader."""
    schema = store.store.schemas["mixed_10"]
    files = [str(local_path(f.file_path)) for f in store.store.pin().data_files("mixed_10")]
    best = 0.0
    for _ in range(3):
        rows, begin = 0, time.perf_counter()
        for file in files:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                for chunk in reader.read_row_group(group, columns=["mixed_10"]).column(0).chunks:
                    values = feature_values(schema, chunk)
                    rows += len(values)
        best = max(best, rows / (time.perf_counter() - begin))
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("faces", type=Path)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--actors", type=int)
    options = parser.parse_args()

    files = sorted(options.faces.rglob("*.png"))[:256]
    decoded = np.stack([pixels(file.read_bytes()) for file in files])
    batches = [decoded[i : i + 32] for i in range(0, len(decoded), 32)]
    inception.configure(options.precision, gpus=0, threads=None)
    weights = resolve(options.weights).load()
    layers = [LAYERS["pool_3"], LAYERS["mixed_10"]]
    network = inception.Network(layers, weights, batch_size=32, precision=options.precision)
    bare, steady = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeat):
            bare.append(bare_rate(network, batches, 15))
            store = ferstore.init(f"{folder}/{turn}")
            store.ingest("ferplus", str(options.faces))
            clock = Clock()
            request = ExtractRequest(
                weights=options.weights, limit=options.images, precision=options.precision, actors=options.actors
            )
            report = store.extract(request, progress=clock)
            steady.append(clock.steady_rate(report.actors))
        sizes = {t.name: t.nbytes / t.rows for t in store.tables() if t.name in ("pool_3", "mixed_10")}
        raw = 4 * (2048 + 8 * 8 * 2048)
        result = {
            "weights": report.extractor.weights_kind,
            "precision": options.precision,
            "images": report.computed,
            "actors": report.actors,
            "bare_images_per_s": [round(rate, 2) for rate in bare],
            "extract_steady_images_per_s": [round(rate, 2) for rate in steady],
            "ratio": [round(s / b, 3) for s, b in zip(steady, bare, strict=True)],
            "median_ratio": round(statistics.median(s / b for s, b in zip(steady, bare, strict=True)), 3),
            "bytes_per_image": {name: round(size) for name, size in sizes.items()},
            "raw_float32_over_stored": round(raw / sum(sizes.values()), 2),
            "mixed_10_rows_per_s_read_warm": round(read_rate(store)),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
