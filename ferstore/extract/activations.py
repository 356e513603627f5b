"""What Inception v3 looks like inside: its layers as Keras builds them, and the activations of one picture.

An *activation of a convolution* is Keras's own: the output of the ``activation_N`` behind it, after batch normalisation
and ReLU. A module beside `inception`, which is a function to features and nothing else; both import TensorFlow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ferstore.errors import ExtractError
from ferstore.extract import inception
from ferstore.extract.inception import SIZE
from ferstore.extract.weights_file import LayerArrays
from ferstore.network import Floats, FusedMap, Node, activation_of, blocks_of, convolutions, nodes_of

# Behind inception, which keeps what TensorFlow says as it is loaded off standard error.
import keras  # isort: skip
import tensorflow as tf  # isort: skip

FIRST_CHANNELS = 25
"""Channels of the first convolution that the paper's Figure 2 shows."""


@dataclass(frozen=True, slots=True)
class Activations:
    """What one picture does in the network.

    Attributes:
        first: float32 (149, 149, 25), the first channels of the first convolution.
        fused: a map for each of the 94 convolutions, in the network's order.
        maps: float32 (rows, columns, channels) of every layer asked for, by its name.
    """

    first: Floats
    fused: tuple[FusedMap, ...]
    maps: dict[str, Floats]


class OpenNetwork:
    """Inception v3 with given weights, to be looked into, in float32 on the CPU. Call `inception.configure` first.

    It has Keras's top, which the paper's Figure 1 shows and ferstore computes nothing with: its weights are arbitrary.

    Args:
        weights: 94 layers in creation order, as `ferstore.extract.weights` gives them.

    Raises:
        WeightsError: weights that do not fit the network.
    """

    def __init__(self, weights: Sequence[LayerArrays]) -> None:
        self._model = keras.applications.InceptionV3(include_top=True, weights=None, input_shape=(SIZE, SIZE, 3))
        inception.assign(self._model, weights)
        self.nodes: tuple[Node, ...] = nodes_of(self._model)

    def look(self, pixels: npt.NDArray[np.uint8], maps: Sequence[str] = ()) -> Activations:
        """Run one picture through the network, once; channels are summed in the graph, so that little is kept.

        Args:
            pixels: uint8 (299, 299, 3), red, green, blue.
            maps: Keras's names of layers whose whole output is wanted.

        Raises:
            ExtractError: pixels of another shape or type, or TensorFlow failed, as for want of memory.
        """
        if pixels.shape != (SIZE, SIZE, 3) or pixels.dtype != np.uint8:
            raise ExtractError(f"pixels of shape {pixels.shape} and type {pixels.dtype}", allowed="uint8 (299, 299, 3)")
        layers = dict(zip((node.name for node in self.nodes), self._model.layers, strict=True))
        names = [node.name for node in convolutions(self.nodes)]
        ends = [activation_of(self.nodes, name) for name in names]
        outputs = [layers[name].output for name in (*(end.name for end in ends), *maps)]
        model = keras.Model(self._model.input, outputs)

        def run(picture: Any) -> Any:
            scaled = tf.cast(picture[tf.newaxis], tf.float32) / 127.5 - 1.0  # as inception._graph
            found = model(scaled, training=False)
            sums = [tf.reduce_sum(activation[0], axis=-1) for activation in found[: len(names)]]
            return found[0][0, :, :, :FIRST_CHANNELS], sums, [output[0] for output in found[len(names) :]]

        try:
            first, sums, whole = tf.function(run, autograph=False)(tf.constant(pixels))
        except tf.errors.OpError as error:
            problem = f"the network failed: {type(error).__name__}: {str(error)[:200]}"
            raise ExtractError(problem, hint="if memory ran out, close other programs") from error
        fused = zip(names, ends, sums, strict=True)
        return Activations(
            first.numpy(),
            tuple(FusedMap(name, _rows_columns_channels(end), values.numpy()) for name, end, values in fused),
            {name: values.numpy() for name, values in zip(maps, whole, strict=True)},
        )


def _rows_columns_channels(node: Node) -> tuple[int, int, int]:
    rows, columns, channels = node.shape
    return rows, columns, channels


def graph_events(nodes: Sequence[Node], known: Sequence[Node]) -> bytes:
    """A network as the bytes of a TensorBoard event file that holds a ``GraphDef``.

    A node is called by the paper's block and Keras's name, as in ``mixed_10/conv2d_85``, so that TensorBoard folds the
    blocks; its op is the Keras class, and what it reads from outside is a placeholder. The file has no time in it, and
    is the same whenever it is written. Nothing of the package tensorboard is needed, as in ``ferstore.train.leave``.

    Args:
        nodes: layers to show.
        known: the whole network, for its blocks and for what ``nodes`` read from outside.
    """
    blocks = blocks_of(known)
    shown = {node.name for node in nodes}
    read = {name for node in nodes for name in node.inputs} - shown
    graph = tf.compat.v1.GraphDef()
    for node in [*(node for node in known if node.name in read), *nodes]:
        entry = graph.node.add(name=f"{blocks[node.name]}/{node.name}", op=node.kind)
        if node.name in read:
            entry.op = "Placeholder"
        else:
            entry.input.extend(f"{blocks[name]}/{name}" for name in node.inputs)
            entry.attr["parameters"].i = node.parameters
        if node.detail:
            entry.attr["kernel"].s = node.detail.replace("×", "x").encode()
        entry.attr["dtype"].type = tf.float32.as_datatype_enum
        shape = entry.attr["_output_shapes"].list.shape.add()  # what TensorBoard writes along an edge
        for size in (-1, *node.shape):
            shape.dim.add(size=size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events")
        with tf.io.TFRecordWriter(str(path)) as out:
            out.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
            out.write(tf.compat.v1.Event(graph_def=graph.SerializeToString(deterministic=True)).SerializeToString())
        return path.read_bytes()
