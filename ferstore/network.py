"""What a network looks like, without TensorFlow: its layers as they were built, its blocks, its maps fused to one.

Stages that compute (`extract`, `train`) give these values, and the one that draws (`report`) takes them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PAPER_NAMES = {"avg_pool": "pool_3", "predictions": "softmax"}
"""The paper's names of Keras's layers that have other ones; ``mixedN`` is ``mixed_N``."""

_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")
_BLOCK = re.compile(r"mixed(\d+)")


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of a network, or several drawn as one.

    Attributes:
        name: Keras's; automatic names are those of a process that has built nothing before.
        kind: the Keras class.
        shape: of its output for one example.
        parameters: all its weights, trained or not.
        inputs: names of the layers it reads.
        detail: kernel and stride, where it has them.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    inputs: tuple[str, ...]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FusedMap:
    """All channels of a convolution's activation fused 1:1: their unweighted sum.

    Attributes:
        name: of the convolution.
        shape: of the activation: rows, columns, channels.
        values: float32 (rows, columns).
    """

    name: str
    shape: tuple[int, int, int]
    values: Floats


def size_text(shape: Sequence[int]) -> str:
    """A shape as the paper writes it: 35 x 35 x 64 with multiplication signs."""
    return " × ".join(map(str, shape))


def nodes_of(model: Any) -> tuple[Node, ...]:
    """The layers of a Keras model as they were built, inputs before what reads them, in ``model.layers``'s order.

    Keras numbers its automatic names through the life of a process (``conv2d_94`` is the first convolution of a second
    network), so they are numbered anew here, and a network's drawing depends on the network alone.
    """
    names = _own_names(model.layers)
    return tuple(
        Node(
            name=names[layer.name],
            kind=type(layer).__name__,
            shape=tuple(layer.output.shape[1:]),
            parameters=sum(math.prod(weight.shape) for weight in layer.weights),
            inputs=tuple(names[node.operation.name] for node in layer._inbound_nodes[0].parent_nodes),
            detail=_detail(layer),
        )
        for layer in model.layers
    )


def _own_names(layers: Iterable[Any]) -> dict[str, str]:
    numbers: dict[str, list[tuple[int, str]]] = {}
    names = {layer.name: layer.name for layer in layers}
    for layer in layers:
        match = _NUMBERED.fullmatch(layer.name)
        if match and match[1].replace("_", "") == type(layer).__name__.lower():
            numbers.setdefault(match[1], []).append((int(match[2] or 0), layer.name))
    for base, found in numbers.items():
        for number, (_, name) in enumerate(sorted(found)):
            names[name] = f"{base}_{number}" if number else base
    return names


def _detail(layer: Any) -> str:
    size = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None) or getattr(layer, "size", None)
    if size is None:
        return ""
    stride = getattr(layer, "strides", (1,))
    kernel = (size, size) if isinstance(size, int) else size
    return size_text(kernel) + (f", stride {stride[0]}" if stride[0] > 1 else "")


def convolutions(nodes: Sequence[Node]) -> list[Node]:
    """The convolutions in the order they were created: the network's, from the image to its end."""
    found = [node for node in nodes if node.kind == "Conv2D"]
    return sorted(found, key=lambda node: int((_NUMBERED.fullmatch(node.name) or [0, 0, 0])[2] or 0))


def activation_of(nodes: Sequence[Node], name: str) -> Node:
    """What comes of a convolution: the only one that reads its only reader, which normalises it.

    Raises:
        ValueError: the network is not built so.
    """
    for kind in ("BatchNormalization", "Activation"):
        [reader] = [node for node in nodes if name in node.inputs]
        if reader.kind != kind:
            raise ValueError(f"{name} is read by {reader.name}, a {reader.kind}, where a {kind} is expected")
        name = reader.name
    return reader


def blocks_of(nodes: Sequence[Node]) -> dict[str, str]:
    """The paper's block of every layer of Inception v3, by Keras's name, in the network's order.

    ``image`` is the input, ``stem`` all up to where the branches begin, ``mixed_N`` all that only ``mixedN`` gathers;
    what follows is called by itself: ``pool_3`` and ``softmax``.
    """
    by_name = {node.name: node for node in nodes}
    readers = Counter(name for node in nodes for name in node.inputs)
    fork = next(node.name for node in nodes if readers[node.name] > 1)
    joins = sorted((int(match[1]), node.name) for node in nodes if (match := _BLOCK.fullmatch(node.name)))
    ends = {nodes[0].name: "image", fork: "stem"} | {name: f"mixed_{number}" for number, name in joins}
    found: dict[str, str] = {}
    for end, block in ends.items():
        waiting = [end]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = block
                waiting += by_name[name].inputs
    for node in nodes:
        found.setdefault(node.name, PAPER_NAMES.get(node.name, node.name))
    return found


def merged(nodes: Sequence[Node], groups: Mapping[str, str]) -> tuple[Node, ...]:
    """A network with every group of layers as one node, which has the shape of its last and the weights of all.

    Args:
        nodes: a network, inputs before what reads them.
        groups: the group of each layer by name; a group has one layer whose output leaves it.
    """
    found: dict[str, Node] = {}
    for node in nodes:
        group = groups[node.name]
        outside = tuple(groups[name] for name in node.inputs if groups[name] != group)
        if group not in found:
            found[group] = replace(node, name=group, inputs=tuple(dict.fromkeys(outside)))
            continue
        before = found[group]
        inputs = tuple(dict.fromkeys((*before.inputs, *outside)))
        parameters = before.parameters + node.parameters
        found[group] = replace(before, shape=node.shape, parameters=parameters, inputs=inputs)
    return tuple(found.values())
