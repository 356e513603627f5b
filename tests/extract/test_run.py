"""``extract`` from end to end with a stub network: the account adds up, and what is there is left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import flat_picture, noise_files, noise_store, picture, sql, tree_digest, write
from scraped import scrape_until
from stub_network import POISON, stub_factory

from ferstore.cluster import cluster
from ferstore.errors import ExtractError, FerstoreError, InputError
from ferstore.extract import run as run_module
from ferstore.extract.request import ExtractReport, ExtractRequest
from ferstore.extract.run import extract
from ferstore.sources.ingest import ingest
from ferstore.store.store import Store, init_store
from ferstore.store.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

REQUEST = ExtractRequest(weights="random", batch_size=4, actors=2)


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    """One cluster for all runs here: a run uses the cluster its process is in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")  # else a test of metrics waits 10 s
        with cluster(None, cpus=4):
            yield


def run(store: Store, request: ExtractRequest = REQUEST, **options: Any) -> ExtractReport:
    report = extract(store, request, network=options.pop("network", stub_factory()), **options)
    adds_up(report)
    return report


def adds_up(report: ExtractReport) -> None:
    parts = (
        report.present,
        report.computed,
        report.landed_elsewhere,
        report.quarantined,
        report.held,
        report.beyond_limit,
    )
    assert report.wanted == sum(parts)


def changed(**fields: Any) -> ExtractRequest:
    return dataclasses.replace(REQUEST, **fields)


def counts(store: Store) -> tuple[object, ...]:
    (row,) = sql(store, "select (select count(*) from pool_3), (select count(*) from mixed_10)")
    return row


def runs(store: Store) -> list[tuple[object, ...]]:
    return sql(store, "select command, state, counts from runs where command = 'extract' order by started_at")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading an image, or reaching for Ray, fails the test."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("this run has nothing to compute")

    monkeypatch.setattr("ferstore.extract.worker.pixels", refuse)
    monkeypatch.setattr(run_module, "cluster", refuse)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, ExtractReport]:
    """A store whose 20 pictures have all been computed; tests only read it."""
    store = noise_store(tmp_path_factory.mktemp("filled"), 20)
    return store, run(store)


def test_every_image_has_each_layer_once_and_the_layers_agree(filled: tuple[Store, ExtractReport]) -> None:
    store, report = filled
    assert (report.images, report.wanted, report.computed, report.actors) == (20, 20, 20, 2)
    assert counts(store) == (20, 20)
    query = (
        "select count(*) from images join pool_3 using (image_id) join mixed_10 using (image_id, extractor_id, view)"
    )
    assert sql(store, query) == [(20,)]
    worst = "select max(abs(list_avg(tensor(mixed_10)) - list_avg(pool_3))) from pool_3 join mixed_10 using (image_id)"
    assert float(str(sql(store, worst)[0][0])) < 0.01
    assert runs(store) == [("extract", "done", '{"computed": 20, "landed_elsewhere": 0, "quarantined": 0}')]
    assert verify(store).sound


def test_a_second_run_reads_no_image_starts_no_cluster_and_changes_nothing(
    filled: tuple[Store, ExtractReport], no_work: None
) -> None:
    store, first = filled
    before = tree_digest(Path(store.url.removeprefix("file://")))
    report = run(store)
    assert (report.present, report.computed, report.run_id) == (20, 0, None)
    assert report.extractor == first.extractor
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before


