"""Every call of the filesystem and of the catalog fails once, in every way it can: nothing in part, nothing twice.

Each operation runs undisturbed first: its calls are counted, and the states after its commits are the legal ones. Then
it runs again from the same beginning with one fault at one call, for every call and fault (``full``: those that differ,
see `cases_of`, and of long operations a sample; ``night``: all; ``ci``: a small sample). The store is opened anew and
must be in a legal state, the final one where the operation said that it had succeeded; and the operation, run once
more, ends in the final state.

A failure names the operation, the fault and the call; ``FERSTORE_FAULT_AT='KIND@N'`` runs that one only.
``FERSTORE_FAULT_SAMPLE=all`` takes all faults that differ, also of long operations.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import noise_files, picture, write
from faulty import BUCKET, CRASHES, FAULTS, ONCE, PROTOCOL, Call, Crash, Fault, Kind, install
from filled import fill
from parsed_once import remember_schemas
from train_store import data_of

from ferstore.errors import CorruptionError, FerstoreError, InputError, StoreError
from ferstore.extract.request import ExtractRequest
from ferstore.image.decode import decode
from ferstore.image.phash import perceptual_hash
from ferstore.image.probe import Probe, Prober
from ferstore.sources import ingest as ingest_module
from ferstore.sources.ingest import ingest
from ferstore.store import at_work
from ferstore.store import attempts as attempts_module
from ferstore.store import store as store_module
from ferstore.store.compact import compact
from ferstore.store.doctor import doctor
from ferstore.store.erase import erase
from ferstore.store.files import filesystem, write_file
from ferstore.store.pin import Pin
from ferstore.store.references import leftovers, references
from ferstore.store.rows import read_file, read_rows
from ferstore.store.runs import new_run, record_run
from ferstore.store.schema import declared_schemas
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.tags import create_tag
from ferstore.store.vacuum import vacuum
from ferstore.store.verify import verify
from ferstore.train.job import Measured, Outcome
from ferstore.train.outcome import commit_outcome
from ferstore.train.split_plan import SplitRequest
from ferstore.train.training_set import split

VOLATILE = frozenset({"run_id", "host", "pid", "images_snapshot"})  # and all times
VALUES = frozenset({"pool_3", "mixed_10"})
TEARING = CRASHES | {Kind.SHORT, Kind.FULL, Kind.LOST, Kind.CONFLICT}
SEED = int(os.environ.get("FERSTORE_FAULT_SEED", "6"))
SAMPLE = {"ci": 3, "full": 110, "night": None}
"""Of the faults at commits of the catalog, and as many of the others, of each operation and place; None: all."""
if os.environ.get("FERSTORE_FAULT_SAMPLE") == "all":
    SAMPLE = dict.fromkeys(SAMPLE)

State = Mapping[str, Any] | None
"""Rows of every table, now and at each tag; None where there is no store."""


class Place:
    """Where a store lies, that can be saved and restored; locally with its catalog inside, else with one outside."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        local = kind == "local"
        self.url = str(folder / "store") if local else f"{PROTOCOL}://bucket/store"
        self.catalog = None if local else f"sqlite:///{folder / 'store' / 'catalog.db'}"
        self._opened: list[Store] = []
        (folder / "store").mkdir()
        FAULTS.root = folder / "store"
        BUCKET.restore({})

    def init(self) -> Store:
        return self._kept(init_store(self.url, catalog=self.catalog))

    def open(self) -> Store:
        return self._kept(open_store(self.url, catalog=self.catalog))

    def _kept(self, store: Store) -> Store:
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.catalog.engine.dispose()  # type: ignore[attr-defined]
        self._opened.clear()

    def save(self) -> Callable[[], None]:
        """Keep the state of now; what is returned goes back to it."""
        self.close()
        kept, objects = self.folder / "kept", dict(BUCKET.objects)
        shutil.copytree(self.folder / "store", kept)

        def restore() -> None:
            self.close()
            shutil.rmtree(self.folder / "store")
            shutil.copytree(kept, self.folder / "store")
            BUCKET.restore(objects)

        return restore


