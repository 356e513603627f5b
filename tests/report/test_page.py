"""The folder of a report: what is in it, what is not, and that it is the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_store, tree_digest
from reported import CLASSES, HOSTILE, SECRETS, Filled

from ferstore import cli
from ferstore.api import FeatureStore
from ferstore.report.page import score, shade, signed
from ferstore.store.store import init_store
from ferstore.train.table_1 import table_1

FULL = {7: 132_658_183, 8: 132_658_696, 10: 132_659_722}
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements with their attributes, and the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(folder: Path) -> Page:
    page = Page((folder / "report.html").read_text("utf-8"))
    assert page.open == []
    return page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, which takes most of the time, where a test does not look at them."""
    monkeypatch.setattr("ferstore.report.charts._saved", lambda *_, **__: b"<svg/>")


def test_what_users_called_things_is_text_and_never_markup(made: Path) -> None:
    page = page_of(made)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]  # the page's own
    assert not any(tag == "b" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert CLASSES[0] in page.text
    assert HOSTILE in page.text
    assert {a["data-class"] for _, a in page.tags if "data-class" in a} == set(CLASSES)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a) or ""
    script = re.search(r"<script>(.*)</script>", (made / "report.html").read_text("utf-8"), re.DOTALL)
    assert script is not None
    digest = hashlib.sha256(script[1].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_nothing_is_loaded_from_elsewhere_and_every_image_is_described(made: Path) -> None:
    page = page_of(made)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 9
    assert all(attributes["alt"] for attributes in images)
    style = (made / "report.html").read_text("utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_table_1_is_that_of_the_head_that_is_built(made: Path) -> None:
    text = page_of(made).text
    for classes, parameters in FULL.items():
        assert sum(row[-1] for row in table_1(classes, 2048)) == parameters
        assert f"{classes} classes {parameters:,}" in text
    assert "Layers for 3 classes" in text


@pytest.mark.usefixtures("undrawn")
def test_random_weights_reduced_width_and_a_notice_stand_beside_their_results(filled: Filled, tmp_path: Path) -> None:
    filled.api.report(tmp_path, training_set="folded", notice="Drawn faces: this says nothing about people.")
    html = (tmp_path / "report.html").read_text("utf-8")
    text = page_of(tmp_path).text
    assert "Drawn faces: this says nothing about people." in text
    assert "Some features come from an untrained network" in text
    for mark in ("width 64 of 2,048", "random weights", "drawn faces"):
        # The figure's caption, the classes, the matrix, the calibration: four results of this page.
        assert html.count(f'<span class="badge">{mark}</span>') >= 4, mark
    [row] = re.findall(
        r"<tr data-experiment=\"sub_deep\">.*?</tr>", html.partition('id="t2"')[2].partition("</table>")[0]
    )
    assert all(word in row for word in ("width 64", "paper: 2,048", "random weights", "drawn faces", "modern"))


def test_two_runs_make_the_same_bytes(filled: Filled, made: Path, tmp_path: Path) -> None:
    filled.api.report(tmp_path / "again")
    assert tree_digest(tmp_path / "again") == tree_digest(made)
    assert json.loads((made / "report.json").read_text())["files"] == sorted(tree_digest(made))


def test_no_secret_and_no_pixel_of_a_face_is_in_the_folder(made: Path, filled: Filled) -> None:
    every = b"".join(path.read_bytes() for path in sorted(made.iterdir()))
    assert not any(secret.encode() in every for secret in SECRETS)
    assert b"https://***@host/faces.zip?***" in every
    html = (made / "report.html").read_text("utf-8")
    assert set(re.findall(r"data:image/([a-z+]+)", html)) == {"svg+xml"}
    assert "This page shows faces" not in html


@pytest.mark.usefixtures("undrawn")
def test_faces_are_shown_when_asked_for_and_never_another_than_the_items(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, original = filled.faces / "4.png", (filled.faces / "4.png").read_bytes()
    changed.write_bytes((filled.faces / "5.png").read_bytes())
    try:
        report = filled.api.report(tmp_path, faces=True)
    finally:
        changed.write_bytes(original)
    assert report.faces == 4  # fixed: 1, 2 and 4, broken: 3 and 5; 4 is another picture now
    page = page_of(tmp_path)
    shown = [a for tag, a in page.tags if tag == "img" and (a["src"] or "").startswith("data:image/jpeg")]
    assert sorted((a["alt"] or "").split()[3].rstrip(",") for a in shown) == [
        "001.png",
        "002.png",
        "003.png",
        "005.png",
    ]
    assert "This page shows faces (4 thumbnails)" in page.text
    assert "the file has changed since it was ingested" in page.text


@pytest.mark.usefixtures("undrawn")
def test_files_of_an_earlier_report_go_and_others_stay(filled: Filled, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    filled.api.report(folder, training_set="folded")
    (folder / "mine.txt").write_text("mine")
    report = filled.api.report(folder, training_set="bare")
    assert {path.name for path in folder.iterdir()} == {*report.files, "mine.txt"}
    assert not list(folder.glob("*.svg"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("filling", ["nothing", "images", "diverged"])
def test_a_store_with_little_has_a_page(tmp_path: Path, put: Callable[..., Any], filled: Filled, filling: str) -> None:
    store = noise_store(tmp_path, 3) if filling == "images" else init_store(str(tmp_path / "store"))
    if filling == "diverged":
        names = ("training_sets", "runs")
        rows = {n: filled.api.sql(f"from {n}").arrow().to_pylist() for n in names}
        put(store, **{n: [r for r in rows[n] if "diverged" in str(r) or r.get("name") == "parts"] for n in names})
    report = FeatureStore(store).report(tmp_path / "out")
    text = page_of(tmp_path / "out").text
    assert report.trainings == 0
    assert "No training has test predictions yet" in text
    assert "Table 1" in text
    assert report.missing
    assert ("parts-diverged" in text) == (filling == "diverged")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--output out --training-set nowhere",
            "no training set 'nowhere' in this store; allowed: bare, folded, parts",
        ),
        ("--output plain.txt", "plain.txt is a file; name a folder"),
        ("--output plain.txt/below", "plain.txt is a file; name a folder"),
        ("--output STORE/out", "lies inside the store"),
        ("--output out --at yesterday", "'yesterday' is no tag"),
        ("", "Missing option '--output'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_before_anything_is_written(
    filled: Filled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.txt").write_text("plain")
    here, store = tree_digest(tmp_path), Path(filled.api.url.removeprefix("file://"))
    before = tree_digest(store)
    code, out, err = run(capsys, monkeypatch, filled, *words.replace("STORE", str(store)).split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert (tree_digest(tmp_path), tree_digest(store)) == (here, before)


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_the_pages_path_or_one_object(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, monkeypatch, filled, "--output", str(tmp_path / "a"), "--training-set", "bare")
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "a" / "report.html"))
    code, out, _ = run(
        capsys, monkeypatch, filled, "--output", str(tmp_path / "b"), "--training-set", "folded", "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert (found["page"], found["trainings"], found["random"]) == (str(tmp_path / "b" / "report.html"), 2, True)
    assert found["training_sets"] == ["folded"]
    assert found["files"] == sorted(path.name for path in (tmp_path / "b").iterdir())


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, filled: Filled, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("ferstore.cli.session.log_to", lambda _: None)
    monkeypatch.setattr("ferstore.cli.entry.signal.signal", lambda *_: None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["--store", filled.api.url, "report", *words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize("share", [n / 20 for n in range(21)])
def test_ink_on_every_shade_has_the_contrast_that_reading_needs(share: float) -> None:
    colours = [
        [int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in re.findall(r"#[0-9a-f]{6}", str(shade(share, 1)))
    ]
    light = sorted(
        sum(
            w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
        )
        for rgb in colours
    )
    assert (light[1] + 0.05) / (light[0] + 0.05) >= 4.5


def test_numbers_without_a_value_are_a_dash() -> None:
    assert [score(v) for v in (None, float("nan"), 0.0, 1234.56)] == ["–", "–", "0.0", "1,234.6"]
    assert [signed(v) for v in (None, 0.0, -0.04, 3.0, -12.34)] == ["–", "0.0", "0.0", "+3.0", "−12.3"]
