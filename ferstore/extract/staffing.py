"""How many actors an extract has, as machines come and go: decisions as values, without Ray."""

from __future__ import annotations

from dataclasses import dataclass

from ferstore.errors import InputError
from ferstore.extract.plan import actor_count, useful_actors
from ferstore.extract.request import ExtractRequest
from ferstore.resources import Resources


@dataclass(frozen=True, slots=True)
class Staffing:
    """What decides how many actors there are.

    Attributes:
        asked: from ``--actors``; None is ``auto``.
        first: how many to begin with.
        cpus: logical CPUs each takes, the same for all of a run.
        gpus: share of a GPU each takes, or how many; 0 is a CPU actor.
        batch_size: images a batch.
        shards_at_once: shards in an actor's network at a time.
        calls_at_once: batches in it at a time.
    """

    asked: int | None
    first: int
    cpus: int
    gpus: float
    batch_size: int

    @property
    def shards_at_once(self) -> int:
        # A network on a CPU takes all its cores, and a thread encodes faster than it computes. A GPU computes many
        # times faster: three quarters of the cores encode, as encoding takes several times what decoding does.
        return max(1, 3 * self.cpus // 4) if self.gpus else 1

    @property
    def calls_at_once(self) -> int:
        return calls_at_once(self.cpus, self.gpus)

    def wanted(self, resources: Resources, *, left: int, withdrawn: int) -> int:
        """How many there are to be now.

        A number that was asked for stands: what is lost is waited for. ``auto`` fills the machines there are, and where
        others may come it asks for as many again: Ray's autoscaler brings machines for actors that find no room, and
        those that come by themselves are used as soon as they are there.

        Args:
            resources: machines alive.
            left: image views that are not done.
            withdrawn: actors given up, each as a machine ran out of memory; from the first on no machine is asked for,
                since whoever waits would take the place that was left.

        Returns:
            At least 1.
        """
        if self.asked is not None:
            return max(1, self.asked - withdrawn)
        room = max(0, _room(resources, left, self.batch_size, self.cpus, self.gpus) - withdrawn)
        ahead = max(1, room) if resources.may_grow and not withdrawn else 0
        return max(1, min(room + ahead, useful_actors(left, self.batch_size)))


def staffing(request: ExtractRequest, resources: Resources, *, todo: int) -> Staffing:
    """How many actors to begin with, and the CPUs each takes.

    Raises:
        InputError: the cluster does not have what was asked for.
    """
    if request.gpus_per_actor > resources.gpus:
        raise InputError(
            f"{request.gpus_per_actor:g} GPUs an actor on a cluster with {resources.gpus:g}",
            hint="leave out --gpus-per-actor to run on CPUs, or give --address of a cluster with GPUs",
        )
    room = resources.room(cpus=1, gpus=request.gpus_per_actor)
    first = request.actors
    if first is None:
        first = max(1, _room(resources, todo, request.batch_size, 1, request.gpus_per_actor))
    elif first > room:
        raise InputError(
            f"{first} actors on a cluster with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs",
            allowed=f"at most {room}",
            hint="or give --actors auto",
        )
    cpus = resources.cpus_each(first, gpus=request.gpus_per_actor)
    return Staffing(request.actors, first, cpus, request.gpus_per_actor, request.batch_size)


def calls_at_once(cpus: int, gpus: float) -> int:
    """Batches in the network of one actor at a time."""
    if gpus:
        return 3  # one is copied to it and one from it while the third computes
    return 2 if cpus > 1 else 1


def change(wanted: int, *, built: int, unbuilt: int) -> int:
    """Actors to start, or less than 0: how many of those not built yet to take back; one that works is left to work."""
    return max(wanted - built - unbuilt, -unbuilt)


def _room(resources: Resources, left: int, batch_size: int, cpus: int, gpus: float) -> int:
    """Actors that the machines hold and the work is worth."""
    by_work = actor_count(
        None,
        todo=left,
        batch_size=batch_size,
        cpus=resources.cpus,
        gpus=resources.gpus,
        gpus_per_actor=gpus,
        memory=resources.memory,
    )
    return min(by_work, resources.room(cpus=cpus, gpus=gpus))
