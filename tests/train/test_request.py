"""A request is checked before anything is read, and recorded so that it can be asked for again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.errors import InputError
from ferstore.train.recipe import MODERN, PAPER, recipe_of
from ferstore.train.request import EXPERIMENTS, TrainRequest, canonical, for_fold, request_of


def request(experiment: Any = "deepest", **other: Any) -> TrainRequest:
    return TrainRequest(experiment, "parts", **other)


SOUND = [
    request("deepest"),
    request("deepest", recipe=MODERN, views=("identity", "hflip"), fold=3),
    request("deepest", layers=("mixed_8_mean", "pool_3"), extractor="e" * 16),
    request("sub_deep", width=64, seed=7, workers=4),
    request("sub_deep", layers=("mixed_9",), precision="mixed_bfloat16"),
    request("sub_deep", gpus_per_worker=0.5, precision="mixed_float16", checkpoint_seconds=3),
    request("fusion"),
    request("fusion", conv4="20261124T000000-00000000", recipe=recipe_of("modern", ["fusion=max"], steps=10)),
    request("fusion", layers=("mixed_9_mean",)),
    request("fusion", layers=("mixed_8_mean",), recipe=recipe_of("paper", ["fusion=concat"])),
    request("fusion", joint=True),
    request("fusion", joint=True, layers=("mixed_9", "pool_3"), width=32),
]


@pytest.mark.parametrize("sound", SOUND, ids=canonical)
def test_a_sound_request_passes_and_is_the_same_when_it_is_read_back_from_its_record(sound: TrainRequest) -> None:
    sound.check()
    recorded = json.loads(json.dumps(sound.arguments()))
    assert request_of(recorded) == sound
    assert canonical(request_of(recorded)) == canonical(sound)


HEADS: list[dict[str, Any]] = [
    {"experiment": "deepest"},
    {"experiment": "deepest", "layers": ("mixed_8_mean", "mixed_9_mean")},
    {"experiment": "sub_deep"},
    {"experiment": "sub_deep", "layers": ("mixed_8",)},
    {"experiment": "sub_deep", "layers": ("mixed_9", "pool_3")},
    {"experiment": "fusion", "conv4": "run"},
    {"experiment": "fusion", "layers": ("mixed_9_mean", "pool_3")},
    {"experiment": "fusion", "joint": True},
    {"experiment": "fusion", "joint": True, "layers": ("mixed_9", "pool_3")},
]


@settings(deadline=None, max_examples=50)
@given(
    head=st.sampled_from(HEADS),
    recipe=st.builds(
        recipe_of,
        st.sampled_from(["paper", "modern"]),
        st.lists(st.sampled_from(["hidden=8", "batch_norm=true", "dropout=0.25", "fusion=mean", "loss=margin"])),
        steps=st.none() | st.integers(1, 9),
    ),
    views=st.sampled_from([("identity",), ("hflip",), ("identity", "hflip")]),
    seed=st.integers(0, 2**31 - 1),
    fold=st.none() | st.integers(0, 9),
    width=st.integers(1, 65536),
    workers=st.integers(1, 100),
)
def test_whatever_passes_is_the_same_when_it_is_read_back(head: dict[str, Any], **other: Any) -> None:
    sound = TrainRequest(training_set="parts", **head, **other)
    sound.check()
    assert request_of(json.loads(json.dumps(sound.arguments()))) == sound


def test_layers_given_as_the_experiments_own_are_the_same_request_as_none() -> None:
    assert canonical(request("deepest", layers=("pool_3",))) == canonical(request("deepest"))
    assert request_of(request("deepest", layers=("pool_3",)).arguments()) == request("deepest")


def test_a_record_names_every_feature_read_and_every_option() -> None:
    recorded = request("fusion", joint=True, recipe=MODERN).arguments()
    assert recorded["layers"] == ["mixed_10", "pool_3"]
    assert (recorded["recipe"], recorded["options"]["dropout"], recorded["options"]["epochs"]) == ("modern", 0.5, 40)


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (request("deepest"), ("pool_3",)),
        (request("deepest", layers=("mixed_8_mean", "mixed_7_mean")), ("mixed_8_mean", "mixed_7_mean")),
        (request("sub_deep"), ("mixed_10",)),
        (request("sub_deep", layers=("mixed_8",)), ("mixed_8",)),
        (request("fusion"), ("conv4", "pool_3")),
        (request("fusion", layers=("mixed_9_mean",)), ("conv4", "mixed_9_mean")),
        (request("fusion", joint=True), ("mixed_10", "pool_3")),
        (request("fusion", joint=True, layers=("mixed_9", "pool_3")), ("mixed_9", "pool_3")),
    ],
)
def test_each_experiment_reads_its_own_features_unless_others_are_given(
    asked: TrainRequest, read: tuple[str, ...]
) -> None:
    assert asked.read_layers == read


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("recipe", [PAPER, MODERN])
def test_a_plain_recipe_has_nothing_to_say_of_itself(experiment: Any, recipe: Any) -> None:
    plain = request(experiment, recipe=recipe, fold=2, seed=5, workers=3, gpus_per_worker=1, checkpoint_seconds=60)
    assert plain.settings == ""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(recipe=recipe_of("paper", ["hidden=64"])), "hidden=64"),
        (request(recipe=recipe_of("paper", epochs=3)), "epochs=3"),
        (request(recipe=recipe_of("paper", steps=10)), "steps=10"),
        (request(recipe=recipe_of("modern", steps=10)), "steps=10"),
        (request(recipe=recipe_of("modern", ["standardise=false", "dropout=0"])), "standardise=False dropout=0.0"),
        (request(layers=("mixed_8_mean", "mixed_9_mean")), "layers=mixed_8_mean+mixed_9_mean"),
        (request(views=("identity", "hflip")), "views=identity+hflip"),
        (request(views=("hflip",)), "views=hflip"),
        (request("fusion", joint=True), "joint"),
        (request(precision="mixed_bfloat16"), "precision=mixed_bfloat16"),
    ],
)
def test_every_difference_from_a_plain_recipe_is_named(asked: TrainRequest, said: str) -> None:
    assert asked.settings == said


def test_all_differences_are_named_together() -> None:
    asked = request(
        "fusion",
        recipe=recipe_of("modern", ["fusion=max", "class_balance=0.5"], epochs=4),
        layers=("mixed_9", "mixed_9_mean"),
        views=("identity", "hflip"),
        joint=True,
        precision="mixed_bfloat16",
    )
    asked.check()
    assert asked.settings == (
        "epochs=4 class_balance=0.5 fusion=max layers=mixed_9+mixed_9_mean views=identity+hflip joint "
        "precision=mixed_bfloat16"
    )


WRONG: list[tuple[TrainRequest, str]] = [
    (request("deep"), "unknown experiment 'deep'; allowed: deepest, sub_deep, fusion; did you mean"),
    (request("sub-deep"), "unknown experiment 'sub-deep'; .*did you mean sub_deep"),
    (request(precision="float16"), "unknown precision 'float16'; allowed: float32, mixed_bfloat16, mixed_float16"),
    (request(precision="mixed_float16"), "mixed_float16 without a GPU; .*--gpus-per-worker 1"),
    (request(recipe=replace(PAPER, dropout=2.0)), "dropout 2.0; allowed: 0 to 0.95"),
    (request(recipe=replace(PAPER, epochs=2)), "--steps and --epochs together"),
    (request(width=0), "--width 0; allowed: 1 to 65536"),
    (request(width=65537), "--width 65537; allowed: 1 to 65536"),
    (request(seed=-1), "--seed -1; allowed: 0 to 2.147"),
    (request(seed=2**31), "--seed 2.147.*; allowed: 0 to"),
    (request(workers=0), "--workers 0; allowed: 1 to 10000"),
    (request(workers=101), "101 workers for batches of 100; allowed: at most one an example"),
    (request(gpus_per_worker=1.5), "--gpus-per-worker 1.5; allowed: 0 to 1"),
    (request(gpus_per_worker=-0.5), "--gpus-per-worker -0.5; allowed: 0 to 1"),
    (request(gpus_per_worker=float("nan")), "--gpus-per-worker nan; allowed: 0 to 1"),
    (request(checkpoint_seconds=2.9), "--checkpoint-seconds 2.9; allowed: 3 to 86400"),
    (request(checkpoint_seconds=1e9), r"--checkpoint-seconds 1e\+09; allowed: 3 to 86400"),
    (request(views=("flip",)), "unknown view 'flip'; allowed: identity, hflip; did you mean hflip"),
    (request(views=()), "--views; allowed: identity, hflip, each once"),
    (request(views=("hflip", "hflip")), "--views hflip,hflip; allowed: identity, hflip, each once"),
    (request("deepest", joint=True), "--joint or --conv4 with deepest; allowed: with fusion"),
    (request("sub_deep", conv4="run"), "--joint or --conv4 with sub_deep; allowed: with fusion"),
    (request("fusion", joint=True, conv4="run"), "--joint with --conv4; allowed: one of them"),
    (request(layers=("pool_4",)), "unknown layer 'pool_4'; allowed: .*; did you mean pool_3"),
    (request("fusion", layers=("conv4", "pool_3")), "unknown layer 'conv4'"),
    (request(layers=("pool_3", "pool_3")), "a layer given twice: pool_3, pool_3; allowed: each once"),
    (request("deepest", layers=("mixed_10",)), "deepest with --layers mixed_10: 1 maps; allowed: vectors only"),
    (request("sub_deep", layers=("pool_3",)), "sub_deep with --layers pool_3: 0 maps; allowed: one map of"),
    (request("sub_deep", layers=("mixed_9", "mixed_10")), "sub_deep with --layers mixed_9,mixed_10: 2 maps; allowed"),
    (request("fusion", layers=("mixed_10",)), "fusion with --layers conv4,mixed_10: 1 maps; allowed: vectors only"),
    (request("fusion", joint=True, layers=("pool_3",)), "fusion with --layers pool_3: 0 maps; allowed: one map of"),
    (request("fusion", joint=True, layers=("mixed_10",)), "fusion of conv4 with nothing; allowed: --layers with"),
    (request("fusion", layers=("mixed_7_mean",)), "fusion=sum of mixed_7_mean, which has 768 values; .*fusion=concat"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[said.split(";")[0] for _, said in WRONG])
def test_each_wrong_setting_is_refused_in_a_line(wrong: TrainRequest, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        wrong.check()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_request_for_one_fold_differs_in_that_alone() -> None:
    asked = request("sub_deep", width=8)
    assert for_fold(asked, 4) == replace(asked, fold=4)


def test_two_requests_are_one_text_only_where_they_are_the_same() -> None:
    assert canonical(request()) == canonical(request())
    assert len({canonical(other) for other in (*SOUND, request(seed=1), request(width=3))}) == len(SOUND) + 2
