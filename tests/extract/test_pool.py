"""The pool of Ray actors: whatever dies, every shard is done once or its culprit is named, and nothing hangs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from ferstore.cluster import Resources, cluster
from ferstore.errors import ExtractError, WeightsError
from ferstore.extract import decide
from ferstore.extract import pool as pool_module
from ferstore.extract.plan import Shard, WorkItem
from ferstore.extract.pool import Pool, Worker
from ferstore.extract.worker import ShardResult

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

Factory = Callable[[Any], Worker]


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module", autouse=True)
def resources() -> Iterator[Resources]:
    before = signal.signal(signal.SIGTERM, stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        with cluster(None, cpus=4) as found:
            yield found
    signal.signal(signal.SIGTERM, before)


def work(number: int) -> WorkItem:
    return WorkItem(f"{number:064x}", "identity", (), "d", str(number))


def shards(count: int, size: int = 4) -> list[Shard]:
    items = [work(number) for number in range(count)]
    return [Shard(tuple(items[at : at + size]), ("pool_3",)) for at in range(0, count, size)]


def pool(factory: Factory, actors: int = 2, largest_shard: int = 4) -> Pool:
    return Pool(factory, None, actors=actors, cpus=1, gpus=0, largest_shard=largest_shard)


def scripted(script: Callable[[Shard], None]) -> Factory:
    """Workers that run a script over each shard and then call it done; nested, so that it is sent by value."""

    def factory(shared: Any) -> Worker:
        from ferstore.extract.worker import ShardResult

        class Scripted:
            def run(self, shard: Shard) -> ShardResult:
                script(shard)
                return ShardResult(shard.layers, (), shard.items, (), 0.0)

        return Scripted()

    return factory


def done(results: list[ShardResult]) -> list[int]:
    return sorted(int(item.item_id) for result in results for item in result.done)


def failed(results: list[ShardResult]) -> list[int]:
    return sorted(int(failure.item.item_id) for result in results for failure in result.failures)


def test_every_shard_comes_back_once() -> None:
    results = list(pool(scripted(lambda shard: None)).run(iter(shards(30))))
    assert done(results) == list(range(30))
    assert failed(results) == []


def test_no_shards_are_no_results() -> None:
    assert list(pool(scripted(lambda shard: None)).run(iter([]))) == []


def test_shards_are_taken_only_as_actors_have_room_for_them() -> None:
    taken: list[int] = []

    def count() -> Iterator[Shard]:
        for number, shard in enumerate(shards(40)):
            taken.append(number)
            yield shard

    results = pool(scripted(lambda shard: None)).run(count())
    next(results)
    assert len(taken) <= 5  # two in each of two actors, and one in the place of the first result
    assert len(list(results)) == 9


def test_an_actor_killed_in_a_shard_costs_nothing_but_time(tmp_path: Path) -> None:
    flag = str(tmp_path / "killed")

    def script(shard: Shard) -> None:
        import os
        import signal
        from pathlib import Path

        if shard.items[0].item_id == "8":
            try:
                Path(flag).touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    results = list(pool(scripted(script)).run(iter(shards(30))))
    assert Path(flag).exists()
    assert done(results) == list(range(30))
    assert failed(results) == []


def test_an_actor_killed_from_outside_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()

    def script(shard: Shard) -> None:
        import os
        import time
        from pathlib import Path

        (Path(str(pids)) / str(os.getpid())).touch()
        time.sleep(0.05)

    results = []
    for number, result in enumerate(pool(scripted(script)).run(iter(shards(60)))):
        results.append(result)
        if number == 3:
            os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)
    assert "an actor died with 2 shards in it" in caplog.text
    assert done(results) == list(range(60))


def test_items_that_kill_their_process_are_quarantined_and_all_others_are_done(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def script(shard: Shard) -> None:
        import os

        if any(item.item_id in ("5", "6") for item in shard.items):
            os._exit(1)

    results = list(pool(scripted(script)).run(iter(shards(12))))
    assert failed(results) == [5, 6]
    assert done(results) == sorted(set(range(12)) - {5, 6})
    errors = {failure.error for result in results for failure in result.failures}
    assert errors == {"the process computing it died 2 times"}
    time.sleep(0.2)  # the raylet's remarks on dead workers take their own way to the driver
    assert capfd.readouterr().out == ""  # which is where a command's result goes


def test_an_error_of_ferstore_in_the_factory_is_the_error_of_the_run() -> None:
    def factory(shared: Any) -> Worker:
        from ferstore.errors import WeightsError

        raise WeightsError("weights that do not fit", hint="give others")

    with pytest.raises(WeightsError, match=r"^weights that do not fit; give others$"):
        list(pool(factory).run(iter(shards(8))))


def test_any_other_error_in_the_factory_ends_the_run_with_its_reason() -> None:
    def factory(shared: Any) -> Worker:
        raise ValueError("no such device")

    with pytest.raises(ExtractError, match="an actor cannot be built: ValueError: no such device"):
        list(pool(factory).run(iter(shards(8))))


def test_a_factory_that_always_dies_ends_the_run() -> None:
    def factory(shared: Any) -> Worker:
        import os

        os._exit(1)

    with pytest.raises(ExtractError, match="3 actors died in a row as they were built"):
        list(pool(factory).run(iter(shards(8))))


def test_actors_that_die_whatever_they_work_on_end_the_run_and_blame_no_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(shard: Shard) -> None:
        import os

        os._exit(1)

    monkeypatch.setattr(decide, "NEIGHBOURS", 1)
    results: list[ShardResult] = []
    with pytest.raises(ExtractError, match="7 actors died in a row, with no shard done between them"):
        results.extend(pool(scripted(script), actors=1, largest_shard=2).run(iter(shards(12, size=2))))
    assert results == []


def test_a_killer_with_no_other_shard_to_compare_with_is_quarantined_at_the_end() -> None:
    def script(shard: Shard) -> None:
        import os

        os._exit(1)

    results = list(pool(scripted(script), actors=1, largest_shard=1).run(iter(shards(1, size=1))))
    assert (done(results), failed(results)) == ([], [0])


def test_a_shard_that_fails_is_tried_again(tmp_path: Path) -> None:
    flag = str(tmp_path / "failed")

    def script(shard: Shard) -> None:
        from pathlib import Path

        if shard.items[0].item_id == "4" and not Path(flag).exists():
            Path(flag).touch()
            raise OSError("a moment of no disk")

    results = list(pool(scripted(script)).run(iter(shards(12))))
    assert Path(flag).exists()
    assert done(results) == list(range(12))


def test_a_shard_that_fails_three_times_ends_the_run_with_its_error() -> None:
    def script(shard: Shard) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ExtractError, match=r"OSError: \[Errno 28\] No space left on device; mend the cause"):
        list(pool(scripted(script)).run(iter(shards(12))))


def test_what_is_shared_reaches_every_worker_and_actors_end_with_the_run() -> None:
    def factory(shared: Any) -> Worker:
        assert shared == {"weights": 3}
        from ferstore.extract.worker import ShardResult

        class Quiet:
            def run(self, shard: Shard) -> ShardResult:
                return ShardResult(shard.layers, (), shard.items, (), 0.0)

        return Quiet()

    made = Pool(factory, {"weights": 3}, actors=2, cpus=1, gpus=0, largest_shard=4)
    assert done(list(made.run(iter(shards(8))))) == list(range(8))
    assert made._actors == []


def test_an_actor_without_a_gpu_sees_none_of_those_there_are(tmp_path: Path) -> None:
    told = str(tmp_path / "told")

    def script(shard: Shard) -> None:
        import os
        from pathlib import Path

        Path(told).write_text(repr(os.environ.get("CUDA_VISIBLE_DEVICES")))

    list(pool(scripted(script), actors=1).run(iter(shards(1))))
    assert Path(told).read_text() == "''"


def test_a_pool_grows_and_takes_back_what_waits_but_none_that_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pool_module, "LOOK", 0.2)
    pids = tmp_path / "pids"
    pids.mkdir()
    asked: list[tuple[int, int]] = []

    def wanted(held: int, withdrawn: int) -> int:
        asked.append((held, withdrawn))
        return 9 if len(list(pids.iterdir())) < 4 else 1  # of four CPUs

    def script(shard: Shard) -> None:
        import os
        import time
        from pathlib import Path

        (Path(str(pids)) / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while len(list(Path(str(pids)).iterdir())) < 4 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.05)

    made = Pool(scripted(script), None, actors=1, cpus=1, gpus=0, largest_shard=4, wanted=wanted)
    counts = []
    results = []
    for result in made.run(iter(shards(120))):
        results.append(result)
        counts.append(len(made._actors))
    assert done(results) == list(range(120))
    assert {withdrawn for _, withdrawn in asked} == {0}
    assert 0 < max(held for held, _ in asked) <= 4 * 2 * 4  # of four actors, two shards of four items each
    assert made.most == 4
    assert max(counts) == 9
    assert counts[-1] == 4, "the five that waited are taken back"
    assert {node: dict(had) for node, had in made.places.items()} == {
        next(iter(made.places)): {"actors": 4, "shards": 30}
    }


def test_a_cluster_says_what_each_machine_has_and_leaves_sigterm_to_the_program(resources: Resources) -> None:
    assert (resources.nodes, resources.cpus, resources.gpus) == (((4.0, 0.0),), 4.0, 0.0)
    assert resources.memory > 0
    assert signal.getsignal(signal.SIGTERM) is stop  # Ray's own would end the run without saving anything


def test_without_room_for_any_actor_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PATIENCE", 1.0)
    nowhere = Pool(scripted(lambda shard: None), None, actors=1, cpus=1, gpus=1, largest_shard=4)
    with pytest.raises(ExtractError, match=r"no actor could be started for 1 s: .*run the same command again"):
        list(nowhere.run(iter(shards(4))))


def test_it_ends_when_ray_was_killed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "died", lambda: True)
    with pytest.raises(ExtractError, match="Ray was killed on this machine; run the same command again"):
        list(pool(scripted(lambda shard: None)).run(iter(shards(4))))


LOST = """The actor died unexpectedly before finishing this task.
	class_name: A
	ip: 192.0.2.2
