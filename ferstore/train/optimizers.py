"""Adam and AdamW as Keras has them, with the update of a variable in one pass over memory.

Keras writes an update as eight operations, each of which reads and writes arrays as large as the weights: for the 133
million of Table 1 that was a third of a step on two CPU cores. TensorFlow has the same formula (Kingma and Ba 2015,
with the bias correction in the step size) as one operation. Slots have Keras's names, so a checkpoint of either is one
of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object


class _OnePass(_Base):  # type: ignore[misc]
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one float32 variable and its two slots."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, tf.float32),
        )


class Adam(_OnePass, keras.optimizers.Adam):  # type: ignore[misc]
    """`keras.optimizers.Adam` without ``amsgrad``."""


class AdamW(_OnePass, keras.optimizers.AdamW):  # type: ignore[misc]
    """`keras.optimizers.AdamW` without ``amsgrad``."""
