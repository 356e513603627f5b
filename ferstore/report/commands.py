"""Commands that would do it again, rebuilt from ``runs.arguments``; never with a secret."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ferstore.image.location import redact
from ferstore.report.asking import Row

_PLAIN: Mapping[str, Any] = {
    "seed": 0,
    "labels": "majority",
    "leaks": "report",
    "weights": "imagenet",
    "layers": ["pool_3", "mixed_10"],
    "views": ["identity"],
    "precision": "float32",
    "batch_size": 32,
    "gpus_per_actor": 0.0,
    "recipe": "paper",
    "workers": 1,
    "gpus_per_worker": 0.0,
    "checkpoint_seconds": 30.0,
}
"""What the command line has for an option that is not given; it is left out of a command."""

_LENGTHS = ("steps", "epochs")
_NO_OPTIONS = ("layers", "views", "precision")  # words of ``settings`` that are options of their own


def reproduce(rows: Sequence[Row], folds: Mapping[str, int]) -> tuple[str, ...]:
    """Commands in the order of the runs, each once.

    Args:
        rows: of ``runs``, oldest first; ingest, extract, split and train are rebuilt, others have no command.
        folds: of each training set by name: trainings of all its folds are one command.
    """
    trained: dict[str, set[int]] = {}
    for row in rows:
        if row["command"] == "train":
            arguments = json.loads(row["arguments"])
            trained.setdefault(_train(row, arguments, fold=False), set()).add(arguments["fold"])
    commands: dict[str, None] = {}
    for row in rows:
        arguments = json.loads(row["arguments"])
        if row["command"] == "train":
            whole = _train(row, arguments, fold=False)
            every = len(trained[whole]) == folds.get(arguments["training_set"])
            commands[whole if every else _train(row, arguments, fold=True)] = None
        elif row["command"] in _BUILDERS:
            commands[_BUILDERS[row["command"]](arguments)] = None
    return tuple(commands)


def _ingest(arguments: Mapping[str, Any]) -> str:
    return _joined("ingest", [arguments["kind"], redact(arguments["url"])], {"name": arguments["name"]})


def _extract(arguments: Mapping[str, Any]) -> str:
    own = ["dataset", "layers", "weights", "weights_sha256", "seed", "precision", "batch_size", "actors"]
    own += ["gpus_per_actor", "views", "limit", "retry_quarantined"]
    return _joined("extract", [], {name: arguments.get(name) for name in own})


def _split(arguments: Mapping[str, Any]) -> str:
    own = ("dataset", "protocol", "labels", "seed", "folds", "leaks")
    return _joined("split", [arguments["name"]], {name: arguments.get(name) for name in own})


def _train(row: Row, arguments: Mapping[str, Any], *, fold: bool) -> str:
    options: dict[str, Any] = {"training_set": arguments["training_set"], "recipe": arguments["recipe"]}
    settings = [word.partition("=") for word in arguments["settings"].split()]
    options |= {name: value for name, _, value in settings if name in _LENGTHS}
    changed = [f"{name}={value}" for name, mark, value in settings if mark and name not in (*_LENGTHS, *_NO_OPTIONS)]
    layers = [value.split("+") for name, _, value in settings if name == "layers"]
    options |= {
        "width": arguments["width"] if arguments["experiment"] != "deepest" else None,
        "set": changed,
        "layers": layers[0] if layers else None,
        **{name: arguments[name] for name in ("views", "joint", "conv4")},
        "extractor": row["extractor_id"],
        "fold": arguments["fold"] if fold else None,
    }
    own = ("seed", "workers", "gpus_per_worker", "precision", "checkpoint_seconds")
    return _joined("train", [arguments["experiment"]], options | {name: arguments[name] for name in own})


_BUILDERS = {"ingest": _ingest, "extract": _extract, "split": _split}


def _joined(command: str, given: Sequence[str], options: Mapping[str, Any]) -> str:
    words = ["ferstore", command, *given]
    for name, value in options.items():
        if value is None or value is False or value == [] or value == _PLAIN.get(name):
            continue
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif name == "set":
            words += [word for change in value for word in (flag, change)]
        else:
            text = ",".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value
            words += [flag, redact(str(text))]
    return shlex.join(words)
