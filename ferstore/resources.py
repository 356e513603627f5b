"""What machines have, and how many processes fit on them; pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cluster has.

    Attributes:
        nodes: logical CPUs and GPUs of each machine: a process fits on one machine or on none.
        memory: bytes for workers, of all machines.
        may_grow: machines may come; not to a cluster that was started here.
    """

    nodes: tuple[tuple[float, float], ...]
    memory: int
    may_grow: bool = False

    @property
    def cpus(self) -> float:
        """Logical CPUs of all machines."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all machines."""
        return sum(gpus for _, gpus in self.nodes)

    def room(self, *, cpus: int, gpus: float) -> int:
        """How many processes the machines hold.

        Args:
            cpus: CPUs each takes.
            gpus: GPUs each takes; 0 for one on CPUs, below 1 for a share of one.
        """
        return sum(
            min(int(have // cpus), _places(have_gpus, gpus)) if gpus else int(have // cpus)
            for have, have_gpus in self.nodes
        )

    def cpus_each(self, processes: int, *, gpus: float) -> int:
        """CPUs each of so many takes: as many as let all of them run at once, each on one machine.

        One that asked for more than any machine has would wait for ever.
        """
        most = int(max((cpus for cpus, _ in self.nodes), default=1))
        return next((n for n in range(most, 1, -1) if self.room(cpus=n, gpus=gpus) >= processes), 1)


def _places(gpus: float, share: float) -> int:
    """How many times such a share is on a machine with so many GPUs. One below 1 lies on one GPU, as Ray has it."""
    if share >= 1:
        return int(gpus / share + 1e-9)
    whole = int(gpus)
    return whole * int(1 / share + 1e-9) + int((gpus - whole) / share + 1e-9)
