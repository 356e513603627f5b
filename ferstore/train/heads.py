"""The three heads, built in code: softmax on vectors, Table 1 on a map, and the fusion of conv4 with vectors.

A head is a Keras model from features by layer name to ``logits``, and ``conv4`` where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from ferstore.train.conv4 import CONV4_VALUES
from ferstore.train.head_layers import BatchNorm, Cosine, Dropout, PatchConv, Standardise
from ferstore.train.job import HeadSpec
from ferstore.train.moments import Moments
from ferstore.train.recipe import derived_seed


def build(spec: HeadSpec, moments: Mapping[str, Moments] | None = None) -> Any:
    """Build a head.

    Args:
        spec: which.
        moments: of every layer, where the recipe standardises; weights that are loaded later bring their own.

    Returns:
        A ``keras.Model`` from ``{layer: (n, *shape)}`` to ``{"logits": float32 (n, classes)}``, and
        ``"conv4": (n, 2048)`` where a map goes in.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(spec.precision)
    try:
        return _Builder(spec, moments or {}).model()
    finally:
        keras.config.set_dtype_policy(before)


class _Builder:
    def __init__(self, spec: HeadSpec, moments: Mapping[str, Moments]) -> None:
        self._spec = spec
        self._recipe = spec.recipe
        self._moments = moments

    def model(self) -> Any:
        inputs = {name: keras.Input(shape, name=name) for name, shape in self._spec.shapes.items()}
        vectors: dict[str, Any] = {}
        maps: dict[str, Any] = {}
        for name, value in inputs.items():
            (maps if len(self._spec.shapes[name]) > 1 else vectors)[name] = self._standardised(name, value)
        conv4 = self._conv4(next(iter(maps.values()))) if maps else None
        if self._spec.experiment == "deepest":
            logits = self._classifier(_concatenated(list(vectors.values())))
        elif self._spec.experiment == "sub_deep":
            logits = self._table_1_end(_concatenated([conv4, *vectors.values()]))
        else:
            fused = [conv4, *vectors.values()] if conv4 is not None else list(vectors.values())
            logits = self._classifier(self._fused(fused))
        outputs = {"logits": logits} | ({"conv4": conv4} if conv4 is not None else {})
        return keras.Model(inputs, outputs, name=self._spec.experiment)

    def _standardised(self, name: str, value: Any) -> Any:
        if not self._recipe.standardise:
            return value
        layer = Standardise(name=f"{name}_standardised")
        out = layer(value)
        if found := self._moments.get(name):
            layer.set_weights([found.mean, found.deviation])
        return out

    def _conv4(self, value: Any) -> Any:
        width = self._spec.width
        for number, (filters, size) in enumerate([(width, 3), (width, 3), (width, 3), (CONV4_VALUES, 2)], 1):
            value = self._convolution(value, f"conv{number}", filters, size)
        if value.shape[1:3] == (1, 1):
            return keras.layers.Reshape((CONV4_VALUES,), name="conv4_vector")(value)
        return keras.layers.GlobalAveragePooling2D(name="conv4_vector")(value)  # maps larger than the paper's 8 x 8

    def _table_1_end(self, vector: Any) -> Any:
        value = keras.layers.Reshape((1, 1, vector.shape[-1]), name="positions")(self._dropped("conv4", vector))
        for number, filters in ((5, 1024), (6, 512)):
            value = self._convolution(value, f"conv{number}", filters, 1)
        value = self._dropped("conv6", keras.layers.Reshape((512,), name="conv6_vector")(value))
        if self._recipe.loss == "margin":
            return self._logits(value)
        value = keras.layers.Reshape((1, 1, 512), name="conv7_position")(value)
        last = PatchConv(self._spec.classes, 1, seed=self._seed("conv7"), name="conv7")(value)
        return self._float32(keras.layers.Reshape((self._spec.classes,), name="conv7_vector")(last))

    def _convolution(self, value: Any, name: str, filters: int, size: int) -> Any:
        norm = self._recipe.batch_norm
        kind = "he_normal" if norm else "glorot_uniform"
        value = PatchConv(filters, size, seed=self._seed(name), name=name, initializer=kind, bias=not norm)(value)
        if norm:
            value = BatchNorm(name=f"{name}_norm")(value)
        return keras.layers.ReLU(name=f"{name}_relu")(value)

    def _fused(self, vectors: list[Any]) -> Any:
        if self._recipe.fusion == "concat":
            joined = _concatenated(vectors)
            return keras.layers.Dense(CONV4_VALUES, kernel_initializer=self._glorot("project"), name="project")(joined)
        kinds = {"sum": keras.layers.Add, "mean": keras.layers.Average, "max": keras.layers.Maximum}
        return kinds[self._recipe.fusion](name="fused")(vectors)

    def _classifier(self, vector: Any) -> Any:
        vector = self._dropped("features", vector)
        if self._recipe.hidden:
            initializer = keras.initializers.HeNormal(seed=self._seed("hidden"))
            vector = keras.layers.Dense(self._recipe.hidden, kernel_initializer=initializer, name="hidden")(vector)
            if self._recipe.batch_norm:
                vector = BatchNorm(name="hidden_norm")(vector)
            vector = self._dropped("hidden", keras.layers.ReLU(name="hidden_relu")(vector))
        return self._logits(vector)

    def _logits(self, vector: Any) -> Any:
        if self._recipe.loss == "margin":
            scale, seed = self._recipe.scale, self._seed("softmax")
            return Cosine(self._spec.classes, scale=scale, seed=seed, name="softmax")(vector)
        dense = keras.layers.Dense(self._spec.classes, kernel_initializer=self._glorot("softmax"), name="softmax")
        return self._float32(dense(vector))

    def _float32(self, logits: Any) -> Any:
        return keras.layers.Activation("linear", dtype="float32", name="logits")(logits)

    def _dropped(self, name: str, value: Any) -> Any:
        if not self._recipe.dropout:
            return value
        return Dropout(self._recipe.dropout, seed=self._seed(f"{name} dropout"), name=f"{name}_dropout")(value)

    def _seed(self, purpose: str) -> int:
        return derived_seed(self._spec.seed, purpose)

    def _glorot(self, purpose: str) -> Any:
        return keras.initializers.GlorotUniform(seed=self._seed(purpose))


def _concatenated(vectors: list[Any]) -> Any:
    return keras.layers.Concatenate(name="features")(vectors) if len(vectors) > 1 else vectors[0]
