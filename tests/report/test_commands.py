"""Commands that the page prints do what the run did: each is parsed by the command line again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from typing import Any

import pytest

from ferstore import cli
from ferstore.extract.request import ExtractRequest
from ferstore.report.commands import reproduce
from ferstore.train.recipe import MODERN, PAPER, recipe_of
from ferstore.train.request import TrainRequest
from ferstore.train.split_plan import SplitRequest


class Asked(Exception):  # noqa: N818  in the place of a result
    """What a command handed to the API."""


class Ears:
    """In the place of a store."""

    def __init__(self, *_: Any) -> None:
        """For whatever request."""

    def __getattr__(self, _: str) -> Any:
        def ask(*given: Any, **more: Any) -> None:
            raise Asked(given, {name: more[name] for name in ("name",) if name in more})

        return ask


@pytest.fixture(autouse=True)
def ears(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("fill", "learn"):
        monkeypatch.setattr(f"ferstore.cli.{module}.open_store", Ears)
    monkeypatch.setattr("ferstore.cli.fill.decoder_log", lambda *_: None)


def heard(command: str) -> Any:
    words = shlex.split(command)
    assert words[0] == "ferstore"
    with pytest.raises(Asked) as asked:
        cli.app(words[1:], standalone_mode=False)
    (given, more) = asked.value.args
    return (*given, more["name"]) if "name" in more else given[0]


def row(command: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"command": command, "arguments": json.dumps(arguments), "extractor_id": "e" * 16, **more}


REQUESTS = [
    TrainRequest("deepest", "parts", fold=0),
    TrainRequest("sub_deep", "parts", fold=0, width=64, seed=3, views=("identity", "hflip"), recipe=MODERN),
    TrainRequest("sub_deep", "parts", fold=0, layers=("mixed_8",), recipe=recipe_of("modern", steps=50)),
    TrainRequest(
        "fusion", "parts", fold=0, recipe=recipe_of("paper", ["fusion=concat", "learning_rate=0.001"], epochs=2)
    ),
    TrainRequest(
        "fusion", "parts", fold=0, joint=True, precision="mixed_bfloat16", recipe=replace(PAPER, batch_norm=True)
    ),
    TrainRequest("fusion", "parts", fold=0, conv4="run", workers=2, gpus_per_worker=0.5, checkpoint_seconds=60.0),
    TrainRequest("deepest", "parts", fold=0, layers=("pool_3", "mixed_9_mean"), recipe=replace(MODERN, dropout=0.25)),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"{r.experiment} {r.settings}")
def test_a_training_is_asked_for_again_as_it_was(request_: TrainRequest) -> None:
    [command] = reproduce([row("train", request_.arguments())], {"parts": 1})
    assert heard(command) == replace(request_, fold=None, extractor="e" * 16)


def test_all_folds_are_one_command_and_some_are_one_each() -> None:
    folds = [TrainRequest("deepest", name, fold=fold) for name in ("all", "some") for fold in (0, 1)]
    commands = reproduce([row("train", request.arguments()) for request in folds], {"all": 2, "some": 3})
    assert [heard(command).fold for command in commands] == [None, 0, 1]


@pytest.mark.parametrize(
    "request_",
    [
        ExtractRequest(),
        ExtractRequest(dataset="my 'faces'", layers=("pool_3", "mixed_9"), weights="random", seed=4, actors=2, limit=9),
        ExtractRequest(weights="/w.h5", weights_sha256="0" * 64, precision="bfloat16", views=("identity", "hflip")),
        ExtractRequest(batch_size=8, gpus_per_actor=0.5, retry_quarantined=True),
    ],
)
def test_an_extract_is_asked_for_again_as_it_was(request_: ExtractRequest) -> None:
    [command] = reproduce([row("extract", asdict(request_))], {})
    assert heard(command) == request_


@pytest.mark.parametrize(
    "request_",
    [SplitRequest("p", "d", "random"), SplitRequest("p", "d", "subject", "soft", 7, 0, "drop")],
)
def test_a_split_is_asked_for_again_as_it_was(request_: SplitRequest) -> None:
    [command] = reproduce([row("split", asdict(request_))], {})
    assert heard(command) == request_


def test_an_ingest_is_told_without_its_secrets_and_quoted() -> None:
    arguments = {"kind": "folder", "url": "https://me:pw@host/a b.zip?sig=x", "name": "it's"}
    [command] = reproduce([row("ingest", arguments), row("ingest", arguments)], {})
    assert heard(command) == ("folder", "https://***@host/a b.zip?***", "it's")


def test_what_has_no_command_is_left_out() -> None:
    assert reproduce([row("tag", {}), row("erase", {})], {}) == ()
