"""A person leaves every table, every kept state and every byte of the store; everybody else stays as they were."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import picture, sql, tree_digest, write
from filled import fill

from ferstore.errors import ConflictError, InputError
from ferstore.extract.request import ExtractRequest
from ferstore.sources.ingest import ingest
from ferstore.store import erase as erase_module
from ferstore.store.commit import Change, transact
from ferstore.store.doctor import doctor
from ferstore.store.erase import erase, unfinished_erasures
from ferstore.store.files import local_path
from ferstore.store.pin import Pin
from ferstore.store.rows import write_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import vacuum
from ferstore.store.verify import verify
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import open_training_set, split

PLANTED = np.frombuffer(hashlib.sha256(b"planted").digest() * 256, "<f2").astype(np.float32)[:2048]
PLANTED = np.nan_to_num(PLANTED, nan=1.5, posinf=2.5, neginf=-2.5) / 64
PEOPLE = {"anna": 4, "ben": 4, "cy": 4}
PICTURES = {f"{who}-{n}.png": picture(index * 10 + n) for index, who in enumerate(PEOPLE) for n in range(PEOPLE[who])}


def image_id(name: str) -> str:
    return hashlib.sha256(PICTURES[name]).hexdigest()


ANNA = {image_id(f"anna-{n}.png") for n in range(4)}


def listing(folder: Path, **labels: str) -> Path:
    """A CSV of everybody's pictures with subject and label."""
    write(folder, PICTURES)
    lines = ["url,label,subject,split"]
    for number, name in enumerate(PICTURES):
        label = labels.get(name, "happy" if number % 2 else "sad")
        lines.append(f"{name},{label},{name.split('-')[0]},{('train', 'train', 'validation', 'test')[number % 4]}")
    (folder / "faces.csv").write_text("\n".join(lines))
    return folder / "faces.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of three people's features, a tag, a past state and a training set, and its copy."""
    folder = tmp_path_factory.mktemp("erase")
    store = init_store(str(folder / "store"))
    ingest(store, "folder", str(listing(folder / "faces")), name="people")
    create_tag(store, "before features")
    fill(store, ExtractRequest(weights="random", views=("identity", "hflip")))
    split(store, SplitRequest("parts", dataset="people", protocol="official"))
    shutil.copytree(folder, folder.with_suffix(".copy"))
    return folder


@pytest.fixture
def home(made: Path) -> Path:
    """That folder as it was made: a store cannot be moved, so each test puts it back."""
    shutil.rmtree(made)
    shutil.copytree(made.with_suffix(".copy"), made)
    return made


@pytest.fixture
def faces(home: Path) -> Path:
    return home / "faces"


@pytest.fixture
def store(home: Path) -> Store:
    return open_store(str(home / "store"))


@pytest.fixture
def traces(store: Store, put: Any) -> Store:
    """What trainings and failures leave of anna, and a vector of hers that is nobody else's."""
    rows = {"image_id": image_id("anna-1.png")}
    put(
        store,
        pool_3=[{**rows, "extractor_id": "planted", "view": "identity", "pool_3": PLANTED}],
        conv4=[{**rows, "run_id": "t", "conv4": PLANTED}],
        predictions=[{**rows, "run_id": "t", "item_id": "anna-1.png", "probabilities": [0.25, 0.75]}],
        quarantine=[
            {"stage": "extract", "dataset": "people", "item": "anna-2.png", "image_id": image_id("anna-2.png")},
            {"stage": "ingest", "dataset": "people", "item": "more/anna/5.png", "error": "no picture"},
            {"stage": "ingest", "dataset": "people", "item": "more/annabel/5.png", "error": "no picture"},
        ],
        runs=[
            {"run_id": "t", "command": "train", "arguments": json.dumps({"training_set": "parts"})},
            {
                "run_id": "e",
                "command": "x",
                "arguments": "{}",
                "error": f"anna-3.png ({image_id('anna-3.png')}) failed",
            },
        ],
    )
    create_tag(store, "with traces")
    write_rows(store, "conv4", store_rows(store))  # a file of a killed run
    log = local_path(store.url)
    assert log is not None
    (log / "log").mkdir(exist_ok=True)
    (log / "log" / "decoders.log").write_text(f"warning: {image_id('anna-0.png')} is odd\nwarning: another is\n")
    return store


def store_rows(store: Store) -> pa.Table:
    schema = store.schemas["conv4"].arrow()
    values = pa.array([PLANTED.tolist()], schema.field("conv4").type)
    columns = {"image_id": [image_id("anna-0.png")], "run_id": ["killed"], "view": ["identity"], "conv4": values}
    return pa.table(columns, schema=schema)


