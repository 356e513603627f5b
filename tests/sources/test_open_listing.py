from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from ferstore.errors import SourceError
from ferstore.sources import KINDS, open_listing


def test_an_unknown_kind_lists_the_kinds_and_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ferplus, ckplus, jaffe, folder; did you mean 'ferplus'\?"):
        open_listing("ferplsu", str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_says_so_in_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is nothing at .*nowhere; check the path") as caught:
        open_listing(kind, str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_says_what_was_looked_for(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"found no files; allowed: .+; give the folder"):
        open_listing(kind, str(tmp_path))


@pytest.mark.parametrize("kind", ["ferplus", "ckplus", "jaffe"])
def test_another_layout_says_what_was_found(kind: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"1")
    with pytest.raises(SourceError, match=f"is not a {kind} data set: found 1 files, such as holiday.png"):
        open_listing(kind, str(tmp_path))


@pytest.mark.timeout(20)
def test_listing_reads_no_image(tmp_path: Path) -> None:
    # Reading a FIFO would be refused or hang; listing does not even open it.
    for name in ("happy/x.png", "S001/001/S001_001_00000001.png", "KA.AN1.39.tiff", "FER2013Test/fer1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
    (tmp_path / "FER2013Test" / "label.csv").write_text('fer1.png,"(0, 0, 48, 48)",10,0,0,0,0,0,0,0,0,0\n')
    for kind in KINDS:
        assert open_listing(kind, str(tmp_path)).items


def test_what_an_archive_refuses_is_listed_once_and_nothing_is_lost(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("../KA.AN1.39.tiff", "KA.AN2.40.tiff", "README", "._x"):
            archive.writestr(name, b"1")
    listing = open_listing("jaffe", str(tmp_path / "set.zip"))
    assert [entry.item_id for entry in listing.entries] == ["KA.AN2.40.tiff", "../KA.AN1.39.tiff"]
    assert listing.ignored == ("._x", "README")
