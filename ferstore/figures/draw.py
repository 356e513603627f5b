"""One picture's figures as files: computed, drawn, and only then written."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ferstore.figures.source import Source
from ferstore.progress import Progress, Silent
from ferstore.store.files import write_file

if TYPE_CHECKING:
    from ferstore.extract.activations import Activations
    from ferstore.extract.weights import Weights
    from ferstore.network import FusedMap, Node
    from ferstore.train.inside import Heads
    from ferstore.train.past import PastRun

CLASSES = 8
"""Of the head that is drawn where none is trained: FERPLUS's."""

GRAPH = "figure_1_graph/events.out.tfevents.0000000000.ferstore"
_FIGURES = 4


@dataclass(frozen=True, slots=True)
class FiguresReport:
    """What was drawn, from what, and where it lies.

    Attributes:
        output: the folder.
        files: names in it.
        image_id: SHA-256 of the picture's bytes.
        extractor_id: whose weights the network has; None where weights were named themselves.
        weights: their name.
        weights_kind: imagenet, file or random: the last is said wherever results are.
        weights_sha256: their digest.
        seed: of random weights.
        run_id: training of the head; None where there is none.
        width: filters of that head's conv1 to conv3, or of the paper's.
        panels: of Figure 3, in order.
        silent: those of the head that are 0 everywhere: no ReLU of theirs lets anything of this picture through.
        parameters: of the extractor and the three heads of Figure 4.
    """

    output: str
    files: tuple[str, ...]
    image_id: str
    extractor_id: str | None
    weights: str
    weights_kind: str
    weights_sha256: str
    seed: int | None
    run_id: str | None
    width: int
    panels: tuple[str, ...]
    silent: tuple[str, ...]
    parameters: Mapping[str, int]


def draw(source: Source, output: Path, progress: Progress | None) -> FiguresReport:
    """Compute, draw, then write: until all is drawn, nothing is written.

    Args:
        source: what to draw.
        output: the folder.
        progress: told of every figure.
    """
    progress = progress or Silent()
    progress.start("figures", _FIGURES + 1)
    arrays = source.weights.load()
    from ferstore.extract import activations, inception

    inception.configure("float32", gpus=0, threads=None)
    network = activations.OpenNetwork(arrays)
    head, nodes = _head_input(source), network.nodes
    found = network.look(source.picture, list(head.values()))
    from ferstore.train.inside import head_maps, heads_like

    last: tuple[FusedMap, ...] = ()
    if source.run is not None and source.store is not None:
        last = head_maps(source.store, source.run, {layer: found.maps[node] for layer, node in head.items()})
    heads = heads_like(source.run, classes=CLASSES)
    progress.advance(1)
    from ferstore.report.last_nodes import last_nodes

    files = {GRAPH: activations.graph_events(last_nodes(nodes), nodes)}
    files |= _figure_files(source, nodes, found, last, heads, progress)
    for name, data in files.items():
        write_file(str(output.absolute() / name), data)
    parameters = {"extractor": nodes, "deepest": heads.deepest, "sub_deep": heads.sub_deep, "fusion": heads.fusion}
    return FiguresReport(
        output=str(output),
        files=tuple(sorted(files)),
        image_id=source.image_id,
        extractor_id=source.extractor_id,
        weights=source.weights.name,
        weights_kind=source.weights.kind,
        weights_sha256=source.weights.sha256,
        seed=source.weights.seed,
        run_id=source.run.run_id if source.run else None,
        width=_width(source.run),
        panels=tuple(fused.name for fused in (*found.fused, *last)),
        silent=_silent(last),
        parameters={
            name: sum(node.parameters for node in layers if node.name != "predictions")
            for name, layers in parameters.items()
        },
    )


def _head_input(source: Source) -> dict[str, str]:
    """The map that the head reads: Keras's name of its layer, by feature table."""
    if source.run is None or source.store is None:
        return {}
    from ferstore.train.past import map_layer

    layer = map_layer(source.run)
    feature = source.store.schemas[layer].feature
    return {layer: feature.node} if feature else {}