def traces_of(store: Store, ids: set[str], vector: bytes) -> list[str]:
    """Files in which an id or the vector is found: their raw bytes, and every value of every Parquet file."""
    root = local_path(store.url)
    assert root is not None
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        texts = [data]
        if path.suffix == ".parquet":
            for column in pq.read_table(path).itercolumns():
                if pa.types.is_list(column.type):
                    texts.append(np.asarray(column.combine_chunks().flatten()).tobytes())
                elif not pa.types.is_timestamp(column.type):
                    texts += [
                        value if isinstance(value, bytes) else str(value).encode() for value in column.to_pylist()
                    ]
        if any(vector in text or any(one.encode() in text for one in ids) for text in texts):
            found.append(str(path.relative_to(root)))
    return found


def others(store: Store, at: str | None = None) -> dict[str, list[Any]]:
    """Rows of everybody but anna, of tables with an image."""
    from ferstore.query.session import Session

    columns = {"images": "*", "pool_3": "*", "mixed_10": "image_id, mixed_10, norm, view", "training_set_items": "*"}
    found = {}
    for table, wanted in columns.items():
        listed = ", ".join(f"'{one}'" for one in sorted(ANNA))
        query = f"select {wanted} from {table} where image_id not in ({listed}) order by all"
        with Session(store, store.pin(at) if at else store.pin()).execute(query) as cursor:
            found[table] = list(cursor.rows())
    return found


def test_nothing_of_a_person_is_left_in_any_byte(traces: Store) -> None:
    vector = PLANTED.tobytes()
    assert len(traces_of(traces, ANNA, vector)) > 8
    tags = ("before features", "training-set parts", "with traces")
    before = {tag: others(traces, tag) for tag in (None, *tags)}
    report = erase(traces, subject="anna")
    assert traces_of(traces, ANNA | {"anna-3.png", "more/anna/5.png"}, vector) == []
    assert {tag: others(traces, tag) for tag in (None, *tags)} == before
    assert report.images == 4
    assert report.rows == {
        "images": 4, "pool_3": 9, "mixed_10": 8, "conv4": 1, "predictions": 1, "quarantine": 2, "runs": 1,
        "training_set_items": 4, "training_set_leaks": 4,
    }  # fmt: skip
    assert report.tags == tuple(sorted(tags))
    assert (report.training_sets, report.trainings) == (("parts",), ("t",))
    assert len(report.urls) == 4
    assert sql(traces, "select item from quarantine") == [("more/annabel/5.png",)]
    assert sql(traces, "select error from runs where run_id = 'e'") == [("[erased] ([erased]) failed",)]
    assert verify(traces).sound
    assert [f for f in doctor(traces) if f.state != "ok"] == []


def test_a_training_set_still_opens_without_them(store: Store) -> None:
    erase(store, subject="anna")
    items = open_training_set(store, "parts").items()
    assert len(items) == 8
    assert ANNA.isdisjoint(items["image_id"].to_pylist())


def test_past_states_that_hold_them_are_gone_and_said_to_be(store: Store, faces: Path) -> None:
    ids = [str(s.snapshot_id) for table, s in store.pin().all_snapshots() if table == "pool_3"]
    ingest(store, "folder", str(listing(faces, **{"ben-1.png": "angry"})), name="people")
    moment = max(s.timestamp_ms for table, s in store.pin().all_snapshots()) / 1000
    from datetime import UTC, datetime

    then = datetime.fromtimestamp(moment, UTC).isoformat()
    erase(store, subject="anna")
    with pytest.raises(InputError, match="no snapshot"):
        store.pin(ids[0])
    with pytest.raises(InputError, match="no longer kept"):
        store.pin(then)


def test_an_earlier_picture_of_an_item_is_found_too(store: Store, faces: Path, put: Any) -> None:
    """anna-0.png was replaced since: its first features are still there, under an id that images no longer names."""
    old = image_id("anna-0.png")
    listing(faces)
    (faces / "anna-0.png").write_bytes(picture(77))
    ingest(store, "folder", str(faces / "faces.csv"), name="people")
    assert sql(store, f"select count(*) from images where image_id = '{old}'") == [(0,)]
    assert erase(store, subject="anna").images == 5
    assert sql(store, f"select count(*) from pool_3 where image_id = '{old}'") == [(0,)]
    assert traces_of(store, ANNA, PLANTED.tobytes()) == []


