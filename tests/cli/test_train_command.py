"""``ferstore train`` and ``predict``: what cannot work is one line, exit code 2, and no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn import noise_store, tree_digest
from filled import fill

from ferstore import cli
from ferstore.store.store import Store
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = noise_store(tmp_path_factory.mktemp("train-command"), 30)
    fill(store)
    split(store, SplitRequest("parts", "noise", "random"))
    return store


@pytest.fixture(autouse=True)
def quiet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERSTORE_STORE", store.url)
    monkeypatch.setattr("ferstore.cli.session.log_to", lambda _: None)
    monkeypatch.setattr("ferstore.cli.entry.signal.signal", lambda *_: None)
    monkeypatch.setattr("ferstore.train.run.cluster", lambda *_, **__: pytest.fail("Ray was started"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("deepest --training-set nowhere", "no training set 'nowhere'; allowed: parts"),
        ("deepest --training-set parts --fold 1", "fold 1 of training set 'parts'; allowed: 0 to 0"),
        ("deepest --training-set parts --recipe old", "'old' is not"),
        ("deepest --training-set parts --steps 5 --epochs 5", "--steps and --epochs together; allowed: one of them"),
        ("deepest --training-set parts --steps 0", "steps 0; allowed: 1 to"),
        ("deepest --training-set parts --set drop=1", "did you mean dropout?"),
        ("deepest --training-set parts --set dropout=much", "--set dropout=much; allowed: a number"),
        ("deepest --training-set parts --set loss=hinge", "allowed: cross_entropy, focal, margin"),
        ("deepest --training-set parts --layers mixed_10", "allowed: vectors only"),
        ("deepest --training-set parts --layers pool_4", "did you mean pool_3?"),
        ("deepest --training-set parts --views hflip", "have no pool_3 (hflip)"),
        ("deepest --training-set parts --layers mixed_8_mean", "extract --layers mixed_8_mean --views identity"),
        ("deepest --training-set parts --joint", "allowed: with fusion"),
        ("deepest --training-set parts --workers 0", "--workers 0; allowed: 1 to"),
        ("deepest --training-set parts --precision mixed_float16", "or give --gpus-per-worker 1"),
        ("deepest --training-set parts --resume 20260101T000000-00000000", "no training"),
        ("sub_deep --training-set parts --width 0", "--width 0; allowed: 1 to"),
        ("sub_deep --training-set parts --layers mixed_10,mixed_9", "2 maps; allowed: one map"),
        ("fusion --training-set parts", "train it first: ferstore train sub_deep --training-set parts"),
        ("fusion --training-set parts --layers mixed_8_mean", "or give --set fusion=concat"),
        ("shallow --training-set parts", "'shallow' is not one of"),
    ],
)
def test_what_cannot_work_is_refused_before_a_worker_starts(
    store: Store, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    before = tree_digest(Path(store.url.removeprefix("file://")))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *words.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert error.count("\n") == 1
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before


def test_predict_refuses_a_run_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "--run", "20260101T000000-00000000", "face.png"])
    assert ended.value.code == 2
    assert "no training '20260101T000000-00000000'" in capsys.readouterr().err


def test_a_stop_is_one_line_that_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = KeyboardInterrupt()
    stop.add_note("continue from the last checkpoint: ferstore train deepest --training-set parts --resume R")

    def train(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("ferstore.api.FeatureStore.train", train)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "deepest", "--training-set", "parts"])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error == f"ferstore: stopped; {stop.__notes__[0]}\n"


def test_a_dry_run_says_what_would_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "sub_deep", "--training-set", "parts", "--width", "64", "--steps", "7", "--dry-run"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "width 64 (the paper's is 2048)" in out
    assert "would make 7 updates" in out
    assert "RANDOM weights" in out
