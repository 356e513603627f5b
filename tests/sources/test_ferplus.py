from __future__ import annotations

import csv
import hashlib
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ferstore.errors import SourceError
from ferstore.image.fetch import Fetcher
from ferstore.sources import open_listing
from ferstore.sources.item import Duplicate, Item, Listing, Refused

HAPPY, SAD, SPLIT = (0, 10, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 9, 0, 0, 0, 0, 1, 0), (5, 5, 0, 0, 0, 0, 0, 0, 0, 0)
HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def row(name: str, votes: tuple[int, ...]) -> str:
    return f'{name},"(0, 0, 48, 48)",{",".join(map(str, votes))}'


def extraction(root: Path, folder: str, rows: list[str], images: list[str]) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "label.csv").write_text("".join(f"{row}\n" for row in rows))
    for name in images:
        (root / folder / name).write_bytes(b"1")


def refused(listing: Listing) -> dict[str, str]:
    return {entry.item_id: entry.error for entry in listing.entries if isinstance(entry, Refused)}


def found(listing: Listing) -> dict[str, tuple[int, int]]:
    return {entry.what: (entry.expected, entry.found) for entry in listing.expected}


# Layout "label_files"


def test_an_item_has_its_votes_label_and_split(tmp_path: Path) -> None:
    extraction(tmp_path, "FER2013/FER2013Train", [row("a.png", HAPPY), row("b.png", SPLIT)], ["a.png", "b.png"])
    extraction(tmp_path, "FER2013/FER2013Valid", [row("a.png", SAD)], ["a.png"])
    extraction(tmp_path, "FER2013/FER2013Test", [row("a.png", HAPPY)], ["a.png"])
    listing = open_listing("ferplus", str(tmp_path))
    url = f"file://{tmp_path}/FER2013"
    assert (listing.kind, listing.layout, listing.url) == ("ferplus", "label_files", f"file://{tmp_path}")
    assert listing.entries == (
        Item("FER2013/FER2013Train/a.png", f"{url}/FER2013Train/a.png", "happiness", HAPPY, official_split="train"),
        Item("FER2013/FER2013Train/b.png", f"{url}/FER2013Train/b.png", None, SPLIT, official_split="train"),
        Item("FER2013/FER2013Valid/a.png", f"{url}/FER2013Valid/a.png", "sadness", SAD, official_split="validation"),
        Item("FER2013/FER2013Test/a.png", f"{url}/FER2013Test/a.png", "happiness", HAPPY, official_split="test"),
    )
    assert len(listing.ignored) == 3
    assert found(listing) == {
        "train items": (28_558, 2),
        "validation items": (3_579, 1),
        "test items": (3_573, 1),
        "train items with a majority label": (25_045, 1),
        "validation items with a majority label": (3_191, 1),
        "test items with a majority label": (3_137, 1),
    }


def test_rows_and_images_without_one_another_are_declared(tmp_path: Path) -> None:
    rows = [
        row("a.png", HAPPY),
        row("gone.png", HAPPY),
        row("", SAD),
        row("../../../etc/passwd", SAD),
        'short.png,"(0, 0, 48, 48)",1,2,3',
        'negative.png,"(0, 0, 48, 48)",-1,0,0,0,0,0,0,0,0,0',
        'words.png,"(0, 0, 48, 48)",x,0,0,0,0,0,0,0,0,0',
        "",
    ]
    extraction(tmp_path, "FER2013Train", rows, ["a.png", "unlisted.png", "short.png", "notes.txt"])
    listing = open_listing("ferplus", str(tmp_path))
    unlisted = Item("FER2013Train/unlisted.png", f"file://{tmp_path}/FER2013Train/unlisted.png", official_split="train")
    assert [item.item_id for item in listing.items] == ["FER2013Train/a.png", "FER2013Train/unlisted.png"]
    assert listing.items[1] == unlisted
    errors = refused(listing)
    assert errors["FER2013Train/gone.png"] == "listed in label.csv, but there is no such file"
    assert errors["FER2013Train/label.csv#row3"] == "the image name is empty"
    assert "no such file" in errors["FER2013Train/../../../etc/passwd"]
    assert {"FER2013Train/short.png", "FER2013Train/negative.png", "FER2013Train/words.png"} < set(errors)
    # Seven rows and one unlisted image.
    assert len(listing.entries) == 8
    assert listing.ignored == ("FER2013Train/label.csv", "FER2013Train/notes.txt")