@dataclass(frozen=True)
class Operation:
    """What is done, and to what.

    Attributes:
        name: for people.
        prepare: makes what it starts from.
        work: does it; the same again must change nothing.
        done: whether a state is its end; asked again of every store in which it has succeeded.
        commits: how many states it goes through, the first one included.
        tables: those the store has; all other tables are alike.
        ignored: tables whose rows may differ where it had to be run again.
        postponed: faults after which it may leave something for the next time without knowing.
    """

    name: str
    prepare: Callable[[Place], object]
    work: Callable[[Place], object]
    done: Callable[[Mapping[str, Any], Store], bool]
    commits: int
    tables: tuple[str, ...] = ("images", "quarantine", "runs")
    ignored: frozenset[str] = frozenset()
    postponed: frozenset[Kind] = frozenset()

    def __str__(self) -> str:
        return self.name


def state(place: Place, ignored: frozenset[str] = frozenset()) -> State:
    """Rows of every table, now and at each tag."""
    try:
        store = place.open()
    except StoreError as error:
        if "no store at" in error.problem:
            return None
        raise
    pin = store.pin()
    states = {"now": pin, **{tag: pin.resolve(tag) for tag in pin.tags()}}
    return {
        f"{name}@{at}": rows(store, pinned, name)
        for at, pinned in states.items()
        for name in store.schemas
        if name not in ignored
    }


def rows(store: Store, pin: Pin, table: str) -> list[str]:
    columns = [
        column.name
        for column in store.schemas[table].columns
        if column.name not in VOLATILE | VALUES and column.type != "timestamptz"
    ]
    return sorted(map(str, read_rows(store, pin, table, columns).to_pylist()))


def count(found: Mapping[str, Any], table: str) -> int:
    return len(found[f"{table}@now"])


FACES = noise_files(2)
GROWN = {**noise_files(4), "sad/00000.png": noise_files(1, first=8)["sad/00008.png"], "sad/broken.png": b"no picture"}


def faces(place: Place, files: Mapping[str, bytes]) -> str:
    """The data set on disk, of one name whatever it holds."""
    return str(write(place.folder / "faces", dict(files)))


def ingested(place: Place, files: Mapping[str, bytes] = FACES) -> Store:
    store = place.init()
    ingest(store, "folder", faces(place, files))
    return store


def vanishing(place: Place) -> None:
    """A data set of which an image is gone when it is to be computed."""
    ingested(place, {**noise_files(3), "sad/vanishing.png": noise_files(1, first=9)["happy/00009.png"]})
    (place.folder / "faces/sad/vanishing.png").unlink()


def recorded(store: Store) -> None:
    record_run(store, RUN, "done", {"computed": 3})


RUN = new_run("extract", {"layers": ["pool_3"]})
REQUEST = SplitRequest("parts", "faces", "random", labels="majority", seed=1)


def tagged(store: Store) -> None:
    """Tag the state, unless an earlier try has."""
    if "kept" not in store.pin().tags():
        create_tag(store, "kept")


def trained(store: Store) -> None:
    curve = (Measured(1, 1, "train", 0.75, 0.5), Measured(2, 1, "validation", 0.25, 1.0))
    shares = np.full((4, 2), 0.5, np.float32)
    outcome = Outcome((), curve, shares, steps=2, best_step=2)
    told: Any = {"state": "done", "counts": {"steps": 2}, "error": None, "details": {}}
    commit_outcome(store, TRAINING, DATA, [outcome], since=store.pin(), **told)