def test_a_dry_run_plans_and_changes_nothing(filled: tuple[Store, ExtractReport], no_work: None) -> None:
    store, _ = filled
    before = tree_digest(Path(store.url.removeprefix("file://")))
    report = extract(store, changed(views=("identity", "hflip"), layers=("pool_3", "mixed_9")), dry_run=True)
    assert (report.wanted, report.present, report.computed) == (40, 0, 0)
    assert report.nbytes == 20 * 4 * 2048 + 40 * 2 * 8 * 8 * 2048
    assert report.run_id is None
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dataset": "nosie"}, r"no data set 'nosie' in this store; allowed: noise"),
        ({"layers": ("pool_33",)}, r"unknown layer 'pool_33'; allowed: .*; did you mean pool_3\?"),
        ({"layers": ()}, r"no layer"),
        ({"layers": ("pool_3", "pool_3")}, r"a layer given twice"),
        ({"views": ("vflip",)}, r"unknown view 'vflip'; allowed: identity, hflip; did you mean hflip\?"),
        ({"precision": "float23"}, r"unknown precision 'float23'; .* did you mean float32\?"),
        ({"precision": "float16"}, r"precision float16 without a GPU"),
        ({"weights": "/nowhere/w.h5"}, r"/nowhere/w.h5"),
        ({"weights": "random", "weights_sha256": "00"}, r"'00' is not the digest"),
        ({"weights": "random", "weights_sha256": "0" * 64}, r"0000"),
        ({"weights": "random", "seed": -1}, r"negative"),
        ({"batch_size": 0}, r"batch size 0; allowed: 1 to 4096"),
        ({"actors": 0}, r"0 actors; allowed: auto, or 1 and more"),
        ({"gpus_per_actor": 1.5}, r"1.5 GPUs an actor"),
        ({"gpus_per_actor": float("nan")}, r"nan GPUs an actor"),
        ({"limit": -1}, r"limit -1; allowed: 0 and more"),
    ],
)
def test_a_request_that_cannot_work_says_why_and_changes_nothing(
    filled: tuple[Store, ExtractReport], no_work: None, fields: dict[str, Any], said: str
) -> None:
    store, _ = filled
    before = tree_digest(Path(store.url.removeprefix("file://")))
    with pytest.raises(InputError, match=said) as caught:
        extract(store, changed(**fields), network=stub_factory())
    assert "\n" not in str(caught.value)
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"actors": 9}, r"9 actors on a cluster with 4 CPUs and 0 GPUs; allowed: at most 4"),
        ({"gpus_per_actor": 0.5}, r"0.5 GPUs an actor on a cluster with 0"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused_before_anything_is_written(
    filled: tuple[Store, ExtractReport], fields: dict[str, Any], said: str
) -> None:
    store, _ = filled
    before = tree_digest(Path(store.url.removeprefix("file://")))
    with pytest.raises(InputError, match=said):
        extract(store, changed(seed=7, **fields), network=stub_factory())
    assert tree_digest(Path(store.url.removeprefix("file://"))) == before


def test_a_layer_that_is_added_later_is_computed_alone(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 6)
    run(store, changed(layers=("pool_3",)))
    before = sql(store, "select image_id, extracted_at from pool_3 order by 1")
    report = run(store)
    assert (report.computed, report.nbytes) == (6, 6 * 2 * 8 * 8 * 2048)
    assert counts(store) == (6, 6)
    assert sql(store, "select image_id, extracted_at from pool_3 order by 1") == before
    assert sql(store, "select count(distinct extractor_id) from mixed_10") == [(1,)]


def test_other_weights_or_precision_are_other_extractors_and_both_are_kept(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 4)
    reports = [run(store, changed(**fields)) for fields in ({}, {"seed": 1}, {"precision": "bfloat16"})]
    assert [report.computed for report in reports] == [4, 4, 4]
    assert sql(store, "select seed, precision from extractors order by all") == [
        (0, "bfloat16"),
        (0, "float32"),
        (1, "float32"),
    ]
    assert sql(store, "select count(*), count(distinct extractor_id) from pool_3") == [(12, 3)]


def test_a_limit_is_kept_and_the_rest_follows(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 7)
    first = run(store, changed(limit=3))
    assert (first.computed, first.beyond_limit) == (3, 4)
    second = run(store, changed(limit=3))
    assert (second.present, second.computed, second.beyond_limit) == (3, 3, 1)
    assert run(store).computed == 1
    assert counts(store) == (7, 7)


def test_both_views_are_computed_and_are_mirrors(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 3)
    run(store)
    report = run(store, changed(views=("identity", "hflip")))
    assert (report.wanted, report.present, report.computed) == (6, 3, 3)
    rows = sql(store, "select image_id, view, tensor(mixed_10) from mixed_10 order by 1, 2")
    for flipped, identity in zip(rows[::2], rows[1::2], strict=True):
        assert (flipped[0], flipped[1], identity[1]) == (identity[0], "hflip", "identity")
        left, right = (np.array(row[2], np.float32).reshape(8, 8, 2048)[..., 0] for row in (flipped, identity))
        assert not np.array_equal(left, right)
        # 299 columns are not whole blocks of 37, so a mirrored block mean has slightly other columns in it.
        assert np.corrcoef(left[:, ::-1].ravel(), right.ravel())[0, 1] > 0.9


def test_one_data_set_of_several_is_computed_and_shared_images_are_not_repeated(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 5)
    ingest(store, "folder", str(write(tmp_path / "more", noise_files(6, first=3))))
    assert run(store, changed(dataset="more")).computed == 6
    report = run(store)
    assert (report.images, report.present, report.computed) == (9, 6, 3)


def test_failures_are_quarantined_held_back_and_tried_again_when_asked(tmp_path: Path) -> None:
    store = noise_store(tmp_path, 6)
    (tmp_path / "noise/sad/00000.png").unlink()
    write(tmp_path, {"noise/sad/00002.png": picture(99)})
    first = run(store)
    assert (first.computed, first.quarantined, first.held, first.in_quarantine) == (4, 2, 0, 2)
    held = run(store)
    assert (held.computed, held.held, held.run_id) == (0, 2, None)
    write(tmp_path, {"noise/sad/00000.png": picture(0)})
    again = run(store, changed(retry_quarantined=True))
    assert (again.computed, again.quarantined, again.held) == (1, 1, 0)
    query = "select item, attempts, stage, dataset, error from quarantine"
    assert sql(store, query) == [
        ("sad/00002.png", 2, "extract", "noise", "the file changed since it was ingested; ingest the data set again")
    ]


def test_a_picture_that_kills_its_process_is_quarantined_and_the_others_are_done(tmp_path: Path) -> None:
    files = {**noise_files(9), "sad/poison.png": flat_picture(POISON)}
    store = init_store(str(tmp_path / "store"))
    ingest(store, "folder", str(write(tmp_path / "noise", files)))
    report = run(store)
    assert (report.computed, report.quarantined) == (9, 1)
    assert sql(store, "select item, error from quarantine") == [
        ("sad/poison.png", "the process computing it died 2 times")
    ]
    assert counts(store) == (9, 9)


class Interrupt:
    """Progress that is told of so many shards, then stops the run as Ctrl-C does."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error = after, error

    def start(self, what: str, total: int | None) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self, items: int) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "stopped"), (SystemExit(15), "stopped"), (ExtractError("x"), "failed")]
)
def test_a_run_that_is_stopped_keeps_what_is_finished_and_goes_on_later(
    tmp_path: Path, error: BaseException, state: str
) -> None:
    store = noise_store(tmp_path, 24)
    with pytest.raises(type(error)):
        run(store, progress=Interrupt(2, error))
    assert counts(store) == (8, 8)
    assert runs(store) == [("extract", state, '{"computed": 8, "landed_elsewhere": 0, "quarantined": 0}')]
    report = run(store)
    assert (report.present, report.computed) == (8, 16)
    assert counts(store) == (24, 24)
    assert verify(store).sound


def test_the_error_that_ended_a_run_is_told_even_where_the_store_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    store = noise_store(tmp_path, 8)
    monkeypatch.setattr("ferstore.extract.committer.Committer.flush", full)
    with pytest.raises(ExtractError, match=r"^the first error$"):
        run(store, progress=Interrupt(1, ExtractError("the first error")))


def test_an_error_of_the_network_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    def factory() -> Any:
        def network(pictures: Any) -> Any:
            raise RuntimeError("the device is gone")

        return network

    store = noise_store(tmp_path, 4)
    with pytest.raises(ExtractError, match="RuntimeError: the device is gone"):
        extract(store, REQUEST, network=factory)
    assert counts(store) == (0, 0)
    assert runs(store)[0][1] == "failed"


def test_an_empty_store_has_nothing_to_compute(tmp_path: Path, no_work: None) -> None:
    report = run(init_store(str(tmp_path / "store")))
    assert (report.images, report.wanted) == (0, 0)


def test_a_data_set_before_any_ingest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FerstoreError, match="allowed: none yet; ingest one first"):
        run(init_store(str(tmp_path / "store")), changed(dataset="x"))


def test_prometheus_sees_the_account_the_queue_and_the_time(tmp_path: Path) -> None:
    files = noise_files(20) | {"noise/bad.png": b"not a picture"}
    store = init_store(str(tmp_path / "store"))
    ingest(store, "folder", str(write(tmp_path / "faces", files)), name="watched")
    (tmp_path / "faces" / next(iter(noise_files(1)))).unlink()  # it cannot be read any more
    report = run(store, changed(dataset="watched"))
    images = "ray_ferstore_extract_images_total", "watched"
    seen = scrape_until(lambda now: now[*images, "computed"] + now[*images, "quarantined"] >= report.wanted)
    assert (seen[*images, "computed"], seen[*images, "quarantined"]) == (19, 1)
    for state in ("planned", "in_flight"):
        queue = "ray_ferstore_extract_queue_images", "watched", state
        assert queue in seen
        assert seen[queue] == 0, "it would stand for as long as the node lives"
    for layer in REQUEST.layers:
        sizes = sum(file.file_size_in_bytes for file in store.pin().data_files(layer))
        assert seen["ray_ferstore_extract_bytes_total", "watched", layer] == sizes
    assert seen["ray_ferstore_extract_network_seconds_total", "watched"] > 0
    assert seen["ray_ferstore_extract_wait_seconds_total", "watched"] > 0
    assert seen["ray_ferstore_commit_seconds_count", "extract", "watched"] > 0
