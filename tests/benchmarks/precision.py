"""bfloat16 against float32 on a CPU: how much faster, and what becomes of the features and of a head on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

import ferstore
from ferstore.errors import InputError
from tests.benchmarks.extraction import Bare
from tests.benchmarks.filled import extract, full_store
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.row import Row
from tests.benchmarks.table import machine
from tests.benchmarks.turns import rates

FEATURES = """
    select i.label, a.pool_3 as exact, b.pool_3 as rounded
    from images i join pool_3 a using (image_id) join extractors ea on ea.extractor_id = a.extractor_id
    join pool_3 b on b.image_id = i.image_id join extractors eb on eb.extractor_id = b.extractor_id
    where ea.precision = 'float32' and eb.precision = 'bfloat16' order by i.item_id
"""
PENALTY = 1e4
FOLDS = 10
Floats = npt.NDArray[np.float64]


def rows(inputs: Inputs) -> Iterator[Row]:
    """Speed of the network, likeness of the features, and accuracy of a linear head on either."""
    faces = inputs.some_faces(inputs.of(quick=32, normal=256, full=256))
    seconds = inputs.of(quick=0.5, normal=2.0, full=15.0)
    flags = machine()["bfloat16_instructions"]
    note = f"{inputs.named}; this CPU has {', '.join(flags) if flags else 'no bfloat16 instructions'}"
    what = "the network in bfloat16 against float32, one process, all cores"
    try:
        networks = {name: Bare(inputs, faces, seconds=seconds, precision=name) for name in ("bfloat16", "float32")}
    except InputError as error:
        yield Row(what, (), (), "images/s", 1.6, note=note, missing=str(error))
        return
    found = rates({name: network.timed for name, network in networks.items()}, inputs.turns)
    yield Row(what, found["bfloat16"], found["float32"], "images/s", 1.6, note=note)
    store = full_store(inputs)
    extract(inputs, store, "--precision", "bfloat16", "--layers", "pool_3")
    data = ferstore.open(str(store)).sql(FEATURES, limits=ferstore.Limits(seconds=None)).numpy()
    exact, rounded = data["exact"].astype(np.float64), data["rounded"].astype(np.float64)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    cosines = (exact * rounded).sum(axis=1) / norms
    note = f"{len(cosines)} images; the least is {cosines.min():.5f}"
    yield Row("mean cosine of pool_3 in bfloat16 and in float32", (float(cosines.mean()),), (), "", 0.999, note=note)
    labelled = np.array([label is not None for label in data["label"]])
    labels = data["label"][labelled].astype(str)
    both = [tuple(accuracy(x[labelled], labels, seed) for seed in range(inputs.turns)) for x in (rounded, exact)]
    off = tuple(abs(a - b) for a, b in zip(*both, strict=True))
    note = (
        f"ridge on standardised pool_3, {FOLDS}-fold over {labelled.sum()} labelled images, {inputs.turns} shuffles; "
        f"bfloat16 {np.mean(both[0]):.2f} %, float32 {np.mean(both[1]):.2f} %"
    )
    yield Row(
        "accuracy of a linear head on bfloat16 less that on float32", off, (), "points", 0.5, higher=False, note=note
    )


def accuracy(x: Floats, labels: npt.NDArray[np.str_], seed: int) -> float:
    """Per cent right, each image by a head that was fitted without it."""
    classes = np.unique(labels)
    targets = (labels[:, None] == classes[None, :]).astype(np.float64)
    fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    right = 0
    for number in range(FOLDS):
        train, test = x[fold != number], x[fold == number]
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1)
        train, test = (train - mean) / scale, (test - mean) / scale
        wanted = targets[fold != number]
        offset = wanted.mean(axis=0)
        # With fewer images than values, the smaller system of ridge regression.
        dual = np.linalg.solve(train @ train.T + PENALTY * np.eye(len(train)), wanted - offset)
        found = classes[(test @ (train.T @ dual) + offset).argmax(axis=1)]
        right += int((found == labels[fold == number]).sum())
    return 100 * right / len(x)
