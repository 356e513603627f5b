"""One head being fitted in one process: updates, predictions and the state between them.

Workers keep identical copies of the weights: every update sums the gradients of all workers (through the strategy's
collectives), and each applies the sum itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ferstore.errors import TrainError
from ferstore.train.heads import build
from ferstore.train.job import HeadSpec
from ferstore.train.losses import loss_of
from ferstore.train.moments import Moments
from ferstore.train.reader import Arrays, Batch
from ferstore.train.recipe import derived_seed

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read as TensorFlow is loaded
import keras
import tensorflow as tf

from ferstore.train.head_layers import StepContext, step_context
from ferstore.train.optimizers import Adam, AdamW

State = dict[str, npt.NDArray[Any]]


def configure(*, gpus: int, threads: int | None = None) -> None:
    """Set up TensorFlow for this process, before anything runs on a device.

    Args:
        gpus: 0 hides all GPUs; otherwise memory of those the process sees is taken as it is needed.
        threads: of TensorFlow on the CPU; None leaves the choice to it.

    Raises:
        TrainError: GPUs that are not there, or TensorFlow already runs with other settings.
    """
    found = tf.config.list_physical_devices("GPU")
    if gpus and not found:
        raise TrainError(f"{gpus} GPUs are asked for, and TensorFlow finds none", hint="use --gpus-per-worker 0")
    tf.get_logger().setLevel("ERROR")
    try:
        if not gpus:
            tf.config.set_visible_devices([], "GPU")
        for gpu in found if gpus else []:
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise TrainError(f"TensorFlow already runs in this process: {error}") from error
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()


class Trainer:
    """A head, its optimizer, and the compiled functions over them.

    Args:
        spec: the head.
        targets: float32 (items, classes); an example's item is its number modulo the items.
        weights: float32 (classes,), weight of an example by its class.
        labels: class of each item.
        total_steps: for the schedule.
        moments: of the layers, where the recipe standardises.
        strategy: of tf.distribute, one replica a worker; None trains in this process alone.
    """

    def __init__(
        self,
        spec: HeadSpec,
        *,
        targets: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        total_steps: int,
        moments: Mapping[str, Moments] | None = None,
        strategy: Any = None,
    ) -> None:
        keras.utils.set_random_seed(derived_seed(spec.seed, "everything else"))
        self.spec = spec
        self.model = build(spec, moments)
        self.total_steps = total_steps
        self._targets, self._labels, self._weights = targets, labels, weights
        self._strategy = strategy
        self._optimizer = self._make_optimizer()
        self._optimizer.build(self.model.trainable_variables)
        self._update = tf.function(self._update_graph, reduce_retracing=True, autograph=False)
        self._forward = tf.function(self._forward_graph, reduce_retracing=True, autograph=False)

    def step(self, number: int, batch: Batch, flag: float = 0.0) -> tuple[float, float, float]:
        """One update, the ``number``th from 0.

        Args:
            number: decides learning rate and dropout.
            batch: this worker's share of the whole batch.
            flag: summed over all workers and returned, to agree on something.

        Returns:
            Mean loss and accuracy over the whole batch, before the update; the sum of the flags.
        """
        items = batch.take.examples % len(self._targets)
        outcome = self._update(
            {name: tf.convert_to_tensor(values) for name, values in batch.features.items()},
            tf.convert_to_tensor(self._targets[items]),
            tf.convert_to_tensor(self._weights[self._labels[items]]),
            tf.convert_to_tensor(batch.take.positions.astype(np.int32)),
            tf.constant(batch.take.batch, tf.int32),
            tf.constant([derived_seed(self.spec.seed, "dropout"), number], tf.int32),
            tf.constant(self.spec.recipe.learning_rate_at(number, self.total_steps), tf.float32),
            tf.constant(flag, tf.float32),
        )
        loss, correct, flags = outcome.numpy().tolist()
        return loss, correct / batch.take.batch, flags

    def predict(self, features: Arrays) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Class probabilities float32 (n, classes), and conv4 float32 (n, 2048) where the head has it."""
        probabilities, conv4 = self._forward({name: tf.convert_to_tensor(value) for name, value in features.items()})
        return probabilities.numpy(), conv4.numpy() if "conv4" in self.model.output else None

    def total(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A sum over all workers; each must call this."""
        if self._strategy is None:
            return values
        run = tf.function(lambda tensor: self._strategy.run(self._summed, (tensor,)), autograph=False)
        return np.asarray(run(tf.convert_to_tensor(values)))

    def weights(self) -> State:
        """The head's weights by path, such as ``conv1/kernel``."""
        return {variable.path: variable.numpy() for variable in self.model.variables}

    def load_weights(self, weights: State) -> None:
        """Put back what `weights` gave.

        Raises:
            TrainError: they are another head's.
        """
        assign(self.model.variables, weights)

    def state(self) -> State:
        """All that the next update depends on: weights and the optimizer's slots."""
        slots = {f"optimizer/{variable.path}": _numpy(variable) for variable in self._optimizer.variables}
        return {**self.weights(), **slots}

    def load_state(self, state: State) -> None:
        """Put back what `state` gave.

        Raises:
            TrainError: it is another head's.
        """
        self.load_weights({name: value for name, value in state.items() if not name.startswith("optimizer/")})
        slots = {name.removeprefix("optimizer/"): v for name, v in state.items() if name.startswith("optimizer/")}
        assign(self._optimizer.variables, slots)

    def _make_optimizer(self) -> Any:
        recipe = self.spec.recipe  # names are given: Keras would number them, and a state's keys with them
        if recipe.weight_decay:
            optimizer = AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay, name="adam_w")
            optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        else:
            optimizer = Adam(recipe.learning_rate, name="adam")
        if self.spec.precision == "mixed_float16":
            return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
        return optimizer

    def _update_graph(
        self, features: Any, targets: Any, weights: Any, positions: Any, batch: Any, seed: Any, rate: Any, flag: Any
    ) -> Any:
        arguments = (features, targets, weights, positions, batch, seed, flag)
        if self._strategy is None:
            gradients, outcome = self._gradients(*arguments)
        else:
            gradients, outcome = self._strategy.run(self._gradients, arguments)
        self._optimizer.learning_rate.assign(rate)
        self._optimizer.apply(gradients, self.model.trainable_variables)
        return outcome

    def _gradients(
        self, features: Any, targets: Any, weights: Any, positions: Any, batch: Any, seed: Any, flag: Any
    ) -> Any:
        with tf.GradientTape() as tape, step_context(StepContext(seed, positions, batch, self._summed)):
            logits = self.model(features, training=True)["logits"]
            loss = tf.reduce_sum(weights * loss_of(self.spec.recipe, logits, targets)) / tf.cast(batch, tf.float32)
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in self.model.trainable_variables])
        correct = tf.reduce_sum(tf.cast(tf.argmax(logits, -1) == tf.argmax(targets, -1), tf.float32))
        return [self._summed(gradient) for gradient in gradients], self._summed(tf.stack([loss, correct, flag]))

    def _summed(self, tensor: Any) -> Any:
        if self._strategy is None:
            return tensor
        # An argument of the replica function is on no device yet, which all_reduce needs.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))

    def _forward_graph(self, features: Any) -> Any:
        outputs = self.model(features, training=False)
        probabilities = tf.nn.softmax(outputs["logits"])
        return probabilities, tf.cast(outputs.get("conv4", tf.zeros(())), tf.float32)


def _numpy(variable: Any) -> npt.NDArray[Any]:
    return np.asarray(variable.numpy())


def assign(variables: Any, state: State) -> None:
    """Put arrays into variables by path.

    Raises:
        TrainError: they are another head's.
    """
    expected = {variable.path: tuple(variable.shape) for variable in variables}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if expected != given:
        odd = sorted(set(expected.items()) ^ set(given.items()))[0][0]
        raise TrainError(
            f"the checkpoint is another head's: {odd} is {given.get(odd, 'missing')}, "
            f"not {expected.get(odd, 'missing')}",
            hint="give the run's own experiment, width and recipe",
        )
    for variable in variables:
        variable.assign(state[variable.path])


def strategy_of(world: int) -> Any:
    """The strategy of a worker that Ray Train has told its peers in ``TF_CONFIG``; None where there is one worker."""
    return tf.distribute.MultiWorkerMirroredStrategy() if world > 1 else None


def peer_lost() -> type[Exception]:
    """What TensorFlow raises where another worker is gone in the middle of a collective, and little else."""
    error: type[Exception] = tf.errors.OpError
    return error
