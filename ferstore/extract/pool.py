"""A bounded pool of Ray actors that work through shards and survive what kills them."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from ferstore.cluster import died, died_with_machine, machine_alive
from ferstore.errors import ExtractError, FerstoreError
from ferstore.extract.decide import Decision, Quarantine, Requeue, Stop, after_death, after_failure, deaths_to_stop
from ferstore.extract.plan import Shard
from ferstore.extract.staffing import change
from ferstore.extract.worker import Failure, ShardResult

log = logging.getLogger(__name__)

BUILDS_TO_STOP = 3
"""Actors that die in a row as they are built, after which it is no accident."""
LOOK = 2.0
"""Seconds between two looks at how many actors there are to be."""
PATIENCE = 600.0
"""Seconds without a single actor built, after which no machine is expected to come for one."""


class Worker(Protocol):
    """What an actor runs: `ferstore.extract.worker.ShardWorker`, or a stub in a test."""

    def run(self, shard: Shard) -> ShardResult:
        """Compute one shard."""
        ...


Wanted = Callable[[int, int], int]
"""How many actors there are to be, of items given out and not done, and of actors given up for want of memory."""


class _Host:
    """The actor: builds its worker from a factory where it runs, so that nothing heavy is sent."""

    def __init__(self, factory: Callable[[Any], Worker], shared: object) -> None:
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of a machine's to an actor that asked for none
        # Raised here, an error would end the actor and reach the driver as text only.
        self._built: Worker | FerstoreError
        try:
            self._built = factory(shared)
        except FerstoreError as error:
            self._built = error

    def node(self) -> str:
        self._worker()
        return str(ray.get_runtime_context().get_node_id())

    def run(self, shard: Shard) -> ShardResult:
        return self._worker().run(shard)

    def _worker(self) -> Worker:
        if isinstance(self._built, FerstoreError):
            raise self._built
        return self._built


@dataclass(slots=True, eq=False)
class _Actor:
    handle: Any
    ready: Any  # reference to its node id, which comes when it is built
    node: str | None = None
    in_flight: dict[Any, Shard] = field(default_factory=dict)

    @property
    def exclusive(self) -> bool:
        return any(shard.alone for shard in self.in_flight.values())


class Pool:
    """Runs shards on actors and yields what became of them, in no order.

    Args:
        factory: makes a worker inside an actor, from the shared object.
        shared: sent once a node, not once an actor: the weights.
        actors: how many to begin with.
        cpus: logical CPUs each takes.
        gpus: GPUs each takes, fractions too.
        largest_shard: most items of a shard; bounds the deaths taken in a row.
        in_flight: shards an actor holds: those in its network, and one that decodes meanwhile.
        wanted: how many there are to be from then on, asked every `LOOK` seconds; None is as many as to begin with,
            less those given up for want of memory.

    Attributes:
        most: actors that worked at one time, at most.
        places: actors built and shards done, by node id.
    """

    def __init__(
        self,
        factory: Callable[[Any], Worker],
        shared: object,
        *,
        actors: int,
        cpus: float,
        gpus: float,
        largest_shard: int,
        in_flight: int = 2,
        wanted: Wanted | None = None,
    ) -> None:
        self._host = ray.remote(_Host)  # once: what it is goes to the cluster with each
        self._factory = ray.put(factory)
        self._shared = ray.put(shared)
        self._options = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_concurrency": in_flight + 1,
            "max_restarts": 0,  # a new actor is this pool's decision, and retries are bounded by it
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        self._in_flight = in_flight
        self._ask: Wanted = wanted or (lambda _, withdrawn: max(1, actors - withdrawn))
        self._wanted = actors
        self._withdrawn = 0
        self._looked = time.monotonic()
        self._deaths_each = deaths_to_stop(largest_shard)
        self._deaths = 0
        self._stillbirths = 0
        self._suspects: list[Failure] = []
        self._last_built = time.monotonic()
        self._actors: list[_Actor] = []
        self.most = 0
        self.places: dict[str, Counter[str]] = {}

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardResult]:
        """Work through all shards. Shards are taken from the iterator only when an actor is free for them.

        Raises:
            ExtractError: actors cannot be built, die whatever they work on, or the store cannot be written.
        """
        again: deque[Shard] = deque()
        more = True
        try:
            while True:
                self._staff(again)
                for actor in self._actors:
                    # What is given to an actor only once it is built cannot be blamed for a death before.
                    if actor.node is not None and (more or again):
                        more = self._fill(actor, shards, again)
                if not more and not again and not any(actor.in_flight for actor in self._actors):
                    yield from self._convict()
                    return
                yield from self._step(again)
        finally:
            for actor in self._actors:
                ray.kill(actor.handle)
            self._actors.clear()

    def _staff(self, again: deque[Shard]) -> None:
        """Start actors, or take back some of those that wait for a machine."""
        if time.monotonic() - self._looked > LOOK:
            self._look(again)
        built = sum(actor.node is not None for actor in self._actors)
        change_by = change(self._wanted, built=built, unbuilt=len(self._actors) - built)
        for _ in range(change_by):
            self._actors.append(self._start())
        for actor in [actor for actor in self._actors if actor.node is None][change_by:] if change_by < 0 else ():
            self._actors.remove(actor)
            ray.kill(actor.handle)

    def _look(self, again: deque[Shard]) -> None:
        held = [*again, *(shard for actor in self._actors for shard in actor.in_flight.values())]
        self._wanted = self._ask(sum(len(shard.items) for shard in held), self._withdrawn)
        self._looked = time.monotonic()

    def _start(self) -> _Actor:
        handle = self._host.options(**self._options).remote(self._factory, self._shared)
        return _Actor(handle, handle.node.remote())

    def _fill(self, actor: _Actor, shards: Iterator[Shard], again: deque[Shard]) -> bool:
        """Give an actor work up to its depth; False when the iterator has ended."""
        while len(actor.in_flight) < self._in_flight and not actor.exclusive:
            if again and not (again[0].alone and actor.in_flight):
                shard = again.popleft()
            else:
                if again and again[0].alone:  # it waits for this actor, or another, to be empty
                    return True
                fresh = next(shards, None)
                if fresh is None:
                    return False
                shard = fresh
            actor.in_flight[actor.handle.run.remote(shard)] = shard
        return True

    def _step(self, again: deque[Shard]) -> Iterator[ShardResult]:
        """Wait for an event, and act on all that there are by then."""
        waiting = {reference: actor for actor in self._actors for reference in actor.in_flight}
        waiting |= {actor.ready: actor for actor in self._actors if actor.node is None}
        finished, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
        if finished:
            finished, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if died():
            raise ExtractError("Ray was killed on this machine", hint="run the same command again, it continues")
        if any(actor.node is not None for actor in self._actors):
            self._last_built = time.monotonic()
        elif not finished and time.monotonic() - self._last_built > PATIENCE:
            raise ExtractError(
                f"no actor could be started for {PATIENCE:g} s: the cluster lost the machines that had room for one",
                hint="run the same command again when they are back, it continues",
            )
        for reference in finished:
            actor = waiting[reference]
            try:
                value = ray.get(reference)
            except (RayActorError, OutOfMemoryError) as error:
                self._apply(self._bury(actor, error), again)
                return
            except RayTaskError as error:
                if isinstance(error.cause, FerstoreError):
                    raise error.cause from error
                shard = actor.in_flight.pop(reference)
                self._apply((after_failure(shard, f"{type(error.cause).__name__}: {error.cause}"),), again)
                continue
            except RayError as error:
                raise ExtractError(
                    f"Ray: {type(error).__name__}: {error}", hint="run the same command again"
                ) from error
            if reference == actor.ready:
                actor.node = value
                self._stillbirths = 0
                self.places.setdefault(value, Counter())["actors"] += 1
                self.most = max(self.most, sum(actor.node is not None for actor in self._actors))
            else:
                del actor.in_flight[reference]
                self.places[str(actor.node)]["shards"] += 1
                self._deaths = 0
                yield value
                yield from self._convict()

    def _bury(self, actor: _Actor, error: RayActorError | OutOfMemoryError) -> tuple[Decision, ...]:
        """Take a dead actor out and decide about its shards."""
        self._actors.remove(actor)
        ray.kill(actor.handle)  # out of reach is not dead yet, and its successor needs the place
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise ExtractError(f"an actor cannot be built: {_reason(error)}", hint="it would fail again") from error
        log.warning("an actor died with %d shards in it: %s", len(actor.in_flight), _reason(error))
        if isinstance(error, OutOfMemoryError) and self._wanted > 1:
            # Ray ends any of them when a machine runs out of memory, so none is to blame; fewer need less.
            self._withdrawn += 1
            self._look(deque(actor.in_flight.values()))
            log.warning("a machine ran out of memory: %d actors from now on", self._wanted)
            return tuple(Requeue(shard) for shard in actor.in_flight.values())
        if actor.node is None:
            # Not those of a machine that goes, nor those that waited for a place on it.
            self._stillbirths += not died_with_machine(error)
            if self._stillbirths >= BUILDS_TO_STOP:
                raise _died(f"{self._stillbirths} actors died in a row as they were built", error) from error
            return ()
        node_alive = machine_alive(actor.node)
        self._deaths += node_alive
        if self._deaths >= max(1, self.most) * self._deaths_each:
            raise _died(f"{self._deaths} actors died in a row, with no shard done between them", error) from error
        return after_death(tuple(actor.in_flight.values()), node_alive=node_alive)

    def _convict(self) -> Iterator[ShardResult]:
        """Quarantine what died alone, now that another shard came through: a machine without memory kills any."""
        suspects, self._suspects = self._suspects, []
        if suspects:
            yield ShardResult((), (), (), tuple(suspects), 0.0)

    def _apply(self, decisions: tuple[Decision, ...], again: deque[Shard]) -> None:
        # To the front, in their order: halves are tried at once, so that a guilty item is found before the next.
        for decision in reversed(decisions):
            match decision:
                case Requeue(shard):
                    again.appendleft(shard)
                case Quarantine(item, error):
                    self._suspects.append(Failure(item, error))
                case Stop(error):
                    raise ExtractError(error, hint="mend the cause and run the same command again; nothing is lost")


def _died(what: str, error: Exception) -> ExtractError:
    return ExtractError(
        f"{what}; the last: {_reason(error)}",
        hint="too little memory is the usual cause: try --actors 1 (Ray logs: /tmp/ray/session_latest/logs)",
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "never ran" not in line]
    return lines[-1] if lines else type(error).__name__
