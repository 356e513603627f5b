"""Features of image files that are in no table, with a stub in the network's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ferstore.errors import DecodeError, FetchError, InputError
from ferstore.extract import single
from ferstore.extract.single import features_of_files

Event = tuple[str, object]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What happened, in order; the stub's feature is the picture's first pixel."""
    seen: list[Event] = []
    plain = single.pixels

    def pixels(data: bytes) -> npt.NDArray[np.uint8]:
        seen.append(("decoded", None))
        return plain(data)

    def network(*_: Any) -> Callable[[npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.float32]]]:
        seen.append(("built", None))

        def call(pictures: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
            seen.append(("called", pictures.shape))
            return {"pool_3": pictures[:, 0, 0].astype(np.float32)}

        return call

    monkeypatch.setattr(single, "pixels", pixels)
    monkeypatch.setattr(single, "_network", network)
    return seen


def picture(folder: Path, name: str) -> str:
    """Black on its left half, white on its right."""
    values = np.zeros((48, 48), np.uint8)
    values[:, 24:] = 255
    Image.fromarray(values).save(folder / name)
    return str(folder / name)


def test_one_picture_is_in_memory_at_a_time(tmp_path: Path, events: list[Event]) -> None:
    urls = [picture(tmp_path, f"{number}.png") for number in range(3)]
    found = list(features_of_files(urls, [], {}, ("identity", "hflip")))
    call = ("called", (1, 299, 299, 3))
    assert events == [("decoded", None), ("built", None), call, call] + 2 * [("decoded", None), call, call]
    assert [url for url, _ in found] == urls
    for _, features in found:
        assert isinstance(features, dict)
        assert {view: values["pool_3"].tolist() for view, values in features.items()} == {
            "identity": [0, 0, 0],
            "hflip": [255, 255, 255],
        }


def test_what_is_no_image_is_told_in_its_place(tmp_path: Path, events: list[Event]) -> None:
    good, no_image, missing = picture(tmp_path, "a.png"), tmp_path / "b.png", tmp_path / "c.png"
    no_image.write_bytes(b"words")
    given = [str(missing), str(no_image), good, str(no_image), good]
    found = list(features_of_files(given, [], {}, ("identity",)))
    assert [url for url, _ in found] == given
    assert [type(features) for _, features in found] == [FetchError, DecodeError, dict, DecodeError, dict]
    assert events.count(("built", None)) == 1


def test_without_an_image_nothing_is_built_and_the_first_reason_is_told(tmp_path: Path, events: list[Event]) -> None:
    (tmp_path / "b.png").write_bytes(b"words")
    with pytest.raises(InputError, match=r"a\.png.*give an image_id of the store, or an image file"):
        list(features_of_files([str(tmp_path / "a.png"), str(tmp_path / "b.png")], [], {}, ("identity",)))
    assert ("built", None) not in events
