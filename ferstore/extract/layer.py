"""Which activations of the network are features."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """A feature of an image.

    Attributes:
        name: of the feature and its table.
        node: layer of ``keras.applications.InceptionV3`` whose output is read.
        pool: whether it is averaged over all positions.
        shape: of one image's feature: (channels,) or (rows, columns, channels).
    """

    name: str
    node: str
    pool: bool
    shape: tuple[int, ...]


LAYERS: dict[str, Layer] = {
    layer.name: layer
    for layer in (
        Layer("pool_3", "mixed10", True, (2048,)),
        Layer("mixed_10", "mixed10", False, (8, 8, 2048)),
        Layer("mixed_9", "mixed9", False, (8, 8, 2048)),
        Layer("mixed_8", "mixed8", False, (8, 8, 1280)),
        Layer("mixed_7", "mixed7", False, (17, 17, 768)),
    )
}
