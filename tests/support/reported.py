"""A small store for tests of the report: its trainings are rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from drawn import picture
from trained import NOW, together, training, training_set

from ferstore.api import FeatureStore
from ferstore.store.store import init_store
from ferstore.train.recipe import MODERN, PAPER
from ferstore.train.request import TrainRequest

CLASSES = ("<b>angry</b>", "happy & glad", "sad")
HOSTILE = "<script>alert(1)</script>.png"
REAL, RANDOM = "e" * 16, "0" * 16
SECRETS = ("hunter2", "s3cr3t")


@dataclass(frozen=True)
class Filled:
    """A store and the folder of its faces."""

    api: FeatureStore
    faces: Path


def name(number: int) -> str:
    return HOSTILE if number == 4 else f"{number:03}.png"


def report_store(folder: Path, put: Callable[..., Any]) -> Filled:
    """Three training sets: two seeds of all experiments; two folds on random weights; one without a training."""
    store = init_store(str(folder / "store"))
    faces = folder / "faces"
    faces.mkdir()
    ids = []
    for number in range(12):
        data = picture(number, 80)
        (faces / f"{number}.png").write_bytes(data)
        ids.append(hashlib.sha256(data).hexdigest())
    images = [
        {"dataset": "faces", "item_id": name(n), "image_id": ids[n], "source_url": f"file://{faces}/{n}.png"}
        | {"label": CLASSES[n % 3], "subject": f"s{n % 2}"}
        for n in range(12)
    ]
    url = f"https://me:{SECRETS[0]}@host/faces.zip?token={SECRETS[1]}"
    runs = [
        {"run_id": "i", "command": "ingest", "state": "done", "dataset": "faces", "started_at": NOW}
        | {"arguments": json.dumps({"kind": "jaffe", "url": url, "name": "faces"})},
    ]
    values = np.random.default_rng(0).random((12, 2048))
    pool_3 = [{"image_id": ids[n], "extractor_id": REAL, "view": "identity", "pool_3": values[n]} for n in range(12)]
    kinds = [{"extractor_id": REAL, "weights": url, "weights_kind": "file", "weights_sha256": "a" * 64}]
    kinds += [{"extractor_id": RANDOM, "weights": "random", "weights_kind": "random", "seed": 3}]
    sets = [training_set("parts", CLASSES), training_set("folded", CLASSES, protocol="subject", folds=2)]
    sets += [training_set("bare", CLASSES, dataset="others")]
    parts = ["test"] * 6 + ["train"] * 4 + ["validation"] * 2
    items = [
        {"training_set": s, "dataset": "faces", "item_id": name(n), "image_id": ids[n], "part": parts[n], "fold": fold}
        | {"label": CLASSES[0 if n < 3 else 1], "soft_label": [1.0, 0.0, 0.0]}
        for s, fold in (("parts", 0), ("folded", 0), ("folded", 1))
        for n in range(12)
    ]
    leak = {"training_set": "parts", "kind": "same_subject", "item_id": "001.png", "part": "test"}
    own: dict[str, Any] = {"classes": CLASSES, "names": name, "images": ids.__getitem__, "extractor": REAL}
    versions = {"parameters": 5, "seconds": 1.5, "versions": {"keras": "3.15.1"}}
    said = {  # letters are classes: item, answer; no item of the third class is there
        ("deepest", 0): "aa ab ab bb ba bb",  # 3 of 6
        ("deepest", 1): "aa aa ab bb ba bb",  # 4 of 6
        ("sub_deep", 0): "aa aa ab bb ba bb",
        ("sub_deep", 1): "aa aa ab bb bb bb",
        ("fusion", 0): "aa aa ab bb bb bc",  # fixes 1 and 4, breaks 5
        ("fusion", 1): "aa aa aa ba bb bb",  # fixes 2 and 4, breaks 3
        ("fusion", 2): "aa aa aa bb bb bb",  # no deepest of that seed
    }
    made = [
        training(TrainRequest(e, "parts", fold=0, seed=s), f"parts-{e}-{s}", text, later=n, details=versions, **own)
        for n, ((e, s), text) in enumerate(said.items())
    ]
    made += [training(TrainRequest("deepest", "parts", fold=0), "parts-older", "ab ab ab ba ba ba", later=-9, **own)]
    made += [
        training(
            TrainRequest(
                "deepest",
                "parts",
                fold=0,
                recipe=replace(PAPER, steps=10),
                views=("identity", "hflip"),
                layers=("pool_3", "mixed_9_mean", "mixed_8_mean", "mixed_7_mean"),  # a long word on the page
            ),
            "parts-steps",
            "aa aa aa bb bb bb",
            **own,
        )
    ]
    diverged = training(
        TrainRequest("sub_deep", "parts", fold=0, seed=5), "parts-diverged", "", state="failed",
        error="diverged: the loss of update 6 is not a number", **own,
    )  # fmt: skip
    diverged.rows["metrics"][-1]["loss"] = float("nan")
    own["extractor"] = RANDOM
    for fold, text in ((0, "aa ab"), (1, "bb bb ba")):
        asked = TrainRequest("sub_deep", "folded", fold=fold, width=64, recipe=MODERN)
        made.append(training(asked, f"folded-{fold}", text, first=3 * fold, later=20 + fold, **own))
    rows = together(*made, diverged, images=images, runs=runs, pool_3=pool_3, extractors=kinds, training_sets=sets)
    put(store, **rows, training_set_items=items, training_set_leaks=[leak])
    return Filled(FeatureStore(store), faces)
