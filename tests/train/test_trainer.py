"""Updates are exact: the same bits again, after a restart, and (to rounding) however a batch is spread over workers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from train_job import CLASSES, MAP, VECTOR, Floats, assert_same, batch_of, faces, trainer_of

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from ferstore.errors import TrainError
from ferstore.train.heads import build
from ferstore.train.moments import Moments
from ferstore.train.recipe import MODERN, PAPER, Recipe, derived_seed
from ferstore.train.trainer import Trainer, configure

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
EVERYTHING = replace(MODERN, batch_norm=True, hidden=8, standardise=False)  # AdamW, cosine, dropout, smoothing too
FEATURES = {"pool_3": faces(LABELS, (VECTOR,))}
MAPS = {"mixed_10": faces(LABELS, MAP)}
SUB_DEEP: Mapping[str, Any] = {"experiment": "sub_deep", "shapes": {"mixed_10": MAP}}
HEADS = pytest.mark.parametrize(
    ("recipe", "head", "features"),
    [
        (PAPER, {}, FEATURES),
        (EVERYTHING, {}, FEATURES),
        (replace(EVERYTHING, loss="margin"), {"precision": "mixed_bfloat16"}, FEATURES),
        (EVERYTHING, SUB_DEEP, MAPS),
    ],
    ids=["paper", "modern", "margin-bfloat16", "modern-table-1"],
)


def another_process() -> None:
    """Keras numbers its objects over the whole process; another one begins again."""
    keras.utils.clear_session(free_memory=False)


def run(trainer: Trainer, features: Mapping[str, Floats], steps: range) -> list[tuple[float, float, float]]:
    return [trainer.step(number, batch_of(features)) for number in steps]


@HEADS
def test_the_same_bits_come_again_and_after_a_restart(
    recipe: Recipe, head: dict[str, Any], features: Mapping[str, Floats]
) -> None:
    another_process()
    undisturbed = trainer_of(recipe, **head)
    expected = run(undisturbed, features, range(5))
    another_process()
    killed = trainer_of(recipe, **head)
    assert run(killed, features, range(5)) == expected
    assert_same(killed.state(), undisturbed.state())

    another_process()
    resumed = trainer_of(recipe, **head)
    resumed.load_state(killed.state())
    assert_same(resumed.state(), undisturbed.state())
    assert run(resumed, features, range(5, 10)) == run(undisturbed, features, range(5, 10))
    assert_same(resumed.state(), undisturbed.state())
    for mine, theirs in zip(resumed.predict(features), undisturbed.predict(features), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_another_seed_is_another_training() -> None:
    one, other = (trainer_of(seed=seed) for seed in (1, 2))
    assert (one.predict(FEATURES)[0] != other.predict(FEATURES)[0]).any()


def test_another_seed_drops_other_activations() -> None:
    one, other = (trainer_of(replace(PAPER, dropout=0.5), seed=seed) for seed in (1, 2))
    other.load_weights(one.weights())
    assert one.step(0, batch_of(FEATURES)) != other.step(0, batch_of(FEATURES))


def test_every_update_drops_other_activations() -> None:
    trainer = trainer_of(replace(PAPER, dropout=0.5, schedule="cosine"), total=10)
    told = [trainer.step(number, batch_of(FEATURES))[0] for number in (10, 10, 30)]  # at a rate of 0
    assert told[0] == told[1] != told[2]


def test_state_is_a_copy_of_its_moment() -> None:
    trainer = trainer_of()
    before = trainer.state()
    kept = {name: value.copy() for name, value in before.items()}
    run(trainer, FEATURES, range(1))
    assert_same(before, kept)


def test_the_head_learns_what_can_be_learnt() -> None:
    for rate, head, features in ((0.05, {}, FEATURES), (0.003, {**SUB_DEEP, "width": 8}, MAPS)):
        trainer = trainer_of(replace(PAPER, learning_rate=rate), **head)
        curve = run(trainer, features, range(40))
        assert curve[-1][0] < 0.2 < curve[0][0]
        assert curve[-1][1] == 1
        assert (trainer.predict(features)[0].argmax(axis=1) == LABELS).all()


def test_what_a_step_tells_is_of_the_weights_before_it() -> None:
    trainer = trainer_of()
    shares, conv4 = trainer.predict(FEATURES)
    assert conv4 is None
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    loss, accuracy, flags = trainer.step(0, batch_of(FEATURES), 3.0)
    assert loss == pytest.approx(-np.log(shares[np.arange(8), LABELS]).mean(), rel=1e-5)
    assert accuracy == (shares.argmax(axis=1) == LABELS).mean()
    assert flags == 3.0


def test_the_examples_of_every_view_have_the_targets_of_their_items() -> None:
    one, other = trainer_of(), trainer_of()
    first = batch_of(FEATURES)
    mirrored = replace(first, take=replace(first.take, examples=first.take.examples + len(LABELS)))
    assert one.step(0, first) == other.step(0, mirrored)
    assert_same(one.weights(), other.weights())


def test_the_paper_recipe_is_plain_adam_on_one_dense_layer() -> None:
    trainer = trainer_of(PAPER)
    plain = keras.Sequential([keras.Input((VECTOR,)), keras.layers.Dense(len(CLASSES))])
    plain.set_weights(trainer.model.get_weights())
    optimizer = keras.optimizers.Adam(0.01)
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)
    for number in range(3):
        with tf.GradientTape() as tape:
            loss = loss_of(np.eye(3, dtype=np.float32)[LABELS], plain(FEATURES["pool_3"]))
        gradients = tape.gradient(loss, [variable.value for variable in plain.trainable_variables])
        optimizer.apply(gradients, plain.trainable_variables)
        assert trainer.step(number, batch_of(FEATURES))[0] == pytest.approx(float(loss), rel=1e-5)
    for ours, theirs in zip(trainer.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("recipe", [PAPER, EVERYTHING, replace(EVERYTHING, weight_decay=0.0)])
def test_every_update_has_the_learning_rate_of_the_recipe(recipe: Recipe) -> None:
    trainer = trainer_of(recipe, total=10)
    for number in (0, 1, 5, 9):
        trainer.step(number, batch_of(FEATURES))
        (rate,) = (value for name, value in trainer.state().items() if name.endswith("/learning_rate"))
        assert rate == np.float32(recipe.learning_rate_at(number, 10))


def test_an_update_at_a_rate_of_zero_changes_nothing() -> None:
    recipe = replace(PAPER, schedule="cosine", weight_decay=0.1)
    trainer = trainer_of(recipe, total=20)
    before = trainer.weights()
    trainer.step(20, batch_of(FEATURES))  # the cosine has reached 0
    assert_same(trainer.weights(), before)


def test_weight_decay_is_of_kernels_only() -> None:
    recipe = replace(EVERYTHING, dropout=0.0, schedule="constant", warmup=0.0, learning_rate=0.01)
    decayed, plain = trainer_of(replace(recipe, weight_decay=0.5)), trainer_of(replace(recipe, weight_decay=0.0))
    first = plain.weights()
    for trainer in (decayed, plain):
        trainer.step(0, batch_of(FEATURES))
    for name, value in plain.weights().items():
        less = 0.01 * 0.5 * first[name] if name.endswith("kernel") else 0
        np.testing.assert_allclose(decayed.weights()[name], value - less, atol=1e-6, err_msg=name)


def test_class_weights_weigh_loss_and_gradients() -> None:
    even, first = trainer_of(), trainer_of(weights=(3, 0, 0))
    loss, _, _ = first.step(0, batch_of(FEATURES))
    shares, _ = even.predict(FEATURES)
    mine = np.asarray(LABELS) == 0
    assert loss == pytest.approx(3 * -np.log(shares[mine, 0]).sum() / len(LABELS), rel=1e-5)
    alone = trainer_of(labels=[0, 0, 0])
    alone.step(0, batch_of({"pool_3": FEATURES["pool_3"][mine]}))
    # Adam's first step knows only the sign of a gradient, and the others have none.
    for name, value in alone.weights().items():
        np.testing.assert_allclose(first.weights()[name], value, atol=1e-5)


def gradients_of(trainer: Trainer, features: Mapping[str, Floats], place: slice) -> list[Floats]:
    """Gradients of one worker's share of the batch, summed by the trainer's own means."""
    count = len(LABELS)
    positions = np.arange(count, dtype=np.int32)[place]
    found, outcome = trainer._gradients(
        {name: tf.constant(values[place]) for name, values in features.items()},
        tf.constant(trainer._targets[positions]),
        tf.constant(trainer._weights[trainer._labels[positions]]),
        tf.constant(positions),
        tf.constant(count),
        tf.constant([derived_seed(0, "dropout"), 4], tf.int32),
        tf.constant(1.0),
    )
    return [np.asarray(value) for value in (*found, outcome)]


class Workers:
    """Two workers, each a thread, that sum over both as a strategy of tf.distribute does, gradients included."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=60)
        self._given: dict[int, Any] = {}

    def total(self, tensor: Any) -> Any:
        @tf.custom_gradient
        def summed(mine: Any) -> Any:
            return self._exchange(mine), self._exchange

        return summed(tensor)

    def _exchange(self, mine: Any) -> Any:
        self._given[threading.get_ident()] = mine
        self._barrier.wait()
        found = tf.add_n([self._given[key] for key in sorted(self._given)])
        self._barrier.wait()
        return found


