"""Whatever jobs do to a store, in whatever order and wherever one ends: its state is one that the model allows.

``FERSTORE_FAULTS_SEED`` chooses the sequences; the same seed makes the same ones.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from fault_points import Crash, FaultPoints, Kind
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from parsed_once import remember_schemas
from small_store import SmallStores, small_stores
from store_jobs import Job, Listed, Operation, clear, forget, freeze, image_id, ingest, may_refuse, merge, tag
from store_model import Content, Looker, Model

from ferstore.errors import ConflictError
from ferstore.extract.identity import Extractor
from ferstore.store import at_work
from ferstore.store.pin import Pin
from ferstore.store.runs import record_run
from ferstore.store.store import open_store

SEED = int(os.environ.get("FERSTORE_FAULTS_SEED", "1"))
SHRINK = "FERSTORE_FAULTS_SHRINK" in os.environ  # a failure's shortest sequence: takes minutes
SEQUENCES = {"ci": 20, "full": 225, "night": 1250}  # of each part
PARTS = 1 if os.environ.get("FERSTORE_FAULTS", "ci") == "ci" else 8
STEPS = 8

ITEMS = [str(number) for number in range(5)]
PICTURES = list(range(1, 7))
GONE = 0
PEOPLE = ["ann", "bob"]
EXTRACTORS = [Extractor(f"w{n}", "random", f"{n:064x}", n, "v", "p", "float32", "float16") for n in range(2)]
LAYERS = [("pool_3", "mixed_10"), ("pool_3", "mixed_10"), ("pool_3",)]

listed = st.builds(
    Listed,
    st.sampled_from([*PICTURES, None, GONE]),
    st.sampled_from(["happy", "sad", None]),
    st.sampled_from([*PEOPLE, None]),
    st.booleans(),
)
listings = st.dictionaries(st.sampled_from(ITEMS), listed, min_size=1, max_size=3)
failing = st.sets(st.sampled_from(PICTURES), max_size=2).map(lambda numbers: set(map(image_id, numbers)))
keeps = st.sampled_from([timedelta(0), timedelta(days=1)])
people = st.sampled_from(PEOPLE)
others = st.one_of(
    st.tuples(st.just("commit"), st.integers(0, 2)),
    st.tuples(st.just("ingest"), listings),
    st.tuples(st.just("tag"), st.none()),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("vacuum"), keeps),
    st.tuples(st.just("erase"), people),
)
faults = st.none() | st.tuples(
    st.sampled_from(["crash", "overtaken", "overtaken", "busy", "answer lost"]), st.integers(1, 12), others
)
Fault = tuple[Kind, int, tuple[str, Any]] | None


class Machine(RuleBasedStateMachine):
    """Jobs over one store, and the model of it."""

    stores: SmallStores
    points: FaultPoints
    current: Machine
    steps = 0
    sequences = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).sequences += 1
        self.store = self.stores.fresh()
        type(self).current = self
        self.looker = Looker()
        self.model = Model()
        self.listing: dict[str, Listed] = {}
        self.jobs: list[Job] = []
        self.pins: list[tuple[Pin, Content]] = []
        self.names = 0

    # What the user does.

    @initialize(listing=st.dictionaries(st.sampled_from(ITEMS), listed, min_size=2, max_size=5))
    def first(self, listing: dict[str, Listed]) -> None:
        self.perform(self.ingested(listing), None)

    @rule(changes=listings, fault=faults)
    def ingest(self, changes: dict[str, Listed], fault: Fault) -> None:
        self.perform(self.ingested(changes), fault)

    @rule(
        extractor=st.sampled_from(EXTRACTORS),
        layers=st.sampled_from(LAYERS),
        retry=st.booleans(),
        known=st.booleans(),
        shards=st.integers(0, 3),
        failing=failing,
    )
    def begin(
        self, extractor: Extractor, layers: tuple[str, ...], retry: bool, known: bool, shards: int, failing: set[str]
    ) -> None:
        now, own = self.model.now, extractor.extractor_id
        self.names += 1
        job = Job.begin(self.store, self.names, extractor, layers, retry=retry, known=known)
        images = {image for image, _, _ in now.images.values()}
        missing = {i for i in images if any((layer, own, i) not in now.features for layer in layers)}
        held = {i for i in missing if (own, i) in now.failed and not retry}
        assert (job.plan.wanted, job.plan.quarantined) == (len(images), len(held))
        assert job.plan.todo == len(missing - held), "a repeated job would add something, or something would be left"
        job.compute(shards, failing)
        self.jobs = [*self.jobs, job][-3:]  # the oldest is never heard of again

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 2), shards=st.integers(1, 3), failing=failing)
    def write(self, which: int, shards: int, failing: set[str]) -> None:
        self.jobs[which % len(self.jobs)].compute(shards, failing)

    @precondition(lambda self: any(job.results for job in self.jobs))
    @rule(which=st.integers(0, 2), fault=faults)
    def commit(self, which: int, fault: Fault) -> None:
        ready = [job for job in self.jobs if job.results]
        job = ready[which % len(ready)]
        if not self.perform(job.commit(), fault):
            self.jobs.remove(job)

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 2))
    def finish(self, which: int) -> None:
        """What is left is computed and committed; every wanted image is accounted for."""
        job = self.jobs[which % len(self.jobs)]
        job.compute(99, set())
        erased = job.erasures != self.model.erasures
        landed = self.perform(job.commit(), None)
        self.jobs.remove(job)
        record_run(self.store, job.committer.run, "done")
        if erased or not landed:
            return
        counts = job.committer.counts
        assert counts.computed + counts.landed_elsewhere + counts.quarantined == job.plan.todo

    @rule(fault=faults)
    def tag(self, fault: Fault) -> None:
        self.perform(self.tagged(), fault)

    @precondition(lambda self: len(self.model.now.sets) < 2)
    @rule(fault=faults)
    def split(self, fault: Fault) -> None:
        self.names += 1
        self.perform(may_refuse(freeze(f"set{self.names}")), fault)

    @precondition(lambda self: any(job.known for job in self.jobs))
    @rule(which=st.integers(0, 2))
    def presume_dead(self, which: int) -> None:
        """Its process is not found; it may still come back."""
        known = [job for job in self.jobs if job.known]
        known[which % len(known)].known = False

    @rule(fault=faults)
    def compact(self, fault: Fault) -> None:
        self.perform(merge(), fault)

    @rule(keep=keeps, fault=faults)
    def vacuum(self, keep: timedelta, fault: Fault) -> None:
        self.perform(clear(keep, timedelta(0), self.jobs), fault)

    @rule(person=people, fault=faults)
    def erase(self, person: str, fault: Fault) -> None:
        before = self.model
        self.perform(may_refuse(forget(person, self.jobs)), fault)
        if fault is None and self.model.erasures != before.erasures:
            pictures = frozenset(image for _, image, subject in before.past if subject == person)
            assert self.looker.stray(self.store, pictures) == [], "an erased person's rows lie in a file"

    @rule()
    def pin_and_restart(self) -> None:
        self.store = open_store(self.store.url)
        self.pins.append((self.store.pin(), self.model.now))

    # How it is done and checked.

    def perform(self, operation: Operation, fault: Fault) -> bool:
        """Do it, with a fault maybe; False where it came to no end."""
        before, ended, refused = self.model, True, False
        self.overtaken = False
        other = self.other(fault[2]) if fault and fault[0] == "overtaken" else None
        if fault and (other or fault[0] != "overtaken"):
            self.points.arm(fault[0], fault[1], (lambda: self.overtake(other)) if other else None)
        try:
            operation.run(self.store)
        except Crash:
            ended = False
            self.store = open_store(self.store.url)
        except ConflictError:
            ended, refused = False, True
        happened = self.points.disarm()
        if other and happened and not self.overtaken:
            other = None  # it was refused: nobody came between
        if other and happened:
            orders = [(other.expect(before), operation), (operation.expect(before), other)]
            allowed = [other.expect(before)] if refused else [last.expect(first) for first, last in orders]
            may_refuse = operation.refuses(before) or operation.refuses(other.expect(before))
        else:
            allowed = [before] if refused else [operation.expect(before)] + ([] if ended else [before])
            may_refuse = operation.refuses(before)
        said = f"{operation.name}, {fault[:2] if happened and fault else 'undisturbed'}, {other and other.name}"
        assert may_refuse or not refused, f"{said}: refused in {before}"
        self.model = self.looker.look(self.store, self.store.pin())
        assert self.model in allowed, f"{said}:\nfound {self.model}\nallowed {allowed}\nbefore {before}"
        if {operation.name, other and happened and other.name} & {"erase", "vacuum"}:
            self.pins.clear()  # what they were is no longer kept
        return ended

    def overtake(self, other: Operation) -> None:
        """Another process does something, or is refused."""
        try:
            other.run(open_store(self.store.url))
        except ConflictError:
            assert other.refuses(self.model), f"{other.name} was refused in {self.model}"
        else:
            self.overtaken = True

    def other(self, what: tuple[str, Any]) -> Operation | None:
        """What another process does in the middle."""
        kind, detail = what
        if kind == "commit":
            ready = [job for job in self.jobs if job.results]
            return ready[detail % len(ready)].commit() if ready else None
        if kind == "ingest":
            return self.ingested(detail)
        if kind == "vacuum":
            return clear(detail, timedelta(hours=1), self.jobs)  # without grace it would end the first one, rightly
        if kind == "erase":
            return may_refuse(forget(detail, self.jobs))
        return merge() if kind == "compact" else self.tagged()

    def ingested(self, changes: dict[str, Listed]) -> Operation:
        self.listing = {item: found for item, found in {**self.listing, **changes}.items() if found.picture != GONE}
        return may_refuse(ingest(self.listing))

    def alive(self, host: str, pid: int, started_at: datetime) -> bool:
        """Whether somebody finds the process of a run."""
        return any(job.known and job.committer.run.started_at == started_at for job in self.jobs)

    def tagged(self) -> Operation:
        self.names += 1
        return may_refuse(tag(f"tag{self.names}"))

    @invariant()
    def pinned_states_stay(self) -> None:
        type(self).steps += 1
        for pin, content in self.pins:
            assert self.looker.content(self.store, pin, pin.snapshots) == content, "a pinned state has changed"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_sequence_leaves_a_state_that_the_model_allows(
    part: int, level: str, tally: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_schemas(monkeypatch)
    machine = type("Sequence", (Machine,), {})
    options = settings(
        max_examples=SEQUENCES[level],
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    alive = mock.patch.object(at_work, "alive", lambda *run: machine.current.alive(*run))
    with small_stores() as stores, FaultPoints().installed() as points, alive:
        machine.stores, machine.points = stores, points
        print(f"seed {SEED}, part {part}")
        run_state_machine_as_test(seed(SEED * PARTS + part)(machine), settings=options)
    tally("sequences", machine.sequences)
    tally("states explored", machine.steps)