def people(place: Place) -> None:
    """Features of three people, a tag and a training set that hold them, and a past state."""
    store = place.init()
    folder = write(
        place.folder / "faces", {f"{who}-{n}.png": picture(n * 9 + ord(who)) for who in "abc" for n in (1, 2)}
    )
    lines = [f"{who}-{n}.png,{('sad', 'happy')[n - 1]},person-{who}" for who in "abc" for n in (1, 2)]
    (folder / "faces.csv").write_text("\n".join(["url,label,subject", *lines]))
    ingest(store, "folder", str(folder / "faces.csv"), name="people")
    fill(store, ExtractRequest(weights="random", layers=("pool_3",)))
    create_tag(store, "kept")


def erased(store: Store) -> None:
    """Erase a person; that nothing is left of them is as good."""
    try:
        erase(store, subject="person-b")
    except InputError as error:
        if "nothing in this store is of" not in error.problem:
            raise


def in_file(url: str) -> str:
    try:
        return str(read_file(url).to_pylist())
    except CorruptionError:  # torn; what is not compressed can still be read
        return str(filesystem(url).cat_file(url))


def nothing_of_b(found: Mapping[str, Any], store: Store) -> bool:
    lost = [in_file(file.url) for file in leftovers(store, references(store.pin())) if file.data]
    return "person-b" not in str([*lost, *found.values()]) and (count(found, "images"), count(found, "pool_3")) == (
        4,
        4,
    )


def cleaned(store: Store) -> None:
    vacuum(store, keep=timedelta(0), grace=timedelta(0))


def one_state(found: Mapping[str, Any], store: Store) -> bool:
    pin = store.pin()
    past = [s for name, table in pin.tables.items() for s in table.metadata.snapshots if name != "runs"]
    lost = [f.url for f in leftovers(store, references(pin)) if "/runs/" not in f.url]
    return (len(past), lost, count(found, "images")) == (2, [], 4)


def littered(place: Place) -> None:
    """Past states, and a file that no snapshot names."""
    store = ingested(place)
    ingest(store, "folder", faces(place, GROWN))
    write_file(f"{store.data_folder('images')}/rows-left.parquet", b"left over")


DATA = data_of([], ["train", "test", "validation", "test"], labels=[0, 1, 0, 0], classes=("sad", "happy"))
TRAINING = new_run("train", {"experiment": "deepest"})

OPERATIONS = (
    Operation("init", lambda place: None, lambda place: place.init(), lambda found, _: count(found, "images") == 0, 2),
    Operation(
        "ingest",
        lambda place: (place.init(), faces(place, FACES)),
        lambda place: ingest(place.open(), "folder", str(place.folder / "faces")),
        lambda found, _: (count(found, "images"), count(found, "runs")) == (2, 1),
        2,
    ),
    Operation(
        "ingest again, grown and changed",
        lambda place: (ingested(place), faces(place, GROWN)),
        lambda place: ingest(place.open(), "folder", str(place.folder / "faces")),
        lambda found, _: (count(found, "images"), count(found, "quarantine"), count(found, "runs")) == (4, 1, 2),
        2,
    ),
    Operation(
        "extract",
        vanishing,
        lambda place: fill(place.open()),
        lambda found, _: (count(found, "pool_3"), count(found, "mixed_10"), count(found, "quarantine")) == (3, 3, 1),
        2,
        ("images", "quarantine", "runs", "extractors", "pool_3", "mixed_10"),
        frozenset({"runs"}),
    ),
    Operation(
        "record a run",
        ingested,
        lambda place: recorded(place.open()),
        lambda found, _: count(found, "runs") == 2,
        2,
    ),
    Operation(
        "tag",
        ingested,
        lambda place: tagged(place.open()),
        lambda found, _: len(found["images@kept"]) == 2,
        2,
    ),
    Operation(
        "split",
        lambda place: ingested(place, noise_files(12)),
        lambda place: split(place.open(), REQUEST),
        lambda found, _: (len(found["training_set_items@training-set parts"]), count(found, "runs")) == (12, 2),
        2,
        ("images", "quarantine", "runs", "training_sets", "training_set_items", "training_set_leaks"),
    ),
    Operation(
        "a training's commit",
        ingested,
        lambda place: trained(place.open()),
        lambda found, _: [count(found, table) for table in ("metrics", "predictions", "runs")] == [2, 3, 2],
        2,
        ("images", "runs", "quarantine", "metrics", "predictions", "conv4"),
    ),
    Operation(
        "compact",
        lambda place: ingest(ingested(place), "folder", faces(place, GROWN)),
        lambda place: compact(place.open()),
        lambda found, store: (len(store.pin().data_files("images")), count(found, "images")) == (1, 4),
        1,
        ignored=frozenset({"runs"}),
    ),
    Operation(
        "vacuum",
        littered,
        lambda place: cleaned(place.open()),
        one_state,
        1,
        ignored=frozenset({"runs"}),
        postponed=frozenset({Kind.STALE}),  # a file that is not listed yet
    ),
    Operation(
        "erase",
        people,
        lambda place: erased(place.open()),
        nothing_of_b,
        2,
        ("images", "quarantine", "runs", "extractors", "pool_3", "training_sets"),
        frozenset({"runs"}),
    ),
)


