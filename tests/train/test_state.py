"""A checkpoint is read back bit for bit, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from ferstore.errors import CorruptionError
from ferstore.train.state import pack, read_state, unpack, write_state

NAMES = ("state.safetensors", "state.json", "digests.json")
ARRAYS = {
    "layer/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, np.inf, np.nan], np.float16),
    "step": np.array(7, np.int64),
    "empty": np.empty((0, 4), np.float32),
}
REST: dict[str, Any] = {"step": 7, "curve": [[1, 1, "train", 0.1, 0.5]], "best": None, "text": "é"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_state(tmp_path, ARRAYS, REST)
    return tmp_path


def test_a_state_is_read_back_as_it_was_written(written: Path) -> None:
    arrays, rest = read_state(written)
    assert rest == REST
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert arrays[name].tobytes() == array.tobytes()


def test_a_state_is_replaced_by_the_next(written: Path) -> None:
    write_state(written, {"x": np.zeros(1, np.float32)}, {"step": 8})
    arrays, rest = read_state(written)
    assert (list(arrays), rest) == (["x"], {"step": 8})


arrays = st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.int32, np.bool_]).flatmap(
    lambda dtype: nps.arrays(dtype, nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text("abc/_ é", min_size=1, max_size=8), arrays, max_size=4))
def test_arrays_of_any_shape_and_kind_are_unpacked_bit_for_bit(given_arrays: dict[str, Any]) -> None:
    found = unpack(pack(given_arrays))
    assert set(found) == set(given_arrays)
    for name, array in given_arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_an_array_that_lies_otherwise_in_memory_keeps_its_values() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    assert unpack(pack({"x": array}))["x"].tolist() == array.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte_anywhere_is_found(written: Path, name: str) -> None:
    good = (written / name).read_bytes()
    for at in range(len(good)):
        (written / name).write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with pytest.raises(CorruptionError, match="train again without --resume"):
            read_state(written)
    (written / name).write_bytes(good)
    read_state(written)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 20])
def test_a_file_that_was_cut_off_is_found(written: Path, name: str, keep: int) -> None:
    (written / name).write_bytes((written / name).read_bytes()[:keep])
    with pytest.raises(CorruptionError):
        read_state(written)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_told_with_its_checkpoint(written: Path, name: str) -> None:
    (written / name).unlink()
    with pytest.raises(CorruptionError, match=f"checkpoint {written} cannot be read: .*{name}"):
        read_state(written)


def test_digests_that_leave_a_file_out_are_refused(written: Path) -> None:
    digests = json.loads((written / "digests.json").read_text())
    for name in NAMES[:2]:
        (written / "digests.json").write_text(json.dumps({name: digests[name]}))
        with pytest.raises(CorruptionError, match="cannot be read"):
            read_state(written)


def test_a_missing_folder_is_told(written: Path) -> None:
    shutil.rmtree(written)
    with pytest.raises(CorruptionError, match="cannot be read"):
        read_state(written)


def test_files_of_two_checkpoints_are_never_mixed(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_state(other, ARRAYS, {**REST, "step": 8})
    shutil.copy(other / "state.json", written)
    with pytest.raises(CorruptionError, match=r"state\.json differs from its digest"):
        read_state(written)


@pytest.mark.parametrize("data", [b"", b"\x80\x04]\x94.", b"{}" * 20])
def test_bytes_that_are_no_arrays_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="no safetensors file"):
        unpack(data)
