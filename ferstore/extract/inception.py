"""Inception v3 as a function from pixels to features. Besides `activations`, only it imports TensorFlow in this stage.

The graph is `keras.applications.InceptionV3` without its top, cut behind the deepest layer asked for. Its weights go
into the graph as constants: TensorFlow then folds each batch normalisation into the convolution before it, and
converts weights to bfloat16 once. Against the same graph with variables, at batch 32 on two CPU cores, that gave 1.1
times the images a second in float32 and 1.3 times in bfloat16, for 1.3 GB more memory and 4 s more until the first
batch; float32 features differ by rounding (3e-6 of the largest).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferstore.errors import ExtractError, InputError, WeightsError
from ferstore.extract.layer import Layer
from ferstore.extract.weights_file import LayerArrays
from ferstore.stderr import without_remarks

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read as TensorFlow is loaded
with without_remarks():
    import keras
    import tensorflow as tf

VARIANT = "keras.applications.InceptionV3"
SIZE = 299

_ONEDNN_BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"


def configure(precision: str, *, gpus: int, threads: int | None) -> None:
    """Set up TensorFlow for this process, before anything runs on a device.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``; float32 means it, TensorFloat-32 is turned off.
        gpus: 0 hides all GPUs; otherwise those the process sees are used, and memory is taken as it is needed.
        threads: of TensorFlow on the CPU; None leaves the choice to it.

    Raises:
        InputError: a precision that the device does not compute in, or GPUs that are not there.
        ExtractError: TensorFlow already runs with other settings in this process.
    """
    with without_remarks():
        found = tf.config.list_physical_devices("GPU")
    if gpus and not found:
        raise InputError(f"{gpus} GPUs are asked for, and TensorFlow finds none", hint="use --gpus-per-actor 0")
    if precision == "float16" and not gpus:
        raise InputError(
            "float16 needs a GPU", allowed="float32 or bfloat16 on a CPU", hint="use --precision bfloat16 or a GPU"
        )
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
        raise ExtractError(f"TensorFlow already runs in this process: {error}") from error
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.optimizer.set_experimental_options({_ONEDNN_BFLOAT16: precision == "bfloat16" and not gpus})


class Network:
    """Inception v3 with given weights, traced once for one batch size. Call `configure` first.

    Args:
        layers: features to compute, by `Layer.name`.
        weights: 94 layers in creation order, as `ferstore.extract.weights` gives them.
        batch_size: images a pass.
        precision: as for `configure`.

    Raises:
        InputError: bfloat16 on a CPU that does not compute in it.
        WeightsError: weights that do not fit the network.
    """

    def __init__(
        self, layers: Sequence[Layer], weights: Sequence[LayerArrays], *, batch_size: int, precision: str
    ) -> None:
        on_gpu = bool(tf.config.get_visible_devices("GPU"))
        if precision == "bfloat16" and not on_gpu and not _rounds_to_bfloat16():
            raise InputError("this CPU does not compute in bfloat16", hint="use --precision float32")
        self._layers = tuple(layers)
        self._batch_size = batch_size
        self._nodes = tuple(dict.fromkeys(layer.node for layer in layers))
        policy = f"mixed_{precision}" if on_gpu and precision != "float32" else "float32"
        self._run = _graph(self._nodes, weights, batch_size, policy)

    def __call__(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Features of up to a batch of images, by layer name.

        Args:
            pixels: uint8 (n, 299, 299, 3), red, green, blue in 0..255, 1 <= n <= batch size; a short batch is padded.

        Returns:
            float32 (n, *shape) for each layer. A pooled layer is the float32 mean of the map over its positions.

        Raises:
            ExtractError: pixels of another shape or type, or TensorFlow failed, as for want of memory.
        """
        count = len(pixels)
        if pixels.shape != (count, SIZE, SIZE, 3) or pixels.dtype != np.uint8 or not 0 < count <= self._batch_size:
            raise ExtractError(
                f"pixels of shape {pixels.shape} and type {pixels.dtype}",
                allowed=f"uint8 (1 to {self._batch_size}, {SIZE}, {SIZE}, 3)",
            )
        if count < self._batch_size:
            pixels = np.concatenate([pixels, np.zeros((self._batch_size - count, SIZE, SIZE, 3), np.uint8)])
        try:
            outputs = [output.numpy()[:count] for output in self._run(pixels)]
        except tf.errors.OpError as error:
            problem = f"the network failed: {type(error).__name__}: {str(error)[:200]}"
            raise ExtractError(problem, hint="if memory ran out, use a smaller --batch-size") from error
        maps: dict[str, NDArray[np.float32]] = dict(zip(self._nodes, outputs, strict=True))
        return {layer.name: _feature(maps[layer.node], layer) for layer in self._layers}