def probe(_: Prober, data: bytes) -> Probe:
    """As the child process does it."""
    found = decode(data, at_least=299)
    return Probe(found.width, found.height, found.mode, perceptual_hash(found.image))


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Faults beneath; no waiting, no processes, one thread: the same calls in the same order."""
    install(monkeypatch)
    remember_schemas(monkeypatch)
    monkeypatch.setattr(attempts_module, "_ATTEMPTS", 3)
    monkeypatch.setattr(attempts_module, "_PATIENCE", 0.0)
    monkeypatch.setattr("ferstore.store.catalog._SQLITE_WAIT", 0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("PYICEBERG_MAX_WORKERS", "1")
    monkeypatch.setattr(ingest_module, "_READERS", 1)
    monkeypatch.setattr(Prober, "probe", probe)
    monkeypatch.setattr(at_work, "alive", lambda *process: False)  # whoever crashed was this process
    yield
    FAULTS.root = None


def undisturbed(place: Place, operation: Operation) -> tuple[list[Call], list[State]]:
    """The calls of the operation, and the states it goes through."""
    states = [state(place, operation.ignored)]

    def look(call: Call) -> None:
        if call.name == "commit" and (found := state(place, operation.ignored)) != states[-1]:
            states.append(found)

    FAULTS.after_change = look
    try:
        with FAULTS.watch():
            operation.work(place)
    finally:
        FAULTS.after_change = None
    if (found := state(place, operation.ignored)) != states[-1]:
        states.append(found)
    return list(FAULTS.calls), states


def outcome(place: Place, operation: Operation, fault: Fault) -> BaseException | None:
    """What the operation ends in with a fault; None where it succeeds."""
    try:
        with FAULTS.watch(fault):
            operation.work(place)
    except BaseException as error:
        return error
    return None


def check(place: Place, operation: Operation, legal: list[State], fault: Fault, call: Call) -> None:
    """One fault, and all that must hold afterwards."""
    ended = outcome(place, operation, fault)
    place.close()
    assert len(FAULTS.calls) >= fault.at, "the fault was never met"
    found = state(place, operation.ignored)
    assert found in legal, "a state that no undisturbed run goes through"
    if fault.kind in CRASHES:
        assert isinstance(ended, Crash)
    elif fault.kind is Kind.STOPPED:
        assert ended is None or isinstance(ended, KeyboardInterrupt)
    elif fault.kind in ONCE and call.where != "local":
        assert ended is None, "another try would have done"
    else:
        assert ended is None or isinstance(ended, FerstoreError), "an error that is not ferstore's"
    if isinstance(ended, FerstoreError):
        assert ended.exit_code in (1, 2, 4)
        assert ended.exit_code != 2 or found == legal[0], "exit code 2 says that nothing was changed"
    if ended is None:
        assert found == legal[-1], "it said it had succeeded"
    if found is not None and fault.kind in TEARING:
        sound(place, everything=fault.kind in CRASHES)
    if ended is None and fault.kind not in operation.postponed:
        assert found is not None
        assert operation.done(found, place.open()), "it said it had succeeded, and left something"
    else:
        operation.work(place)
        found = state(place, operation.ignored)
        assert found == legal[-1], "run once more, it ends in another state"
        assert operation.done(found, place.open()), "run once more, it leaves something"


def sound(place: Place, *, everything: bool) -> None:
    store = place.open()
    report = verify(store)
    assert report.sound, (report.damaged, report.repeated)
    if everything:
        assert [finding for finding in doctor(store) if finding.state == "fail"] == []


def cases_of(calls: list[Call], *, alike: bool) -> list[tuple[Fault, Call]]:
    """Every fault of every call, without a crash after a change: one before the next leaves the same bytes.

    Args:
        calls: of an undisturbed run.
        alike: all of them; else one for those that differ in nothing that could matter: calls of one name that change
            nothing and lie between the same two changes.
    """
    last = max(number for number, call in enumerate(calls, 1) if call.changes)
    found: dict[Any, tuple[Fault, Call]] = {}
    changes = 0
    for number, call in enumerate(calls, 1):
        changes += call.changes
        for kind in Kind:
            if call.can(kind) and (kind is not Kind.AFTER or number == last):
                key = number if alike or call.changes else (changes, call.name)
                found.setdefault((key, kind), (Fault(kind, number), call))
    return list(found.values())


def chosen(cases: list[tuple[Fault, Call]], most: int | None, seed: str) -> list[tuple[Fault, Call]]:
    """All of them, or a sample of which one half is of the catalog's commits."""
    if asked := os.environ.get("FERSTORE_FAULT_AT"):
        return [case for case in cases if f"{case[0].kind.name}@{case[0].at}" == asked]
    if most is None:
        return cases
    draw = random.Random(seed)
    commits = [case for case in cases if case[1].name == "commit"]
    rest = [case for case in cases if case[1].name != "commit"]
    return [case for part in (commits, rest) for case in draw.sample(part, min(len(part), most))]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@pytest.mark.parametrize("kind", ["object", "local"])
