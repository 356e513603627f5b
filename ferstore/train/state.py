"""State of a training as files: arrays in safetensors, the rest as JSON, with a digest over both.

No pickle and no code: what is loaded is arrays that must fit the head built in code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ferstore.errors import CorruptionError

State = dict[str, npt.NDArray[Any]]
_ARRAYS, _REST, _DIGESTS = "state.safetensors", "state.json", "digests.json"


def write_state(folder: Path, arrays: State, rest: dict[str, Any]) -> None:
    """Write arrays and what belongs to them into an existing folder."""
    written = {_ARRAYS: pack(arrays), _REST: json.dumps(rest).encode()}
    for name, data in written.items():
        (folder / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    (folder / _DIGESTS).write_text(json.dumps(digests))


def read_state(folder: Path) -> tuple[State, dict[str, Any]]:
    """Read back what `write_state` wrote.

    Raises:
        CorruptionError: a file is missing or its bytes differ.
    """
    found: dict[str, bytes] = {}
    try:
        digests = json.loads((folder / _DIGESTS).read_text())
        for name in (_ARRAYS, _REST):  # and no other: the names of a planted list could lead anywhere
            digest = digests[name]
            found[name] = (folder / name).read_bytes()
            if hashlib.sha256(found[name]).hexdigest() != digest:
                raise CorruptionError(f"{folder / name} differs from its digest", hint="train again without --resume")
        return unpack(found[_ARRAYS]), json.loads(found[_REST])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptionError(
            f"checkpoint {folder} cannot be read: {error}", hint="train again without --resume"
        ) from error


def pack(arrays: State, about: dict[str, str] | None = None) -> bytes:
    """Arrays as the bytes of a safetensors file."""
    data: bytes = save({name: array.copy(order="C") for name, array in arrays.items()}, about)
    return data


def unpack(data: bytes) -> State:
    """Arrays of a safetensors file.

    Raises:
        CorruptionError: it is none.
    """
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise CorruptionError(f"no safetensors file: {error}", hint="train again") from error
