"""``ferstore figures``: four figures with their numbers, the same whenever they are drawn, or one line and nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import noise_store, picture, sql, tree_digest, write
from filled import fill
from train_here import train_here

from ferstore import cli
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store
from ferstore.train.request import TrainRequest
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

FILES = [
    *(f"figure_{n}.{kind}" for n in (1, 2, 3, 4) for kind in ("png", "svg")),
    "figure_1_graph/events.out.tfevents.0000000000.ferstore",
    "figure_2.npz",
    "figure_3.npz",
]
NAMES = ["conv2d", *(f"conv2d_{n}" for n in range(1, 94))]
Outcome = tuple[int, str, str]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ferstore.cli.session.log_to", lambda _: None)
        patch.setattr("ferstore.cli.entry.signal.signal", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Pictures, features under random weights, and three trainings: with and without convolutions, and one at work."""
    store = noise_store(tmp_path_factory.mktemp("figures"), 30)
    extractor = fill(store)
    split(store, SplitRequest("parts", "noise", "random"))
    train_here(store, "sub_deep", "parts", width=3)
    train_here(store, "deepest", "parts")
    running = new_run("train", TrainRequest("sub_deep", "parts", fold=0).arguments(), extractor_id=extractor)
    record_run(store, running, "running", details={})
    return store


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store without features."""
    return init_store(str(tmp_path_factory.mktemp("bare") / "store")).url


@pytest.fixture
def here(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FERSTORE_STORE", store.url.removeprefix("file://"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["figures", *arguments])
    out, err = capsys.readouterr()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code, out, err


def files_of(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def runs_of(store: Store, experiment: str, state: str = "done") -> str:
    query = f"select run_id from runs where state = '{state}' and arguments like '%\"experiment\": \"{experiment}\"%'"
    return str(sql(store, query)[0][0])


@pytest.mark.inception
def test_an_image_gives_the_four_figures_and_the_same_bytes_by_file_or_by_id(
    store: Store, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(Path(store.url.removeprefix("file://")))
    [(image_id, url)] = sql(store, "select image_id, source_url from images order by item_id limit 1")
    code, out, err = run(capsys, str(url), "--output", "new/by file", "--json")
    assert code == 0
    report = json.loads(out)
    folder = here / "new" / "by file"
    assert sorted(files_of(folder)) == sorted(report["files"]) == sorted(FILES)
    assert report["image_id"] == image_id
    assert report["run_id"] == runs_of(store, "sub_deep")
    assert report["width"] == 3
    assert report["panels"] == [*NAMES, "conv1", "conv2", "conv3", "conv4"]
    assert report["parameters"]["extractor"] == 21_802_784
    assert "come from random weights (seed 0)" in err

    svg = (folder / "figure_3.svg").read_text()
    assert re.findall(r'<g id="panel_(\w+)"', svg) == report["panels"]
    for number in (1, 2, 3, 4):
        assert "RANDOM WEIGHTS (seed 0)" in (folder / f"figure_{number}.svg").read_text()

    code, out, _ = run(capsys, str(image_id), "--output", "by id")
    assert code == 0
    assert f"head of training {report['run_id']}, width 3" in out
    assert files_of(here / "by id") == files_of(folder)
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before
    numbers(folder)


def numbers(folder: Path) -> None:
    """What lies behind Figures 2 and 3 is in them, and is read without pickle."""
    with np.load(folder / "figure_2.npz") as two, np.load(folder / "figure_3.npz") as three:
        assert three["names"].tolist() == [*NAMES, "conv1", "conv2", "conv3", "conv4"]
        assert [three[name].shape for name in three["names"]] == [tuple(shape[:2]) for shape in three["shapes"]]
        assert (two["channels"].shape, two["fused"].shape) == ((149, 149, 25), (149, 149))
        np.testing.assert_array_equal(two["fused"], three["conv2d"])
        assert (two["fused"] >= two["channels"].sum(axis=-1) * 0.999).all()  # 7 more channels, none below 0
        assert three["shapes"][-1].tolist() == [1, 1, 2048]


@pytest.mark.inception
def test_weights_alone_need_no_store_and_show_no_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FERSTORE_STORE", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ferstore.report.canvas.rendered", lambda _: {"svg": b"drawn"})  # what the others have seen
    write(tmp_path, {"face.png": picture(1)})
    code, out, err = run(capsys, "face.png", "--output", "out", "--weights", "random", "--seed", "5")
    assert code == 0
    assert "the fused maps of 94 convolutions" in out
    assert "no trained head with conv1 to conv4: its panels are left out" in out
    assert "132,658,696" in out
    assert "random weights (seed 5)" in err
    with np.load(tmp_path / "out" / "figure_3.npz") as numbers:
        assert numbers["names"].tolist() == NAMES
    assert not (tmp_path / "nowhere").exists()


WRONG = {
    "no image": (["text.txt", "--output", "out"], "not an image"),
    "no file": (["nowhere.png", "--output", "out"], "no such file"),
    "a folder": (["faces", "--output", "out"], "not a regular file"),
    "a file for the folder": (["face.png", "--output", "text.txt"], "text.txt is a file; allowed: a folder"),
    "a file above the folder": (["face.png", "--output", "text.txt/a/b"], "text.txt is a file; allowed: a folder"),
    "a URL for the folder": (["face.png", "--output", "s3://bucket/out"], "allowed: a path on this machine"),
    "inside the store": (["face.png", "--output", "STORE/out"], "lies inside the store"),
    "no folder given": (["face.png"], "Missing option '--output'"),
    "unknown image_id": (["0" * 64, "--output", "out"], "no image '000"),
    "unknown run": (["face.png", "--output", "out", "--run", "nothing"], "no training 'nothing'"),
    "a run without convolutions": (["face.png", "--output", "out", "--run", "DEEPEST"], "(deepest) is no finished"),
    "a run at work": (["face.png", "--output", "out", "--run", "RUNNING"], "(sub_deep, running) is no finished"),
    "unknown extractor": (["face.png", "--output", "out", "--extractor", "none"], "no extractor 'none'"),
    "another extractor's run": (
        ["face.png", "--output", "out", "--extractor", "none", "--run", "SUB_DEEP"],
        "no finished training of extractor none",
    ),
    "weights and a run": (["face.png", "--output", "out", "--weights", "random", "--run", "x"], "reads no store"),
    "weights and an image_id": (["0" * 64, "--output", "out", "--weights", "random"], "allowed: an image file"),
    "weights that are not there": (["face.png", "--output", "out", "--weights", "no.h5"], "no.h5"),
    "a digest of other weights": (
        ["face.png", "--output", "out", "--weights", "random", "--weights-sha256", "0" * 64],
        "has the SHA-256",
    ),
    "a seed of no weights": (["face.png", "--output", "out", "--seed", "1"], "allowed: with --weights"),
    "no store": (["face.png", "--output", "out", "--store", "faces"], "no store at"),
    "a store without features": (["face.png", "--output", "out", "--store", "BARE"], "compute some first"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_computed_or_written(
    case: str, store: Store, bare: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ferstore.figures.run.draw", lambda *_: pytest.fail("the network would run"))
    root = store.url.removeprefix("file://")
    write(here, {"face.png": picture(1), "text.txt": b"text", "faces/a.png": picture(2)})
    known = {
        "BARE": bare,
        "STORE/out": f"{root}/out",
        "DEEPEST": runs_of(store, "deepest"),
        "SUB_DEEP": runs_of(store, "sub_deep"),
        "RUNNING": runs_of(store, "sub_deep", "running"),
    }
    around, inside = tree_digest(here), tree_digest(Path(root))
    arguments, said = WRONG[case]
    code, out, err = run(capsys, *(known.get(word, word) for word in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1, err
    assert (tree_digest(here), tree_digest(Path(root))) == (around, inside)
    assert not (here / "out").exists()


def test_a_file_that_is_no_longer_the_image_is_refused(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = noise_store(tmp_path / "own", 1)
    [(image_id, url)] = sql(store, "select image_id, source_url from images")
    Path(str(url).removeprefix("file://")).write_bytes(picture(99))
    code, _, err = run(capsys, str(image_id), "--output", "out", "--store", store.url)
    assert code == 2
    assert f"is no longer image {image_id}" in err


@pytest.mark.inception
def test_a_stop_while_it_draws_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Later, between two files, it leaves whole ones: each takes its name in one step (`store.files.write_file`)."""
    from ferstore.report import canvas

    def stop(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(canvas, "rendered", stop)
    write(here, {"face.png": picture(1)})
    code, out, err = run(capsys, "face.png", "--output", "out", "--weights", "random")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert not (here / "out").exists()