@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize(
    ("recipe", "head", "features"),
    [
        (replace(EVERYTHING, dropout=0.0), {}, FEATURES),
        (replace(EVERYTHING, dropout=0.0), SUB_DEEP, MAPS),
        (replace(PAPER, loss="focal", dropout=0.5), SUB_DEEP, MAPS),
        (PAPER, {**SUB_DEEP, "weights": (0.5, 1, 2)}, MAPS),
    ],
    ids=["norm", "norm-table-1", "dropout", "weights"],
)
def test_the_gradients_of_two_workers_are_those_of_one(
    cut: int, recipe: Recipe, head: dict[str, Any], features: Mapping[str, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer_of(recipe, **head)
    expected = gradients_of(whole, features, slice(None))
    found: dict[int, list[Floats]] = {}
    both = [trainer_of(recipe, **head) for _ in range(2)]
    if recipe.batch_norm:
        workers = Workers()
        for trainer in both:
            monkeypatch.setattr(trainer, "_summed", workers.total)

        def work(rank: int) -> None:
            found[rank] = gradients_of(both[rank], features, [slice(cut), slice(cut, None)][rank])

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sums = found[0]
        for one, other in zip(found[0], found[1], strict=True):
            np.testing.assert_array_equal(one, other)
    else:  # layers exchange nothing, so one may go after the other
        halves = [gradients_of(both[0], features, place) for place in (slice(cut), slice(cut, None))]
        sums = [one + other for one, other in zip(*halves, strict=True)]
    for one, known in zip(sums[:-1], expected[:-1], strict=True):
        np.testing.assert_allclose(one, known, rtol=1e-3, atol=1e-5 * max(1, np.abs(known).max()))
    np.testing.assert_allclose(sums[-1], expected[-1] + [0, 0, 1], rtol=1e-5)  # loss, correct, and a flag each


def test_a_share_without_examples_adds_nothing() -> None:
    trainer = trainer_of()
    *gradients, outcome = gradients_of(trainer, FEATURES, slice(0, 0))
    assert not any(gradient.any() for gradient in gradients)
    np.testing.assert_array_equal(outcome, [0, 0, 1])


def test_maps_are_taken_as_they_are_stored() -> None:
    half = {"mixed_10": MAPS["mixed_10"].astype(np.float16)}
    full = {"mixed_10": half["mixed_10"].astype(np.float32)}
    trainer = trainer_of(**SUB_DEEP)
    for mine, known in zip(*(gradients_of(trainer, maps, slice(None)) for maps in (half, full)), strict=True):
        np.testing.assert_array_equal(mine, known)


def test_conv4_comes_with_the_predictions() -> None:
    trainer = trainer_of(**SUB_DEEP)
    _, conv4 = trainer.predict(MAPS)
    assert conv4 is not None
    assert conv4.dtype == np.float32
    np.testing.assert_allclose(conv4, trainer.model(MAPS)["conv4"], rtol=1e-5, atol=1e-6)
    assert (conv4 >= 0).all()
    assert (conv4 > 0).any()


def test_bfloat16_computes_otherwise_and_keeps_float32_weights_logits_and_results() -> None:
    full, low = trainer_of(**SUB_DEEP), trainer_of(**SUB_DEEP, precision="mixed_bfloat16")
    for number in range(3):
        low.step(number, batch_of(MAPS))
    low.load_weights(full.weights())
    assert low.model(MAPS)["logits"].dtype == tf.float32
    assert {value.dtype for value in low.weights().values()} == {np.dtype(np.float32)}
    shares, conv4 = low.predict(MAPS)
    expected, _ = full.predict(MAPS)
    assert conv4 is not None
    assert (shares.dtype, conv4.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(shares, expected, atol=0.05)
    assert (shares != expected).any()


def test_float16_scales_its_loss_and_tells_the_true_one() -> None:
    full, low = trainer_of(), trainer_of(precision="mixed_float16")
    expected, found = (run(trainer, FEATURES, range(5)) for trainer in (full, low))
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert any(name.endswith("dynamic_scale") for name in low.state())


def test_weights_of_another_head_are_refused_by_name() -> None:
    trainer = trainer_of()
    before = trainer.weights()
    wide = trainer_of(shapes={"pool_3": (VECTOR + 1,)}).weights()
    with pytest.raises(TrainError, match=r"another head's: softmax/kernel is \(17, 3\), not \(16, 3\)"):
        trainer.load_weights(wide)
    with pytest.raises(TrainError, match=r"conv1/bias is \(4,\), not missing"):
        trainer.load_weights(trainer_of(**SUB_DEEP).weights())
    with pytest.raises(TrainError, match=r"softmax/kernel is missing, not \(16, 3\)"):
        trainer.load_weights({"softmax/bias": before["softmax/bias"]})
    assert_same(trainer.weights(), before)


def test_the_state_of_another_optimizer_is_refused() -> None:
    another_process()
    state = trainer_of(PAPER).state()
    another_process()
    with pytest.raises(TrainError, match="the checkpoint is another head's"):
        trainer_of(replace(PAPER, weight_decay=0.1)).load_state(state)


def test_moments_become_part_of_the_weights() -> None:
    recipe = replace(PAPER, standardise=True)
    moments = {"pool_3": Moments(np.full(VECTOR, 2, np.float32), np.full(VECTOR, 3, np.float32))}
    spec = trainer_of(recipe).spec
    given = Trainer(
        spec,
        targets=np.eye(3, dtype=np.float32),
        labels=np.arange(3),
        weights=np.ones(3, np.float32),
        total_steps=5,
        moments=moments,
    )
    run(given, {"pool_3": FEATURES["pool_3"][:3]}, range(3))
    np.testing.assert_array_equal(given.weights()["pool_3_standardised/mean"], moments["pool_3"].mean)
    later = build(spec)  # as a prediction does: without moments, but with the weights
    for variable in later.variables:
        variable.assign(given.weights()[variable.path])
    logits = later(FEATURES)["logits"]
    np.testing.assert_allclose(tf.nn.softmax(logits), given.predict(FEATURES)[0], rtol=1e-5)


def test_one_worker_totals_to_itself() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(trainer_of().total(values), values)


def test_gpus_that_are_not_there_and_settings_that_come_too_late_are_refused() -> None:
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(TrainError, match="TensorFlow finds none"):
            configure(gpus=1)
    trainer_of().predict(FEATURES)
    with pytest.raises(TrainError, match="already runs in this process"):
        configure(gpus=0, threads=3)
    configure(gpus=0)