def test_a_picture_goes_under_every_name_and_no_other_with_it(store: Store, faces: Path) -> None:
    (faces / "copy.png").write_bytes(PICTURES["ben-1.png"])
    (faces / "other.csv").write_text("url,label\ncopy.png,sad\nben-2.png,sad\n")
    ingest(store, "folder", str(faces / "other.csv"), name="other")
    report = erase(store, image_id=image_id("ben-1.png"))
    assert (report.images, report.rows["images"], report.rows["pool_3"]) == (1, 2, 2)
    assert sql(store, "select dataset, count(*) from images group by 1 order by 1") == [("other", 1), ("people", 11)]
    assert traces_of(store, {image_id("ben-1.png")}, PLANTED.tobytes()) == []


def test_a_name_can_be_narrowed_to_a_data_set(store: Store, faces: Path) -> None:
    (faces / "new.png").write_bytes(picture(88))
    (faces / "other.csv").write_text("url,label,subject\nnew.png,sad,anna\n")
    ingest(store, "folder", str(faces / "other.csv"), name="other")
    assert erase(store, subject="anna", dataset="other").images == 1
    assert sql(store, "select count(*) from images where subject = 'anna'") == [(4,)]
    assert erase(store, subject="anna").images == 4


def test_a_dry_run_lists_it_and_changes_nothing(traces: Store, home: Path) -> None:
    before = tree_digest(home / "store")
    planned = erase(traces, subject="anna", dry_run=True)
    assert tree_digest(home / "store") == before
    done = erase(traces, subject="anna")
    assert planned.run_id is None
    assert (planned.rows, planned.tags, planned.trainings) == (done.rows, done.tags, done.trainings)
    assert planned.snapshots <= done.snapshots  # its own row of runs is a state of that table


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "takes a subject or an image"),
        ({"subject": "anna", "image_id": "0" * 64}, "takes a subject or an image"),
        ({"image_id": "abc"}, "64 hex digits"),
        ({"image_id": "0" * 64}, "nothing in this store is of image"),
        ({"subject": "nobody"}, "nothing in this store is of subject 'nobody'"),
        ({"subject": "anna", "dataset": "none"}, "nothing in this store is of subject 'anna'"),
        ({"image_id": "0" * 64, "dataset": "people"}, "--dataset with --image"),
    ],
)
def test_who_is_not_there_is_refused_and_nothing_changed(
    store: Store, home: Path, given: dict[str, Any], said: str
) -> None:
    before = tree_digest(home / "store")
    with pytest.raises(InputError, match=said):
        erase(store, **given)
    assert tree_digest(home / "store") == before


def test_it_waits_for_no_job_but_is_refused_while_one_works(store: Store) -> None:
    run = new_run("extract", {})
    record_run(store, run, "running")
    with pytest.raises(ConflictError, match=f"at work: extract {run.run_id}") as caught:
        erase(store, subject="anna")
    assert caught.value.exit_code == 4
    assert sql(store, "select count(*) from images where subject = 'anna'") == [(4,)]
    record_run(store, run, "done")
    assert erase(store, subject="anna").images == 4


def test_a_job_that_began_before_an_erasure_commits_nothing(store: Store, table_of: Any) -> None:
    before = store.pin()
    erase(store, subject="anna")
    (file,) = write_rows(store, "conv4", store_rows(store))
    with pytest.raises(ConflictError, match="erased while this ran"):
        transact(store, lambda pin: [Change("conv4", (file,))], {}, since=before)
    transact(store, lambda pin: [], {}, since=store.pin())
    assert sql(store, "select count(*) from conv4") == [(0,)]


def test_an_erasure_cut_short_after_its_commit_is_finished_by_the_next_command(
    traces: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erase_module, "remove_files", crash)
        with pytest.raises(KeyboardInterrupt):
            erase(traces, subject="anna")
    assert sql(traces, "select count(*) from images where subject = 'anna'") == [(0,)]
    assert any(f.check == "erasures" and f.state == "warn" for f in doctor(traces))
    assert len(traces_of(traces, ANNA, PLANTED.tobytes())) > 3
    vacuum(traces)
    assert traces_of(traces, ANNA, PLANTED.tobytes()) == []
    assert all(f.state == "ok" for f in doctor(traces) if f.check == "erasures")


def test_a_vacuum_leaves_the_notes_of_an_erasure_at_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = erase_module.commit_erasure
    noted = []

    def meanwhile(*arguments: Any) -> None:
        vacuum(store)
        noted.append(unfinished_erasures(store))
        original(*arguments)

    monkeypatch.setattr(erase_module, "commit_erasure", meanwhile)
    erase(store, subject="anna")
    assert noted == [1]
    assert unfinished_erasures(store) == 0


