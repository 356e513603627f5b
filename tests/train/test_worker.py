"""A worker's training is the same whether it is killed or not, keeps its best weights, and says when it diverged."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from train_job import (
    CLASSES,
    MAP,
    VECTOR,
    Killed,
    MemoryLink,
    assert_same,
    faces,
    job_of,
    saving_conv4,
    trainer_of,
    training_data,
)

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from ferstore.errors import CorruptionError, TrainError
from ferstore.store.files import file_digest, recorded_digest
from ferstore.store.rows import read_file
from ferstore.train import worker
from ferstore.train.conv4 import CONV4, CONV4_VALUES
from ferstore.train.data import TrainingData
from ferstore.train.job import Job, Measured, Outcome, scores
from ferstore.train.recipe import MODERN, PAPER, Recipe, derived_seed
from ferstore.train.state import State, unpack
from ferstore.train.worker import work

PARTS = ["train"] * 12 + ["validation"] * 4 + ["test"] * 5
LABELS = [n % len(CLASSES) for n in range(len(PARTS))]
SHORT = replace(PAPER, steps=None, epochs=9, batch_size=4)
EVERYTHING = replace(MODERN, batch_norm=True, epochs=9, batch_size=4, hidden=8, patience=0, standardise=False)
FEW = replace(PAPER, steps=None, epochs=2, batch_size=6, learning_rate=0.001)  # on maps, where an update takes longer
BOTH = ("identity", "hflip")


@pytest.fixture
def vectors(tmp_path: Path) -> TrainingData:
    return training_data(tmp_path / "vectors", {"pool_3": faces(LABELS, (VECTOR,))}, LABELS, PARTS)


@pytest.fixture
def maps(tmp_path: Path) -> TrainingData:
    """Two views; the first test image and the first train image are two items each."""
    images = [f"image-{n:03}" for n in range(len(PARTS))]
    images[1], images[17] = images[0], images[16]
    values = faces(LABELS * 2, MAP)
    return training_data(tmp_path / "maps", {"mixed_10": values}, LABELS, PARTS, views=BOTH, images=images)


@pytest.fixture
def eagerly() -> Iterator[None]:
    """For heads whose graphs take longer to trace than their few updates to make."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def begun(job: Job, link: MemoryLink | None = None, **place: int) -> Outcome:
    """The work of a new process."""
    keras.utils.clear_session(free_memory=False)  # Keras numbers its objects over the whole process
    return work(job, link or MemoryLink(), **place)


def weights(outcome: Outcome) -> State:
    return unpack(Path(outcome.weights.removeprefix("file://")).read_bytes())


def assert_same_outcome(one: Outcome, other: Outcome) -> None:
    assert one.curve == other.curve
    assert one.probabilities is not None
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert (one.steps, one.best_step, one.parameters) == (other.steps, other.best_step, other.parameters)
    assert one.weights_sha256 == other.weights_sha256
    assert_same(weights(one), weights(other))


def points(outcome: Outcome, part: str) -> list[Measured]:
    return [point for point in outcome.curve if point.part == part]


def predicted(job: Job, kept: State) -> tuple[Any, Any]:
    """Probabilities and conv4 of every example, by a head with the weights that were handed in."""
    spec = job.spec
    trainer = trainer_of(spec.recipe, experiment=spec.experiment, shapes=spec.shapes, width=spec.width, seed=spec.seed)
    trainer.load_weights(kept)
    values = faces(LABELS * len(job.data.views), next(iter(spec.shapes.values())))
    name = next(iter(spec.shapes))
    stored = values.astype(np.float16) if name == "mixed_10" else values
    return trainer.predict({name: stored})


