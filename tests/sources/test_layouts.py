"""The drawn data sets lie on disk as the real ones do (facts of each distribution: names, sizes, label files)."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ferstore.errors import InputError
from ferstore.sources.layouts import Drawn, cast, write_ckplus, write_ferplus, write_jaffe
from ferstore.sources.people import EXPRESSIONS

SMALL = (17, 18, 16)
CKPLUS_CODES = dict(enumerate(["anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"], start=1))
Writer = Callable[[Path, int], Drawn]
WRITERS: list[Writer] = [
    lambda folder, seed: write_ferplus(folder, seed=seed, per_part=(16, 16, 16)),
    lambda folder, seed: write_ckplus(folder, seed=seed, subjects=1),
    lambda folder, seed: write_jaffe(folder, seed=seed, subjects=1),
]


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _rows(part: Path) -> list[tuple[str, str, list[int]]]:
    with (part / "label.csv").open(newline="", encoding="utf-8") as lines:
        return [(name, box, [int(vote) for vote in votes]) for name, box, *votes in csv.reader(lines)]


def _majority(votes: list[int]) -> str | None:
    """The rule of FERPLUS: votes that stand alone are dropped; the top label needs more than half of the others."""
    kept = [vote if vote > 1 else 0 for vote in votes]
    top = max(range(10), key=kept.__getitem__)
    return list(EXPRESSIONS)[top] if top < 8 and 2 * kept[top] > sum(kept) else None


@pytest.fixture(scope="module")
def ferplus(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return write_ferplus(tmp_path_factory.mktemp("ferplus"), seed=5, per_part=SMALL)


@pytest.fixture(scope="module")
def ckplus(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return write_ckplus(tmp_path_factory.mktemp("ckplus"), seed=5)


@pytest.fixture(scope="module")
def jaffe(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return write_jaffe(tmp_path_factory.mktemp("jaffe"), seed=5, subjects=3)


@pytest.mark.parametrize("write", WRITERS, ids=["ferplus", "ckplus", "jaffe"])
def test_one_seed_writes_the_same_bytes_and_another_seed_other_images(write: Writer, tmp_path: Path) -> None:
    for name, seed in (("once", 1), ("again", 1), ("other", 2)):
        write(tmp_path / name, seed)
    once, again, other = (_digests(tmp_path / name) for name in ("once", "again", "other"))
    assert once == again
    images = {name for name in once if name.endswith(("png", "tiff"))}
    assert images
    assert all(once[name] != other.get(name) for name in images)


@pytest.mark.parametrize("write", WRITERS, ids=["ferplus", "ckplus", "jaffe"])
def test_a_folder_in_use_is_refused_and_left_as_it_was(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"a user's own")
    with pytest.raises(InputError, match="not empty"):
        write(tmp_path, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine.png"]


def test_a_seed_has_twelve_people() -> None:
    assert len(set(cast(1))) == 12
    assert cast(1) == cast(1)
    assert not set(cast(1)) & set(cast(2))


def test_ferplus_has_three_parts_of_48_pixel_grey_faces_with_a_label_row_each(ferplus: Drawn) -> None:
    parts = dict(zip(("FER2013Train", "FER2013Valid", "FER2013Test"), SMALL, strict=True))
    assert ferplus.groups == parts
    assert ferplus.images == sum(SMALL)
    assert sorted(path.name for path in ferplus.folder.iterdir()) == sorted(parts)
    for part, count in parts.items():
        rows = _rows(ferplus.folder / part)
        images = {path.name for path in (ferplus.folder / part).glob("*.png")}
        assert len(rows) == count
        assert {name for name, _, _ in rows} == images
        for name, box, votes in rows:
            assert re.fullmatch(r"fer\d{7}\.png", name)
            assert box == "(0, 0, 48, 48)"
            assert (len(votes), sum(votes)) == (10, 10)
            with Image.open(ferplus.folder / part / name) as image:
                assert (image.size, image.mode, image.format) == ((48, 48), "L", "PNG")


def test_a_ferplus_row_is_written_as_the_official_extraction_writes_it(ferplus: Drawn) -> None:
    first = (ferplus.folder / "FER2013Train" / "label.csv").read_text().splitlines()[0]
    assert re.fullmatch(r'fer0000000\.png,"\(0, 0, 48, 48\)"(,\d+){10}', first)


def test_the_majority_rule_keeps_what_the_summary_counts_and_drops_some(ferplus: Drawn) -> None:
    labels = [_majority(votes) for part in ferplus.groups for _, _, votes in _rows(ferplus.folder / part)]
    kept = Counter(label for label in labels if label)
    assert dict(kept) == dict(ferplus.labels)
    assert 0 < labels.count(None) < len(labels) / 4


def test_every_ferplus_part_keeps_every_expression(ferplus: Drawn) -> None:
    for part in ferplus.groups:
        labels = {_majority(votes) for _, _, votes in _rows(ferplus.folder / part)}
        assert labels >= set(EXPRESSIONS), part


def test_one_ferplus_training_row_is_unknown_and_one_is_no_face(ferplus: Drawn) -> None:
    votes = [row[2] for row in _rows(ferplus.folder / "FER2013Train")]
    assert sum(row[8] > 5 for row in votes) == 1
    assert sum(row[9] > 5 for row in votes) == 1


def test_exactly_one_ferplus_image_is_there_twice_once_in_train_and_once_in_test(ferplus: Drawn) -> None:
    names: dict[str, list[str]] = {}
    for name, digest in _digests(ferplus.folder).items():
        names.setdefault(digest, []).append(name)
    (twice,) = [same for same in names.values() if len(same) > 1]
    assert sorted(Path(name).parent.name for name in twice) == ["FER2013Test", "FER2013Train"]


def test_a_ferplus_part_too_small_for_eight_expressions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="16 faces"):
        write_ferplus(tmp_path, seed=0, per_part=(40, 40, 15))


def test_ckplus_frames_are_named_and_sized_as_in_the_distribution(ckplus: Drawn) -> None:
    frames = sorted((ckplus.folder / "cohn-kanade-images").rglob("*.png"))
    assert len(frames) == ckplus.images == 48
    assert len(ckplus.groups) == 6
    for path in frames:
        match = re.fullmatch(r"(S\d{3})_(\d{3})_0000000[1-4]\.png", path.name)
        assert match
        assert path.parent.parts[-2:] == match.groups()
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((320, 245), "L")


def test_a_labelled_ckplus_sequence_has_one_code_at_its_last_frame_and_an_unlabelled_one_has_none(
    ckplus: Drawn,
) -> None:
    sequences = sorted((ckplus.folder / "cohn-kanade-images").glob("S*/*"))
    labels: Counter[str] = Counter()
    unlabelled = 0
    for sequence in sequences:
        emotion = ckplus.folder / "Emotion" / sequence.parent.name / sequence.name
        assert emotion.is_dir()
        files = list(emotion.iterdir())
        if not files:
            unlabelled += 1
            continue
        (file,) = files
        assert file.name == max(path.stem for path in sequence.iterdir()) + "_emotion.txt"
        assert re.fullmatch(r"   [1-7]\.0000000e\+00\n", file.read_text())
        labels[CKPLUS_CODES[int(float(file.read_text()))]] += 1
    assert unlabelled == 1
    assert dict(labels) == dict(ckplus.labels)
    assert set(labels) == set(CKPLUS_CODES.values())


def test_ckplus_has_facs_and_landmarks_beside_every_sequence(ckplus: Drawn) -> None:
    assert len(list((ckplus.folder / "FACS").rglob("*_facs.txt"))) == 12
    assert len(list((ckplus.folder / "Landmarks").rglob("*_landmarks.txt"))) == ckplus.images


def test_jaffe_has_one_image_of_each_class_a_subject(jaffe: Drawn) -> None:
    found: Counter[tuple[str, str]] = Counter()
    numbers = set()
    for path in jaffe.folder.iterdir():
        match = re.fullmatch(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)1\.(\d+)\.tiff", path.name)
        assert match
        found[match[1], match[2]] += 1
        numbers.add(match[3])
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((256, 256), "L", "TIFF")
    assert set(found.values()) == {1}
    assert len(found) == len(numbers) == jaffe.images == 21
    assert dict(Counter(subject for subject, _ in found)) == dict(jaffe.groups)


@pytest.mark.parametrize(("write", "most"), [(write_ckplus, 12), (write_jaffe, 10)])
def test_a_number_of_subjects_out_of_range_is_refused(write: Callable[..., Drawn], most: int, tmp_path: Path) -> None:
    for subjects in (0, most + 1):
        with pytest.raises(InputError, match=f"1 to {most}"):
            write(tmp_path / "new", seed=0, subjects=subjects)
    assert not (tmp_path / "new").exists()
