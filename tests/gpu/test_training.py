"""Training on a real GPU: the curve of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from drawn import noise_store, sql
from filled import fill

from ferstore.cluster import cluster
from ferstore.store.store import Store
from ferstore.train.recipe import recipe_of
from ferstore.train.request import Experiment, TrainRequest
from ferstore.train.run import train
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("gpu"),
    pytest.mark.ray,
    pytest.mark.timeout(300),
    # Ray Train 2.60 reads deprecated settings of Ray Data as it starts.
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),
]
STEPS = 20


@pytest.fixture(scope="module")
def store(gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = noise_store(tmp_path_factory.mktemp("train"), 200)
    fill(made)
    split(made, SplitRequest("parts", "noise", "random"))
    return made


@pytest.fixture(scope="module")
def ray_here(gpu: None) -> Iterator[None]:
    with cluster(None, cpus=4):
        yield


def losses(store: Store, request: TrainRequest) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    [report] = train(store, request)
    assert report.state == "done"
    query = f"select loss from metrics where run_id = '{report.run_id}' and part = 'train' order by step"
    return np.array([row[0] for row in sql(store, query)], float)


@pytest.mark.parametrize("experiment", ["deepest", "sub_deep"])
def test_the_curve_is_that_of_the_cpu(store: Store, ray_here: None, experiment: Experiment) -> None:
    recipe = recipe_of("modern", ["patience=0", "batch_size=40"], steps=STEPS)  # with dropout, norms and decay
    cpu = losses(store, TrainRequest(experiment, "parts", recipe=recipe, width=8))
    gpu = losses(store, TrainRequest(experiment, "parts", recipe=recipe, width=8, gpus_per_worker=1))
    half = TrainRequest(experiment, "parts", recipe=recipe, width=8, gpus_per_worker=1, precision="mixed_float16")
    mixed = losses(store, half)
    assert len(cpu) == len(gpu) == len(mixed) == STEPS
    np.testing.assert_allclose(gpu, cpu, rtol=2e-3)
    np.testing.assert_allclose(mixed, cpu, rtol=5e-2)
    again = losses(store, TrainRequest(experiment, "parts", recipe=recipe, width=8, gpus_per_worker=1, seed=0))
    np.testing.assert_array_equal(again, gpu)
