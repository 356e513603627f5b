from __future__ import annotations

import posixpath
import zipfile
from pathlib import Path

import pytest

from ferstore.errors import SourceError
from ferstore.sources import open_listing
from ferstore.sources.item import Item, Listing, Refused

IMAGES = "extended-cohn-kanade-images/cohn-kanade-images"
EMOTIONS = "Emotion_labels/Emotion"


def write(root: Path, name: str, content: str = "1") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content)


def sequence(root: Path, subject: str, number: str, frames: int, emotion: str | None = None) -> None:
    for frame in range(1, frames + 1):
        write(root, f"{IMAGES}/{subject}/{number}/{subject}_{number}_{frame:08}.png")
    if emotion is not None:
        write(root, f"{EMOTIONS}/{subject}/{number}/{subject}_{number}_{frames:08}_emotion.txt", emotion)


def found(listing: Listing) -> dict[str, tuple[int, int]]:
    return {entry.what: (entry.expected, entry.found) for entry in listing.expected}


def refused(listing: Listing) -> dict[str, str]:
    return {entry.item_id: entry.error for entry in listing.entries if isinstance(entry, Refused)}


def test_only_the_last_three_frames_of_a_labelled_sequence_have_its_label(tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 11, "   3.0000000e+00\n")
    sequence(tmp_path, "S010", "002", 4)
    sequence(tmp_path, "S011", "001", 2, "   7.0000000e+00\n")
    listing = open_listing("ckplus", str(tmp_path))
    assert listing.layout == "sequences"
    labelled = {posixpath.basename(item.item_id): item.label for item in listing.items if item.label}
    assert labelled == {
        "S005_001_00000009.png": "disgust",
        "S005_001_00000010.png": "disgust",
        "S005_001_00000011.png": "disgust",
        "S011_001_00000001.png": "surprise",
        "S011_001_00000002.png": "surprise",
    }
    assert len(listing.items) == 17
    assert {(item.subject, item.sequence) for item in listing.items} == {
        ("S005", "S005_001"),
        ("S010", "S010_002"),
        ("S011", "S011_001"),
    }


@pytest.mark.parametrize(
    ("number", "label"),
    list(enumerate(["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"], start=1)),
)
def test_every_number_has_its_class(number: int, label: str, tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 1, f"   {number}.0000000e+00\n")
    assert [item.label for item in open_listing("ckplus", str(tmp_path)).items] == [label]


@pytest.mark.parametrize("content", ["", "happy", "0.0", "8.0", "2.5", "nan", "inf", "-1"])
def test_an_emotion_file_without_a_class_is_refused_and_its_frames_stay_unlabelled(
    content: str, tmp_path: Path
) -> None:
    sequence(tmp_path, "S005", "001", 3, content)
    listing = open_listing("ckplus", str(tmp_path))
    assert [item.label for item in listing.items] == [None] * 3
    assert refused(listing) == {f"{EMOTIONS}/S005/001/S005_001_00000003_emotion.txt": "not a number from 1 to 7"}


def test_emotion_files_that_contradict_one_another_or_label_nothing_are_refused(tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 1, "1")
    write(tmp_path, f"{EMOTIONS}/S005/001/S005_001_00000009_emotion.txt", "2")
    write(tmp_path, f"{EMOTIONS}/S999/001/S999_001_00000009_emotion.txt", "2")
    listing = open_listing("ckplus", str(tmp_path))
    assert [item.label for item in listing.items] == ["anger"]
    assert sorted(refused(listing).values()) == [
        "labels the sequence S005_001 again, as contempt after anger",
        "labels the sequence S999_001, which has no frames",
    ]


def test_a_frame_whose_name_does_not_fit_its_folder_is_refused_and_other_files_are_ignored(tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 2, "1")
    write(tmp_path, f"{IMAGES}/S005/001/S006_001_00000001.png")
    write(tmp_path, f"{IMAGES}/S005/.DS_Store")
    write(tmp_path, "FACS_labels/FACS/S005/001/S005_001_00000002_facs.txt")
    listing = open_listing("ckplus", str(tmp_path))
    assert list(refused(listing)) == [f"{IMAGES}/S005/001/S006_001_00000001.png"]
    assert listing.ignored == (
        f"{EMOTIONS}/S005/001/S005_001_00000002_emotion.txt",
        "FACS_labels/FACS/S005/001/S005_001_00000002_facs.txt",
        f"{IMAGES}/S005/.DS_Store",
    )


def test_a_second_copy_does_not_change_which_frames_are_the_last(tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 5, "1")
    for frame in range(1, 6):
        write(tmp_path, f"copy/S005/001/S005_001_{frame:08}.png")
    labelled = [posixpath.basename(item.item_id) for item in open_listing("ckplus", str(tmp_path)).items if item.label]
    assert sorted(labelled) == sorted([f"S005_001_{frame:08}.png" for frame in (3, 4, 5)] * 2)


def test_sequence_counts_stand_beside_the_published_ones(tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 5, "5")
    sequence(tmp_path, "S005", "002", 2, "5")
    sequence(tmp_path, "S006", "001", 2)
    counts = found(open_listing("ckplus", str(tmp_path)))
    assert counts["sequences"] == (593, 3)
    assert counts["subjects"] == (123, 2)
    assert counts["labelled sequences"] == (327, 2)
    assert counts["labelled sequences: happy"] == (69, 2)
    assert counts["labelled images"] == (981, 5)


def test_ck48_takes_the_class_from_the_folder_and_the_subject_from_the_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ck.zip", "w") as archive:
        for name in ("CK+48/happy/S010_004_00000017.png", "CK+48/fear/x.png", "CK+48/fear/.x", "CK+48/notes.txt"):
            archive.writestr(name, b"1")
    listing = open_listing("ckplus", str(tmp_path / "ck.zip"))
    assert listing.layout == "ck48"
    url = f"zip://CK+48/happy/S010_004_00000017.png::file://{tmp_path}/ck.zip"
    assert listing.items == (
        Item("CK+48/happy/S010_004_00000017.png", url, "happy", subject="S010", sequence="S010_004"),
    )
    assert list(refused(listing)) == ["CK+48/fear/x.png"]
    assert listing.ignored == ("CK+48/fear/.x", "CK+48/notes.txt")
    assert found(listing)["happy"] == (207, 1)
    assert found(listing)["images"] == (981, 1)


def test_both_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    sequence(tmp_path, "S005", "001", 1)
    write(tmp_path, "CK+48/happy/S010_004_00000017.png")
    with pytest.raises(SourceError, match=r"holds CK\+ and CK\+48"):
        open_listing("ckplus", str(tmp_path))