def test_an_erasure_cut_short_before_its_commit_has_changed_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erase_module, "commit_erasure", crash)
        with pytest.raises(KeyboardInterrupt):
            erase(store, subject="anna")
    assert sql(store, "select count(*) from images where subject = 'anna'") == [(4,)]
    vacuum(store)
    assert verify(store).sound
    assert erase(store, subject="anna").images == 4
    assert traces_of(store, ANNA, PLANTED.tobytes()) == []


def test_what_others_commit_meanwhile_stays(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = erase_module.commit_erasure

    def late(*arguments: Any) -> None:
        monkeypatch.undo()
        put(store, images=[{"dataset": "people", "item_id": "late.png", "image_id": "f" * 64, "subject": "ben"}])
        create_tag(store, "meanwhile")
        original(*arguments)

    monkeypatch.setattr(erase_module, "commit_erasure", late)
    report = erase(store, subject="anna")
    assert "meanwhile" in report.tags
    assert sql(store, "select count(*) from images where item_id = 'late.png'") == [(1,)]
    assert len(others(store, "meanwhile")["images"]) == 9
    assert traces_of(store, ANNA, PLANTED.tobytes()) == []


def test_a_picture_of_them_that_comes_meanwhile_goes_too(
    store: Store, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = erase_module.commit_erasure
    new = {"dataset": "people", "item_id": "anna-new.png", "image_id": "e" * 64, "subject": "anna"}

    def late(*arguments: Any) -> None:
        monkeypatch.undo()
        put(store, images=[new])
        original(*arguments)

    monkeypatch.setattr(erase_module, "commit_erasure", late)
    assert erase(store, subject="anna").images == 5
    assert sql(store, "select count(*) from images where subject = 'anna'") == [(0,)]
    assert traces_of(store, ANNA | {"e" * 64}, PLANTED.tobytes()) == []


@pytest.mark.parametrize(
    ("step", "turn"),
    [("_look", 1), ("references", 1), ("_find", 2), ("_look", 2), ("rewrite", 1), ("expiring", 1), ("_hidden", 1)],
)
def test_what_another_erasure_removes_meanwhile_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str, turn: int
) -> None:
    """Two that began at the same moment did not see each other at work."""
    original = getattr(erase_module, step)
    turns: list[int] = []

    def late(*arguments: Any, **options: Any) -> Any:
        turns.append(1)
        if len(turns) == turn:
            erase(open_store(store.url), subject="ben")
        return original(*arguments, **options)

    monkeypatch.setattr(erase_module, step, late)
    monkeypatch.setattr(erase_module, "_refuse_while_jobs_work", lambda *_: None)
    erase(store, subject="anna")
    assert sql(store, "select distinct subject from images") == [("cy",)]
    assert verify(store).sound
    assert traces_of(store, ANNA, PLANTED.tobytes()) == []


def test_the_record_of_an_erasure_does_not_say_who(store: Store) -> None:
    report = erase(store, subject="anna")
    ((arguments, counts),) = sql(store, f"select arguments, counts from runs where run_id = '{report.run_id}'")
    assert json.loads(str(arguments)) == {"what": "subject"}
    assert json.loads(str(counts))["images"] == 4


def test_the_record_of_an_erasure_that_failed_does_not_say_who_either(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error may name a picture that came since the person was looked up first."""

    def fail(*_: object) -> None:
        raise ConflictError("dora-1.png is in use")

    monkeypatch.setattr(erase_module, "_erase", fail)
    with pytest.raises(ConflictError, match="dora"):
        erase(store, subject="anna")
    assert sql(store, "select state, error from runs where command = 'erase'") == [("failed", "ConflictError")]


def test_an_extract_and_an_ingest_go_on_as_before(store: Store, faces: Path) -> None:
    erase(store, subject="anna")
    fill(store, ExtractRequest(weights="random", views=("identity", "hflip")))
    assert sql(store, "select count(*), count(distinct image_id) from pool_3") == [(16, 8)]
    ingest(store, "folder", str(faces / "faces.csv"), name="people")
    assert sql(store, "select count(*) from images") == [(12,)]  # the source still has her: the report names the files


def test_a_plan_made_on_an_expired_state_is_made_again(store: Store, table_of: Any) -> None:
    """A commit planned before the erasure replaces a file that is gone: it is planned on what is there now."""
    (file,) = write_rows(store, "images", table_of(store, "images", [{"item_id": "x"}]))
    pins: list[Pin] = []

    def plan(pin: Pin) -> list[Change]:
        pins.append(pin)
        if len(pins) == 1:
            erase(store, subject="anna")
        return [Change("images", (file,))]

    transact(store, plan, {})
    assert len(pins) == 2
    assert sql(store, "select count(*) from images") == [(9,)]