def test_a_name_listed_twice_is_a_duplicate_or_refused(tmp_path: Path) -> None:
    rows = [row("a.png", HAPPY), row("a.png", HAPPY), row("a.png", SAD)]
    extraction(tmp_path, "FER2013Train", rows, ["a.png"])
    listing = open_listing("ferplus", str(tmp_path))
    assert [type(entry) for entry in listing.entries] == [Item, Duplicate, Refused]
    assert refused(listing) == {"FER2013Train/a.png#2": "listed again with another label"}
    assert listing.items[0].label == "happiness"


def test_a_part_without_its_label_file_has_items_without_labels(tmp_path: Path) -> None:
    extraction(tmp_path, "FER2013Train", [row("a.png", HAPPY)], ["a.png"])
    (tmp_path / "FER2013Test").mkdir()
    (tmp_path / "FER2013Test" / "b.png").write_bytes(b"1")
    items = open_listing("ferplus", str(tmp_path)).items
    assert [(item.label, item.official_split) for item in items] == [("happiness", "train"), (None, "test")]


def test_two_extractions_in_one_folder_are_refused(tmp_path: Path) -> None:
    for copy in ("one", "two"):
        extraction(tmp_path, f"{copy}/FER2013Train", [row("a.png", HAPPY)], ["a.png"])
    with pytest.raises(SourceError, match="several folders for one part: one/FER2013Train, two/FER2013Train"):
        open_listing("ferplus", str(tmp_path))


def test_label_files_without_any_image_say_how_to_get_them(tmp_path: Path) -> None:
    extraction(tmp_path, "data/FER2013Train", [row("a.png", HAPPY)], [])
    with pytest.raises(SourceError, match="without a single image; extract the images"):
        open_listing("ferplus", str(tmp_path))


def test_the_shared_faces_have_the_counts_numpy_finds(shared: Path) -> None:
    root = shared / "data" / "ferplus-sample"
    listing = open_listing("ferplus", str(root))
    expected: Counter[str | None] = Counter()
    for folder, split in (("Train", "train"), ("Valid", "validation"), ("Test", "test")):
        with open(root / f"FER2013{folder}" / "label.csv", newline="") as file:
            votes = np.array([row[2:] for row in csv.reader(file)], dtype=int)
        votes[votes == 1] = 0
        expected[split] = int(((votes[:, :8].max(axis=1) * 2) > votes.sum(axis=1)).sum())
    assert len(listing.entries) == len(listing.items) == 3600
    assert Counter(item.official_split for item in listing.items if item.label) == expected
    assert len(listing.ignored) == 3


def test_an_archive_of_the_extraction_lists_as_the_folder_does(tmp_path: Path) -> None:
    extraction(tmp_path / "set", "FER2013Test", [row("a.png", HAPPY), row("b.png", SAD)], ["a.png", "b.png"])
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", ".")
    from_folder = open_listing("ferplus", str(tmp_path / "set"))
    from_archive = open_listing("ferplus", str(tmp_path / "set.tar.gz"))
    assert [(item.item_id, item.votes) for item in from_archive.items] == [
        (item.item_id, item.votes) for item in from_folder.items
    ]
    with Fetcher() as fetcher:
        assert fetcher.read(from_archive.items[1].url) == b"1"


# Layout "csv"


def pixels(value: int) -> str:
    return " ".join([str(value)] * 2304)