def test_a_training_makes_its_updates_and_notes_each(vectors: TrainingData, tmp_path: Path) -> None:
    link = MemoryLink()
    uneven = replace(SHORT, batch_size=5)  # 3 batches an epoch, the last of 2
    outcome = begun(job_of(tmp_path, vectors, "deepest", uneven), link)
    assert list(outcome.curve) == link.told
    assert [point.step for point in points(outcome, "train")] == list(range(1, 28))
    assert [point.epoch for point in points(outcome, "train")] == [1 + step // 3 for step in range(27)]
    assert [(point.step, point.epoch) for point in points(outcome, "validation")] == [(21, 7), (27, 9)]
    assert (outcome.steps, outcome.best_step, outcome.attempts) == (27, 27, 0)
    assert outcome.parameters == VECTOR * len(CLASSES) + len(CLASSES)
    assert outcome.conv4 == ()
    assert link.saves == 27
    assert (tmp_path / "run" / "events" / "validation").is_dir()


def test_predictions_are_of_the_weights_that_are_handed_in(vectors: TrainingData, tmp_path: Path) -> None:
    job = job_of(tmp_path, vectors, "deepest", SHORT)
    outcome = begun(job)
    assert outcome.probabilities is not None
    assert outcome.probabilities.shape == (len(PARTS), len(CLASSES))
    assert np.isnan(outcome.probabilities[:12]).all()  # train is not evaluated
    expected, _ = predicted(job, weights(outcome))
    np.testing.assert_allclose(outcome.probabilities[12:], expected[12:], rtol=1e-5, atol=1e-7)
    assert file_digest(outcome.weights)[0] == outcome.weights_sha256
    loss, accuracy = scores(outcome.probabilities[12:16], vectors.targets("hard")[12:16], vectors.labels[12:16])
    last = points(outcome, "validation")[-1]
    assert (last.loss, last.accuracy) == (loss, accuracy)


def interrupted(job: Job, deaths: Sequence[int]) -> Outcome:
    kept = None
    for step in deaths:
        link = MemoryLink(step, kept)
        with pytest.raises(Killed):
            begun(job, link)
        kept = link.kept
    return begun(job, MemoryLink(kept=kept))


def test_a_killed_training_ends_as_the_undisturbed_one(vectors: TrainingData, tmp_path: Path) -> None:
    job = job_of(tmp_path, vectors, "deepest", EVERYTHING)
    undisturbed = begun(job)
    # Before the first checkpoint; in the middle of an epoch and at a validation; at the last update.
    for deaths in [(1,), (5, 21), (27,)]:
        outcome = interrupted(job, deaths)
        assert_same_outcome(outcome, undisturbed)
        assert outcome.attempts == sum(step > 1 for step in deaths)


@pytest.mark.usefixtures("eagerly")
def test_a_killed_training_on_maps_ends_as_the_undisturbed_one(maps: TrainingData, tmp_path: Path) -> None:
    recipe = replace(FEW, batch_norm=True, dropout=0.5, schedule="cosine")
    job = saving_conv4(job_of(tmp_path, maps, "sub_deep", recipe), tmp_path)
    undisturbed = begun(job)
    outcome = interrupted(job, (6,))
    assert outcome.attempts == 1
    assert_same_outcome(outcome, undisturbed)
    assert [file.sha256 for file in outcome.conv4] == [file.sha256 for file in undisturbed.conv4]


def test_a_finished_training_that_is_begun_again_only_predicts(vectors: TrainingData, tmp_path: Path) -> None:
    job = job_of(tmp_path, vectors, "deepest", SHORT)
    link = MemoryLink()
    undisturbed = begun(job, link)
    again = MemoryLink(kept=link.kept)
    assert_same_outcome(begun(job, again), undisturbed)
    assert again.told == []


def test_checkpoints_are_no_more_frequent_than_is_asked_for(vectors: TrainingData, tmp_path: Path) -> None:
    link = MemoryLink()
    begun(job_of(tmp_path, vectors, "deepest", SHORT, checkpoint_seconds=3600.0), link)
    assert link.saves == 0


def test_a_checkpoint_of_another_head_is_refused(vectors: TrainingData, tmp_path: Path) -> None:
    link = MemoryLink(2)
    with pytest.raises(Killed):
        begun(job_of(tmp_path, vectors, "deepest", SHORT), link)
    kept = link.kept
    other = job_of(tmp_path, vectors, "deepest", replace(SHORT, hidden=4))
    assert kept is not None
    with pytest.raises(TrainError, match="another head's"):
        begun(other, MemoryLink(kept=kept))


# Train and validation disagree about every label, so what is learnt makes validation worse.
AGAINST = LABELS[:12] + [(label + 1) % len(CLASSES) for label in LABELS[12:]]
PATIENT = replace(SHORT, epochs=200, patience=2, learning_rate=0.002)


@pytest.fixture
def turning(tmp_path: Path) -> TrainingData:
    """Validation gets better at first and worse later: half of it agrees with train."""
    labels = LABELS[:14] + AGAINST[14:16] + LABELS[16:]
    return training_data(tmp_path / "turning", {"pool_3": faces(LABELS, (VECTOR,), noise=1)}, labels, PARTS)


def test_an_early_stop_keeps_the_best_weights(turning: TrainingData, tmp_path: Path) -> None:
    job = job_of(tmp_path, turning, "deepest", PATIENT)
    outcome = begun(job)
    losses = {point.step: point.loss for point in points(outcome, "validation")}
    assert outcome.best_step == min(losses, key=losses.__getitem__)
    assert outcome.steps == outcome.best_step + 2 * 21 < 600
    assert outcome.best_step > 21
    until_best = replace(PATIENT, patience=0, epochs=None, steps=outcome.best_step)
    known = begun(job_of(tmp_path / "known", turning, "deepest", until_best))
    assert_same(weights(outcome), weights(known))
    np.testing.assert_array_equal(outcome.probabilities, known.probabilities)


def test_a_kill_after_the_best_weights_does_not_lose_them(turning: TrainingData, tmp_path: Path) -> None:
    job = job_of(tmp_path, turning, "deepest", PATIENT)
    undisturbed = begun(job)
    assert_same_outcome(interrupted(job, (undisturbed.best_step + 1, undisturbed.steps)), undisturbed)


def test_without_patience_the_last_weights_are_kept(turning: TrainingData, tmp_path: Path) -> None:
    outcome = begun(job_of(tmp_path, turning, "deepest", replace(PATIENT, patience=0, epochs=60)))
    losses = {point.step: point.loss for point in points(outcome, "validation")}
    assert min(losses, key=losses.__getitem__) < outcome.steps == outcome.best_step == 180


def test_validation_measures_against_the_recipes_own_targets(vectors: TrainingData, tmp_path: Path) -> None:
    outcome = begun(job_of(tmp_path, vectors, "deepest", replace(SHORT, targets="soft")))
    assert outcome.probabilities is not None
    loss, _ = scores(outcome.probabilities[12:16], vectors.soft_labels[12:16], vectors.labels[12:16])
    assert points(outcome, "validation")[-1].loss == loss


def test_rare_classes_weigh_as_the_recipe_says(tmp_path: Path) -> None:
    labels = [0] * 10 + [1, 2] + LABELS[12:]
    data = training_data(tmp_path / "rare", {"pool_3": faces(labels, (VECTOR,))}, labels, PARTS)
    recipe = replace(SHORT, epochs=1)
    plain, balanced = (
        begun(job_of(tmp_path, data, "deepest", replace(recipe, class_balance=balance))) for balance in (0.0, 1.0)
    )
    assert plain.weights_sha256 != balanced.weights_sha256


def test_order_and_dropout_have_seeds_of_their_own(vectors: TrainingData, tmp_path: Path) -> None:
    assert derived_seed(0, "order") != derived_seed(0, "dropout")
    one, other = (begun(job_of(tmp_path, vectors, "deepest", SHORT, seed=seed)) for seed in (1, 2))
    assert one.weights_sha256 != other.weights_sha256


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_training_whose_figures_are_no_numbers_hands_in_its_curve_only(part: str, tmp_path: Path) -> None:
    values = faces(LABELS, (VECTOR,))
    values[PARTS.index(part)] = np.inf
    data = training_data(tmp_path / "infinite", {"pool_3": values}, LABELS, PARTS)
    recipe = replace(SHORT, batch_size=1, epochs=2)
    link = MemoryLink()
    outcome = begun(saving_conv4(job_of(tmp_path, data, "deepest", recipe), tmp_path), link)
    assert outcome.probabilities is None
    assert (outcome.weights, outcome.weights_sha256, outcome.conv4) == ("", "", ())
    train = points(outcome, "train")
    assert len(train) == outcome.steps == len(link.told) - len(points(outcome, "validation"))
    assert all(math.isfinite(point.loss) for point in train[:-1])
    if part == "train":
        assert math.isnan(train[-1].loss)
        assert outcome.steps <= 12
    else:
        assert outcome.steps == 24
    assert (tmp_path / "run" / "events" / "train").is_dir()


@pytest.mark.usefixtures("eagerly")
def test_a_learning_rate_far_too_large_is_noticed(tmp_path: Path) -> None:
    values = np.float32(1e18) * faces(LABELS, MAP)
    data = training_data(tmp_path / "huge", {"mixed_10": values}, LABELS, PARTS)
    outcome = begun(job_of(tmp_path, data, "sub_deep", replace(FEW, epochs=4, learning_rate=10.0)))
    assert outcome.probabilities is None
    assert outcome.steps < 16


def conv4_rows(outcomes: Sequence[Outcome]) -> pa.Table:
    tables = []
    for file in (file for outcome in outcomes for file in outcome.conv4):
        assert recorded_digest(file.url) == file.sha256 == file_digest(file.url)[0]
        rows = read_file(file.url)
        assert len(rows) == file.rows
        tables.append(rows)
    return pa.concat_tables(tables)


@pytest.mark.usefixtures("eagerly")
def test_workers_hand_in_one_row_of_conv4_an_image_and_view(maps: TrainingData, tmp_path: Path) -> None:
    job = saving_conv4(job_of(tmp_path, maps, "sub_deep", replace(FEW, epochs=None, steps=1)), tmp_path)
    outcomes = [begun(job, rank=rank, world=3) for rank in range(3)]
    rows = conv4_rows(outcomes)
    keys = list(zip(rows["image_id"].to_pylist(), rows["view"].to_pylist(), strict=True))
    assert sorted(keys) == sorted((image, view) for image in set(maps.image_ids) for view in BOTH)
    assert set(rows["run_id"].to_pylist()) == {"run"}
    assert all(outcome.conv4 for outcome in outcomes)
    assert all(outcome.probabilities is None and not outcome.weights for outcome in outcomes[1:])


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("rows_a_file", [10, 4096])
def test_conv4_and_probabilities_are_of_the_weights_that_are_handed_in(
    rows_a_file: int, maps: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CONV4_ROWS", rows_a_file)
    monkeypatch.setattr(worker, "_PREDICT_BATCH", 8)
    job = saving_conv4(job_of(tmp_path, maps, "sub_deep", FEW), tmp_path)
    outcome = begun(job)
    shares, conv4 = predicted(job, weights(outcome))
    assert outcome.probabilities is not None
    mean = shares.reshape(2, len(PARTS), -1).mean(axis=0)
    np.testing.assert_allclose(outcome.probabilities[12:], mean[12:], rtol=1e-4, atol=1e-6)
    assert np.abs(shares[12:21] - shares[33:]).max() > 1e-4  # the views differ
    files = [file.rows for file in outcome.conv4]
    assert sum(files) == 2 * len(set(maps.image_ids))
    assert all(10 <= rows < 18 for rows in files[:-1])
    assert (len(files) > 1) == (rows_a_file == 10)
    for row in conv4_rows([outcome]).to_pylist():
        example = BOTH.index(row["view"]) * len(PARTS) + maps.image_ids.index(row["image_id"])
        assert len(row["conv4"]) == CONV4_VALUES
        np.testing.assert_allclose(row["conv4"], conv4[example], rtol=1e-3, atol=1e-5)


def test_a_fusion_reads_conv4_beside_its_vectors(tmp_path: Path) -> None:
    layers = {CONV4: faces(LABELS, (CONV4_VALUES,)), "pool_3": faces(LABELS, (CONV4_VALUES,), seed=1)}
    data = training_data(tmp_path / "both", layers, LABELS, PARTS)
    outcome = begun(job_of(tmp_path, data, "fusion", replace(SHORT, learning_rate=0.001)))
    assert outcome.probabilities is not None
    assert points(outcome, "train")[-1].accuracy == 1
    assert (outcome.probabilities[16:].argmax(axis=1) == LABELS[16:]).all()


def test_a_lost_file_of_features_is_a_corruption(maps: TrainingData, tmp_path: Path) -> None:
    (tmp_path / "maps" / "mixed_10.parquet").unlink()
    with pytest.raises(CorruptionError, match=r"mixed_10\.parquet cannot be read"):
        begun(job_of(tmp_path, maps, "sub_deep", SHORT))


def test_the_watch_over_a_worker_ends_with_it(vectors: TrainingData, tmp_path: Path) -> None:
    begun(job_of(tmp_path, vectors, "deepest", replace(SHORT, epochs=1)))
    watches = [thread for thread in threading.enumerate() if thread.name == "ferstore-watchdog"]
    for thread in watches:
        thread.join(10)
        assert not thread.is_alive()


def test_recipes_with_every_option_run(vectors: TrainingData, tmp_path: Path) -> None:
    recipes: list[Recipe] = [
        replace(EVERYTHING, epochs=1, loss="focal", class_balance=0.5, targets="hard"),
        replace(EVERYTHING, epochs=1, loss="margin", patience=1),
    ]
    for recipe in recipes:
        assert begun(job_of(tmp_path, vectors, "deepest", recipe)).probabilities is not None
