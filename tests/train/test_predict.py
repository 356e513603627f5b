"""A picture is classified with the very weights that a training left, as the training itself classified it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from train_job import CLASSES, Floats, MemoryLink, faces

from ferstore.errors import CorruptionError, InputError
from ferstore.progress import Silent
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.train import run as run_module
from ferstore.train.predict import Classifier
from ferstore.train.recipe import MODERN, PAPER
from ferstore.train.request import TrainReport, TrainRequest
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split
from ferstore.train.worker import work

COUNT = 15
LABELS = [n % len(CLASSES) for n in range(COUNT)]
QUICK = replace(PAPER, steps=6, batch_size=6, learning_rate=0.001)
Put = Callable[..., Pin]


def image(number: int) -> dict[str, Any]:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return {
        "dataset": "set",
        "item_id": f"{number:03}.png",
        "image_id": digest,
        "source_url": "memory://x",
        "perceptual_hash": digest[:16],
        "label": CLASSES[LABELS[number]],
    }


def features(layer: str, values: Floats, view: str = "identity") -> list[dict[str, Any]]:
    return [
        {"image_id": image(number)["image_id"], "extractor_id": "e", "view": view, layer: value}
        for number, value in enumerate(values)
    ]


def filled(folder: Path, put: Put, **layers: Any) -> Store:
    store = init_store(str(folder / "store"))
    put(store, images=[image(number) for number in range(COUNT)], **layers)
    split(store, SplitRequest("parts", "set", "random"))
    return store


POOL_3 = faces(LABELS, (2048,))


@pytest.fixture
def store(tmp_path: Path, put: Put) -> Store:
    return filled(tmp_path, put, pool_3=features("pool_3", POOL_3))


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainReport]:
    """What ``ferstore train`` does, with the one worker in this process instead of Ray's."""

    def fit(store: Store, plan: Any, run: Any, moments: Any, *rest: Any) -> Any:
        return [work(run_module._job(store, plan, run, moments), MemoryLink())]

    monkeypatch.setattr(run_module, "_fit", fit)

    def trained(store: Store, experiment: Any, **other: Any) -> TrainReport:
        request = TrainRequest(experiment, "parts", fold=0, **{"recipe": QUICK, **other})
        request.check()
        (plan,) = run_module.plan_folds(store, request)
        return run_module._train_one(store, plan, None, 1, Silent())

    return trained