The actor died because its node has died. Node Id: 6eec98216487146a86ccf6d4dcb4000ba502281abdc227f1213138aa
	the actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats
The actor never ran - it was cancelled before it started running."""
"""What Ray 2.60 said of an actor that waited for a place on a machine that was lost."""


def test_actors_that_were_being_built_on_a_machine_that_is_lost_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module.ray, "kill", lambda handle: None)
    tried = pool(scripted(lambda shard: None), actors=8)

    def bury(said: str) -> tuple[decide.Decision, ...]:
        actor = pool_module._Actor(None, None)
        tried._actors.append(actor)
        return tried._bury(actor, RayActorError(error_msg=said))

    assert [bury(LOST) for _ in range(8)] == [()] * 8
    assert [bury("died") for _ in range(2)] == [()] * 2
    with pytest.raises(ExtractError, match="3 actors died in a row as they were built; the last: died"):
        bury("died")


def test_what_is_ended_for_want_of_memory_is_not_blamed_while_others_took_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module.ray, "kill", lambda handle: None)
    monkeypatch.setattr(pool_module, "machine_alive", lambda node: True)
    tried = pool(scripted(lambda shard: None), actors=3)
    [single] = shards(1)

    def bury() -> tuple[decide.Decision, ...]:
        actor = pool_module._Actor(None, None, node="n", in_flight={"r": single})
        tried._actors.append(actor)
        return tried._bury(actor, OutOfMemoryError("memory"))

    assert bury() == (decide.Requeue(single),)
    assert bury() == (decide.Requeue(single),)
    assert tried._wanted == 1
    [alone] = bury()  # it was by itself
    assert isinstance(alone, decide.Requeue)
    assert (alone.shard.alone, alone.shard.kills) == (True, 1)
    assert tried._wanted == 1
