"""What the heads look like inside: their layers as built, and the maps of a trained head's conv1 to conv4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from ferstore.network import Floats, FusedMap, Node, nodes_of
from ferstore.store.store import Store
from ferstore.train.conv4 import CONV4, CONV4_VALUES
from ferstore.train.job import HeadSpec
from ferstore.train.past import PastRun, map_layer
from ferstore.train.predict import as_stored, load_head, spec_of
from ferstore.train.weightless import look_at

_POOL_3 = "pool_3"
_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4")


@dataclass(frozen=True, slots=True)
class Heads:
    """Layers of the paper's three classifiers.

    Attributes:
        deepest: softmax on ``pool_3``.
        sub_deep: Table 1 on a map.
        fusion: of conv4 and ``pool_3``.
    """

    deepest: tuple[Node, ...]
    sub_deep: tuple[Node, ...]
    fusion: tuple[Node, ...]


def heads_like(run: PastRun | None, *, classes: int) -> Heads:
    """The three heads that belong together: with a run's width, recipe and classes, or the paper's.

    Args:
        run: a training whose head has convolutions; None takes the paper's head, at full width.
        classes: of the paper's head.
    """
    if run is None:
        sub_deep = HeadSpec("sub_deep", {"mixed_10": (8, 8, 2048)}, classes)
    else:
        own = spec_of(run)
        shapes = own.shapes if own.experiment == "sub_deep" else {map_layer(run): own.shapes[map_layer(run)]}
        sub_deep = replace(own, experiment="sub_deep", shapes=shapes)
    vector = (CONV4_VALUES,)
    deepest = replace(sub_deep, experiment="deepest", shapes={_POOL_3: vector})
    fusion = replace(sub_deep, experiment="fusion", shapes={CONV4: vector, _POOL_3: vector})
    return Heads(*(look_at(spec, nodes_of) for spec in (deepest, sub_deep, fusion)))


def head_maps(store: Store, run: PastRun, maps: Mapping[str, Floats]) -> tuple[FusedMap, ...]:
    """The activations of conv1 to conv4 for one picture, each fused 1:1.

    An activation is what the next convolution reads: after batch normalisation, where the recipe has it, and ReLU.

    Args:
        store: where the training is; it says how maps are rounded.
        run: a training whose head has convolutions.
        maps: float32 (rows, columns, channels) by feature table, with the one that the head reads.

    Raises:
        CorruptionError: the head's weights cannot be read, or differ from their digest.
    """
    head = load_head(run)
    layer = map_layer(run)
    outputs = [head.get_layer(f"{name}_relu").output for name in _CONVOLUTIONS]
    model = keras.Model(head.get_layer(layer).output, outputs)
    given = tf.constant(as_stored(store, layer, maps[layer])[np.newaxis], tf.float32)
    found = [np.asarray(tf.cast(activation[0], tf.float32)) for activation in model(given, training=False)]
    return tuple(
        FusedMap(name, activation.shape, activation.sum(axis=-1, dtype=np.float32))
        for name, activation in zip(_CONVOLUTIONS, found, strict=True)
    )