def _feature(maps: NDArray[np.float32], layer: Layer) -> NDArray[np.float32]:
    # Outside the graph, where mixed precision would round the sum too.
    feature = maps.mean(axis=(1, 2), dtype=np.float32) if layer.pool else maps
    if feature.shape[1:] != layer.shape:
        raise ExtractError(f"{layer.node} gives {feature.shape[1:]}, and {layer.name} is {layer.shape}")
    return feature


def _graph(nodes: Sequence[str], weights: Sequence[LayerArrays], batch_size: int, policy: str) -> Any:
    """The compiled function: uint8 (batch, 299, 299, 3) to the float32 output of each node."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        full = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    finally:
        keras.config.set_dtype_policy(before)
    assign(full, weights)
    model = keras.Model(full.input, [full.get_layer(node).output for node in nodes])
    trainable = [variable.value.numpy() for variable in model.trainable_variables]
    fixed = [variable.value.numpy() for variable in model.non_trainable_variables]

    def run(pixels: Any) -> Any:
        scaled = tf.cast(pixels, tf.float32) / 127.5 - 1.0  # keras.applications.inception_v3.preprocess_input
        constants = ([tf.constant(array) for array in trainable], [tf.constant(array) for array in fixed])
        outputs, _ = model.stateless_call(*constants, scaled, training=False)
        return [tf.cast(output, tf.float32) for output in tf.nest.flatten(outputs)]

    signature = [tf.TensorSpec((batch_size, SIZE, SIZE, 3), tf.uint8)]
    return tf.function(run, input_signature=signature, autograph=False).get_concrete_function()


def assign(model: Any, weights: Sequence[LayerArrays]) -> None:
    """Put weights into ``keras.applications.InceptionV3``, whose top, where it has one, stays as it is.

    Raises:
        WeightsError: weights that do not fit the network.
    """
    convolutions = _in_creation_order(model, keras.layers.Conv2D)
    norms = _in_creation_order(model, keras.layers.BatchNormalization)
    try:
        for convolution, norm, arrays in zip(convolutions, norms, weights, strict=True):
            convolution.set_weights([arrays.kernel])
            norm.set_weights([arrays.beta, arrays.moving_mean, arrays.moving_variance])
    except ValueError as error:
        raise WeightsError(f"the weights do not fit {VARIANT}: {error}") from error


def _in_creation_order(model: Any, kind: type) -> list[Any]:
    """Keras numbers the layers of a kind as they are created; ``model.layers`` goes by depth."""
    layers = [layer for layer in model.layers if isinstance(layer, kind)]
    return sorted(layers, key=lambda layer: int(re.search(r"(?:_(\d+))?$", layer.name)[1] or 0))  # type: ignore[index]


def _rounds_to_bfloat16() -> bool:
    """Whether a convolution loses what bfloat16's 8 bits do not hold.

    TensorFlow leaves out what a CPU cannot do without an error, or fails in the middle of a run; either way float32
    features would get the name of bfloat16 ones.
    """
    one_and_a_bit = np.float32(1 + 2**-10)

    def convolve(images: Any) -> Any:
        return tf.nn.relu(tf.nn.conv2d(images, tf.fill((1, 1, 16, 16), 1 / 16), 1, "SAME"))

    try:
        rounded = tf.function(convolve, autograph=False)(tf.fill((1, 8, 8, 16), one_and_a_bit))
        return bool((rounded.numpy() == 1).all())
    except tf.errors.OpError:
        return False