def test_nothing_is_lost_doubled_or_torn(
    tmp_path: Path,
    kind: str,
    operation: Operation,
    level: str,
    tally: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = declared_schemas()
    monkeypatch.setattr(store_module, "declared_schemas", lambda: {name: every[name] for name in operation.tables})
    place = Place(tmp_path, kind)
    operation.prepare(place)
    restore = place.save()
    calls, legal = undisturbed(place, operation)
    assert legal[-1] is not None
    assert operation.done(legal[-1], place.open())
    cases = cases_of(calls, alike=level == "night")
    if level != "night" and kind == "object":  # its catalog is asked as that of a local store is
        cases = [(fault, call) for fault, call in cases if call.changes or call.where != "catalog"]
    assert len(legal) == operation.commits
    wrong = []
    met = chosen(cases, SAMPLE[level], f"{SEED} {operation} {kind}")
    for fault, call in met:
        restore()
        try:
            check(place, operation, legal, fault, call)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            import traceback

            traceback.print_exc()
            wrong.append(f"{fault.kind.name}@{fault.at} ({fault.kind}) at {call.where}: {call.name}: {told(error)}")
    place.close()
    tally("crash points", sum(fault.kind in CRASHES for fault, _ in met))
    tally("calls x faults", len(met))
    assert not wrong, (
        f"{operation} on {kind}, {len(wrong)} of {len(met)}; one of them again with "
        f"FERSTORE_FAULT_AT=KIND@N FERSTORE_FAULT_SEED={SEED}:\n" + "\n".join(wrong)
    )


def told(error: BaseException) -> str:
    cause = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0] + (f" <- {cause!r}" if cause else "")