def _width(run: PastRun | None) -> int:
    from ferstore.train.predict import spec_of
    from ferstore.train.request import WIDTH

    return spec_of(run).width if run else WIDTH


def _figure_files(
    source: Source,
    nodes: tuple[Node, ...],
    found: Activations,
    last: tuple[FusedMap, ...],
    heads: Heads,
    progress: Progress,
) -> dict[str, bytes]:
    from ferstore.network import blocks_of
    from ferstore.report import canvas
    from ferstore.report.architecture import architecture_figure
    from ferstore.report.last_nodes import last_nodes_figure
    from ferstore.report.maps import every_convolution_figure, first_convolution_figure

    blocks = blocks_of(nodes)
    rows: dict[str, list[FusedMap]] = {}
    for fused in found.fused:
        rows.setdefault(blocks[fused.name], []).append(fused)
    if last:
        rows["head"] = list(last)
    network, picture = _about(source), f"{_about(source)} Image {source.image_id[:16]}."
    warning = _warning(source.weights)
    head_row, head_drawn = _about_head(source.run, trained=bool(source.store))
    if silent := _silent(last):
        head_row += f" 0 everywhere in {', '.join(silent)}: no ReLU there lets anything of this picture through."
    first = found.fused[0]
    figures: tuple[Callable[[], Any], ...] = (
        lambda: last_nodes_figure(nodes, about=network, warning=warning),
        lambda: first_convolution_figure(found.first, first, about=picture, warning=warning),
        lambda: every_convolution_figure(rows, about=f"{head_row} {picture}", warning=warning),
        lambda: architecture_figure(
            nodes, heads.deepest, heads.sub_deep, heads.fusion, about=f"{head_drawn} {network}", warning=warning
        ),
    )
    files: dict[str, bytes] = {}
    with canvas.fixed_style():
        for number, figure in enumerate(figures, 1):
            files |= {f"figure_{number}.{kind}": data for kind, data in canvas.rendered(figure()).items()}
            progress.advance(1)
    maps = {fused.name: fused.values for fused in (*found.fused, *last)}
    shapes = np.array([fused.shape for fused in (*found.fused, *last)])
    files["figure_2.npz"] = _packed(channels=found.first, fused=first.values)
    files["figure_3.npz"] = _packed(names=np.array(list(maps)), shapes=shapes, **maps)
    return files


def _silent(maps: Sequence[FusedMap]) -> tuple[str, ...]:
    return tuple(fused.name for fused in maps if not fused.values.any())


def _packed(**arrays: npt.NDArray[Any]) -> bytes:
    """Arrays as the bytes of an npz file, which ``np.load`` reads without pickle."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _about(source: Source) -> str:
    weights = source.weights
    name = weights.name if weights.kind != "file" else PurePosixPath(weights.name.partition("?")[0]).name
    lead = f"Extractor {source.extractor_id}, weights" if source.extractor_id else "Weights"
    return f"{lead} {name}, SHA-256 {weights.sha256[:16]}, computed in float32."


def _about_head(run: PastRun | None, *, trained: bool) -> tuple[str, str]:
    """What the last row of Figure 3 is, and which heads Figure 4 shows."""
    width = _width(run)
    if run is None:
        none = "No head with conv1 to conv4 is trained on this extractor's features" if trained else "No store is read"
        drawn = f"The heads are the paper's, at full width {width:,} and for {CLASSES} classes; none is trained."
        return f"{none}, so the panels of a trained head are left out.", drawn
    paper = "" if width == _width(None) else f" (the paper's is {_width(None):,})"
    said = f"training {run.run_id}: {run.arguments['experiment']}, recipe {run.arguments['recipe']}"
    said += f", width {width:,}{paper}"
    return f"The last row is the trained head's, of {said}.", f"The heads have the settings of {said}."


def _warning(weights: Weights) -> str:
    if weights.kind != "random":
        return ""
    return f"RANDOM WEIGHTS (seed {weights.seed}): what is drawn here says nothing about faces"