def csv_pair(
    root: Path,
    faces: list[tuple[str, str]],
    votes: list[str],
    *,
    end: str = "\n",
    names: tuple[str, str] = ("fer2013.csv", "fer2013new.csv"),
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lines = ["emotion,pixels,Usage", *(f"0,{text},{usage}" for text, usage in faces)]
    (root / names[0]).write_bytes("".join(line + end for line in lines).encode())
    (root / names[1]).write_bytes("".join(line + end for line in [HEADER, *votes]).encode())


def vote_row(usage: str, name: str, votes: tuple[int, ...]) -> str:
    return f"{usage},{name},{','.join(map(str, votes))}"


FACES = [(pixels(7), "Training"), (pixels(8), "PublicTest"), (pixels(9), "PrivateTest")]
VOTES = [
    vote_row("Training", "fer0000099.png", HAPPY),
    vote_row("PublicTest", "", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)),
    vote_row("PrivateTest", "fer0000099.png", SAD),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("names", [("fer2013.csv", "fer2013new.csv"), ("FER2013.CSV", "FER2013New.csv")])
def test_rows_are_joined_by_position_and_read_back_as_their_pixels(
    end: str, names: tuple[str, str], tmp_path: Path
) -> None:
    csv_pair(tmp_path / "fer", FACES, VOTES, end=end, names=names)
    listing = open_listing("ferplus", str(tmp_path))
    assert listing.layout == "csv"
    assert [(item.item_id, item.label, item.official_split) for item in listing.items] == [
        ("fer2013/00000000", "happiness", "train"),
        ("fer2013/00000001", None, "validation"),
        ("fer2013/00000002", "sadness", "test"),
    ]
    assert listing.items[1].votes == (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)
    with Fetcher() as fetcher:
        data = [fetcher.read(item.url) for item in listing.items]
    assert data == [b"P5\n48 48\n255\n" + bytes([value]) * 2304 for value in (7, 8, 9)]
    assert len({hashlib.sha256(content).hexdigest() for content in data}) == 3
    assert listing.ignored == tuple(f"fer/{name}" for name in sorted(names))
    assert found(listing)["train items"] == (28_709, 1)
    assert found(listing)["test items with a majority label"] == (3_153, 1)


def test_malformed_pixels_or_votes_refuse_their_row_alone(tmp_path: Path) -> None:
    faces = [("1 2 3", "Training"), (pixels(256), "Training"), (pixels(1), "Training"), (pixels(2), "Training")]
    votes = [vote_row("Training", "x", HAPPY)] * 3 + ["Training,x,1,2"]
    csv_pair(tmp_path, faces, votes)
    listing = open_listing("ferplus", str(tmp_path))
    assert [item.item_id for item in listing.items] == ["fer2013/00000002"]
    assert set(refused(listing)) == {"fer2013/00000000", "fer2013/00000001", "fer2013/00000003"}


def test_a_usage_that_differs_names_the_first_such_row(tmp_path: Path) -> None:
    csv_pair(tmp_path, FACES, [VOTES[0], *reversed(VOTES[1:])])
    with pytest.raises(SourceError, match=r"row 1 \(from 0\) has Usage 'PublicTest' in fer2013.csv and 'PrivateTest'"):
        open_listing("ferplus", str(tmp_path))


@pytest.mark.parametrize(("faces", "votes"), [(FACES, VOTES[:2]), (FACES[:2], VOTES), (FACES[:0], VOTES)])
def test_row_counts_that_differ_are_refused(faces: list[tuple[str, str]], votes: list[str], tmp_path: Path) -> None:
    csv_pair(tmp_path, faces, votes)
    with pytest.raises(SourceError, match=rf"has {len(faces)} rows and fer2013new.csv has {len(votes)}"):
        open_listing("ferplus", str(tmp_path))


def test_other_headers_and_endless_lines_are_refused(tmp_path: Path) -> None:
    csv_pair(tmp_path, FACES, VOTES)
    pixel_file, vote_file = tmp_path / "fer2013.csv", tmp_path / "fer2013new.csv"
    good = pixel_file.read_bytes()
    pixel_file.write_bytes(good.replace(b"emotion,pixels,Usage", b"emotion, Usage, pixels"))
    with pytest.raises(SourceError, match="another header; allowed: emotion,pixels,Usage"):
        open_listing("ferplus", str(tmp_path))
    pixel_file.write_bytes(good + b"1 " * 2**16)
    with pytest.raises(SourceError, match="a line of 65536 bytes or more at byte"):
        open_listing("ferplus", str(tmp_path))
    pixel_file.write_bytes(good)
    vote_file.write_text(vote_file.read_text().replace("contempt", "scorn"))
    with pytest.raises(SourceError, match="another header; allowed: Usage,Image name,neutral"):
        open_listing("ferplus", str(tmp_path))


def test_microsofts_repository_with_fer2013_beside_it_is_read_by_rows(tmp_path: Path) -> None:
    extraction(tmp_path, "data/FER2013Train", [row("a.png", HAPPY)], [])
    csv_pair(tmp_path, FACES, VOTES)
    assert open_listing("ferplus", str(tmp_path)).layout == "csv"


def test_rows_in_an_archive_are_refused_with_what_to_do(tmp_path: Path) -> None:
    csv_pair(tmp_path / "fer", FACES, VOTES)
    with tarfile.open(tmp_path / "fer.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "fer", "fer")
    with pytest.raises(SourceError, match="unpack it and give the folder"):
        open_listing("ferplus", str(tmp_path / "fer.tar.gz"))
