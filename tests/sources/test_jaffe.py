from __future__ import annotations

from pathlib import Path

from ferstore.sources import open_listing
from ferstore.sources.item import Item, Refused


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def test_subject_and_class_come_from_the_name(tmp_path: Path) -> None:
    make(tmp_path, "jaffe/KA.AN1.39.tiff", "jaffe/km.su3.16.TIF")
    assert open_listing("jaffe", str(tmp_path)).entries == (
        Item("jaffe/KA.AN1.39.tiff", f"file://{tmp_path}/jaffe/KA.AN1.39.tiff", "anger", subject="KA"),
        Item("jaffe/km.su3.16.TIF", f"file://{tmp_path}/jaffe/km.su3.16.TIF", "surprise", subject="KM"),
    )


def test_every_code_has_its_class(tmp_path: Path) -> None:
    make(tmp_path, *[f"KA.{code}1.{n}.tiff" for n, code in enumerate(["AN", "DI", "FE", "HA", "NE", "SA", "SU"])])
    labels = {item.item_id[3:5]: item.label for item in open_listing("jaffe", str(tmp_path)).items}
    assert labels == {
        "AN": "anger",
        "DI": "disgust",
        "FE": "fear",
        "HA": "happiness",
        "NE": "neutral",
        "SA": "sadness",
        "SU": "surprise",
    }


def test_images_of_another_name_are_refused_and_other_files_ignored(tmp_path: Path) -> None:
    make(tmp_path, "KA.AN1.39.tiff", "KA.XX1.39.tiff", "face.png", "KA.AN1.39.tiff.txt", "README", ".DS_Store")
    listing = open_listing("jaffe", str(tmp_path))
    refused = {entry.item_id for entry in listing.entries if isinstance(entry, Refused)}
    assert refused == {"KA.XX1.39.tiff", "face.png"}
    assert listing.ignored == (".DS_Store", "KA.AN1.39.tiff.txt", "README")


def test_counts_stand_beside_the_published_ones(tmp_path: Path) -> None:
    make(tmp_path, "KA.AN1.39.tiff", "KA.AN2.40.tiff", "KM.HA1.3.tiff")
    expected = {entry.what: (entry.expected, entry.found) for entry in open_listing("jaffe", str(tmp_path)).expected}
    assert expected["anger"] == (30, 2)
    assert expected["images"] == (213, 3)
    assert expected["subjects"] == (10, 2)
    assert len(expected) == 9
