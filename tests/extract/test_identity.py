"""An extractor's id changes with whatever can change a feature, and with nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from ferstore.extract.identity import Extractor

BASE = Extractor(
    weights="imagenet",
    weights_kind="imagenet",
    weights_sha256="0" * 64,
    seed=None,
    variant="v",
    preprocessing="p",
    precision="float32",
    map_dtype="float16",
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_sha256", "1" * 64),
        ("variant", "w"),
        ("preprocessing", "q"),
        ("precision", "bfloat16"),
        ("map_dtype", "float32"),
    ],
)
def test_a_setting_that_changes_features_is_another_extractor(field: str, value: str) -> None:
    assert dataclasses.replace(BASE, **{field: value}).extractor_id != BASE.extractor_id  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("weights", "/copy/of/the/file.h5"), ("weights_kind", "file")])
def test_the_same_weights_under_another_name_are_the_same_extractor(field: str, value: str) -> None:
    assert dataclasses.replace(BASE, **{field: value}).extractor_id == BASE.extractor_id  # type: ignore[arg-type]


def test_the_id_is_what_stores_on_disk_already_hold() -> None:
    # SHA-256 of {"map_dtype": "float16", "precision": "float32", ...} with sorted keys: a change orphans features.
    assert BASE.extractor_id == "2abce2ec12d6c658"