def predictions(store: Store, run_id: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_rows(
        store, store.pin(), "predictions", where=pc.field("run_id") == run_id
    ).to_pylist()
    assert len(rows) > 2
    return rows


def probabilities(classifier: Classifier, found: Any) -> list[float]:
    return [found.probabilities[name] for name in classifier.classes]


@pytest.mark.parametrize(
    "recipe", [QUICK, replace(MODERN, batch_norm=True, epochs=2, hidden=8, batch_size=6, patience=0)]
)
def test_a_stored_image_is_classified_as_the_training_did(
    recipe: Any, store: Store, train: Callable[..., TrainReport]
) -> None:
    run_id = train(store, "deepest", recipe=recipe).run_id
    assert run_id is not None
    classifier = Classifier(store, run_id)
    assert classifier.classes == CLASSES
    assert (classifier.layers, classifier.views, classifier.extractor_id) == (("pool_3",), ("identity",), "e")
    for row in predictions(store, run_id):
        number = int(row["item_id"][:3])
        found = classifier.classify("x.png", {"identity": {"pool_3": POOL_3[number]}})
        assert (found.url, found.predicted, found.error) == ("x.png", row["predicted"], None)
        # To rounding: a matrix product over one example adds up in another order than over a batch.
        np.testing.assert_allclose(probabilities(classifier, found), row["probabilities"], rtol=1e-4, atol=1e-6)


def weights_file(store: Store, run_id: str) -> Path:
    (path,) = (Path(store.url.removeprefix("file://")) / "training" / run_id).glob("weights-*")
    return path


def test_weights_that_changed_since_are_refused(store: Store, train: Callable[..., TrainReport]) -> None:
    run_id = train(store, "deepest").run_id
    assert run_id is not None
    path = weights_file(store, run_id)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # still weights, but of another head
    path.write_bytes(data)
    pictures = {"identity": {"pool_3": POOL_3[0]}}
    with pytest.raises(CorruptionError, match="differs from its digest"):
        Classifier(store, run_id).classify("x.png", pictures)
    path.unlink()
    with pytest.raises(CorruptionError, match="cannot be read"):
        Classifier(store, run_id).classify("x.png", pictures)


def test_both_heads_of_a_fusion_classify_from_pictures_features_and_average_their_views(
    tmp_path: Path, put: Put, train: Callable[..., TrainReport]
) -> None:
    views = ("identity", "hflip")
    maps = {view: np.abs(faces(LABELS, (8, 8, 2048), seed=at)) for at, view in enumerate(views)}
    vectors = {view: values.mean(axis=(1, 2)) for view, values in maps.items()}
    layers = {
        "mixed_10": [row for view in views for row in features("mixed_10", maps[view], view)],
        "pool_3": [row for view in views for row in features("pool_3", vectors[view], view)],
    }
    store = filled(tmp_path, put, **layers)
    small = {"recipe": replace(QUICK, steps=2), "views": views, "width": 2}
    sub_deep = train(store, "sub_deep", **small).run_id
    fusion = train(store, "fusion", **small).run_id
    assert sub_deep is not None
    assert fusion is not None
    classifier = Classifier(store, fusion)
    assert (sorted(classifier.layers), classifier.views) == (["mixed_10", "pool_3"], views)
    for row in predictions(store, fusion):
        number = int(row["item_id"][:3])
        own = {view: {"mixed_10": maps[view][number], "pool_3": vectors[view][number]} for view in views}
        found = classifier.classify("x.png", own)
        assert found.predicted == row["predicted"]
        np.testing.assert_allclose(probabilities(classifier, found), row["probabilities"], rtol=1e-4, atol=1e-6)
    as_stored = {
        view: {"mixed_10": one["mixed_10"].astype(np.float16).astype(np.float32), "pool_3": one["pool_3"]}
        for view, one in own.items()
    }
    assert (as_stored["identity"]["mixed_10"] != own["identity"]["mixed_10"]).any()
    assert classifier.classify("x.png", as_stored) == found
    swapped = {"identity": own["hflip"], "hflip": own["hflip"]}
    assert classifier.classify("x.png", swapped) != found

    path = weights_file(store, sub_deep)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CorruptionError, match="differs from its digest"):
        Classifier(store, fusion).classify("x.png", own)


def test_a_training_that_is_not_done_has_no_classifier(store: Store, train: Callable[..., TrainReport]) -> None:
    running = new_run("train", TrainRequest("deepest", "parts", fold=0).arguments(), dataset="set")
    record_run(store, running, "running", details={"conv4_run": None})
    with pytest.raises(InputError, match=f"training {running.run_id} is running and left no weights"):
        Classifier(store, running.run_id)
    with pytest.raises(InputError, match="no training 'x'; allowed: .*" + running.run_id):
        Classifier(store, "x")


def test_a_diverged_training_has_no_classifier(tmp_path: Path, put: Put, train: Callable[..., TrainReport]) -> None:
    infinite = POOL_3.copy()
    infinite[:, 0] = np.inf
    store = filled(tmp_path, put, pool_3=features("pool_3", infinite))
    report = train(store, "deepest")
    assert report.state == "diverged"
    assert report.run_id is not None
    with pytest.raises(InputError, match="is failed and left no weights"):
        Classifier(store, report.run_id)


def test_a_picture_that_cannot_be_read_is_said_so(store: Store, train: Callable[..., TrainReport]) -> None:
    run_id = train(store, "deepest").run_id
    assert run_id is not None
    found = Classifier(store, run_id).failed("x.png", InputError("x.png is no picture", hint="give another"))
    assert (found.url, found.predicted, found.probabilities, found.error) == ("x.png", None, {}, "x.png is no picture")
