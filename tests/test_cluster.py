"""Reaching Ray: what is started here is closed to others, and a cluster that lets in everybody is refused."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from drawn import noise_store, tree_digest
from extract_driver import marked
from ray_head import Head, head

from ferstore import cluster_access
from ferstore.batch import run_job
from ferstore.cluster import cluster
from ferstore.cluster_access import let_in
from ferstore.errors import FerstoreError, InputError

ROOT = Path(__file__).parents[1]
TOKEN = secrets.token_hex(32)
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="finds listening sockets in /proc")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def no_token_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # ~/.ray/auth_token


@pytest.fixture(scope="module")
def open_head() -> Iterator[Head]:
    with head({"RAY_AUTH_MODE": "disabled"}) as found:
        yield found


@pytest.fixture(scope="module")
def closed_head() -> Iterator[Head]:
    with head({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}) as found:
        yield found


def listening(pids: Iterable[int]) -> set[str]:
    """Hex addresses of the sockets that processes listen on (/proc/net/tcp and tcp6)."""
    own = set()
    for pid in pids:
        for number in (Path("/proc") / str(pid) / "fd").iterdir():
            try:
                own.add(os.readlink(number))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


@needs_proc
def test_what_is_started_here_listens_on_loopback_to_a_token_that_is_nowhere_to_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = f"FERSTORE_TEST={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # which is for the user's own clusters
    with cluster(None, cpus=1) as resources:
        import ray

        assert resources.cpus == 1
        token = os.environ["RAY_AUTH_TOKEN"]
        assert len(token) == 64
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()
        pids = marked(mark)
        assert listening(pids), "nothing was looked at"
        assert listening(pids) <= LOOPBACK
        gcs = ray.get_runtime_context().gcs_address
        assert not cluster_access._answers(gcs, False, "disabled")
        assert cluster_access._answers(gcs, False, "token")
        lines = b"".join((Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in pids)
        assert b"gcs_server" in lines
        assert token.encode() not in lines
        logs = Path(ray._private.worker._global_node.get_session_dir_path())
        written = [path for path in logs.rglob("*") if path.is_file()]
        assert written
        assert not [path for path in written if token.encode() in path.read_bytes()]
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert not (tmp_path / ".ray").exists()  # Ray's own token would be left there, for all to read


@pytest.mark.parametrize("kind", ["gcs", "client"])
def test_a_cluster_that_lets_in_everybody_is_refused_unless_told(open_head: Head, kind: str) -> None:
    address = getattr(open_head, kind)
    with (
        pytest.raises(InputError, match="answers without a token: whoever reaches it can run code") as refused,
        let_in(address, insecure=False),
    ):
        pytest.fail("let in")
    assert "--insecure-cluster" in str(refused.value)
    with let_in(address, insecure=True) as warning:
        assert warning is not None
        assert "answers without a token" in warning


@pytest.mark.parametrize("kind", ["gcs", "client"])
def test_a_cluster_with_a_token_is_used_by_who_has_it(
    closed_head: Head, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = getattr(closed_head, kind)
    with (
        pytest.raises(InputError, match="asks for a token, and there is none here; set"),
        let_in(address, insecure=True),
    ):
        pytest.fail("let in")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="there is none here"), let_in(address, insecure=True):
        pytest.fail("let in")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    wrong = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", wrong)
    with pytest.raises(InputError, match="refuses the token given here") as refused, let_in(address, insecure=False):
        pytest.fail("let in")
    assert wrong not in str(refused.value)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    with let_in(address, insecure=False) as warning:
        assert warning is None
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in os.environ


def test_work_is_done_on_a_cluster_with_a_token(closed_head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_ADDRESS", closed_head.gcs)
    with cluster(None) as resources:
        import ray

        assert resources.nodes == ((1.0, 0.0),)
        assert ray.get(ray.remote(lambda: 7).remote()) == 7


def test_work_is_done_on_an_open_cluster_with_a_warning(open_head: Head) -> None:
    said: list[str] = []
    with cluster(open_head.gcs, insecure=True, warn=said.append):
        import ray

        assert ray.get(ray.remote(lambda: 7).remote()) == 7
    [line] = said
    assert line.startswith(f"warning: the Ray cluster at {open_head.gcs} answers without a token")


@pytest.mark.parametrize("loopback", [True, False])
def test_a_cluster_that_only_this_machine_reaches_needs_no_token(
    loopback: bool, open_head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_access, "_loopback", lambda place: loopback)
    if loopback:
        with let_in(open_head.gcs, insecure=False) as warning:
            assert warning is None
    else:
        with pytest.raises(InputError), let_in(open_head.gcs, insecure=False):
            pytest.fail("let in")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["127.0.0.1"], True),
        (["::1", "127.0.0.53"], True),
        (["127.0.0.1", "192.0.2.7"], False),
        (["192.0.2.7"], False),
        (["fe80::1%eth0"], False),
        (["0.0.0.0"], False),
    ],
)
def test_loopback_is_where_every_address_of_a_name_is(
    found: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: asked.append(host) or entries)
    assert cluster_access._loopback("[::1]:6379") is expected
    assert asked == ["::1"]


def test_what_is_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        nowhere = f"127.0.0.1:{free.getsockname()[1]}"
    for address in (nowhere, f"ray://{nowhere}"):
        with pytest.raises(FerstoreError, match=r"no Ray cluster answers at .*check --address"), cluster(address):
            pytest.fail("found one")
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(cluster_access, "_SECONDS", 1.0)
        with (
            pytest.raises(FerstoreError, match="no Ray cluster answers at"),
            cluster(f"ray://127.0.0.1:{silent.getsockname()[1]}"),
        ):
            pytest.fail("found one")
    for address in ("no-port", "s3://x"):
        with pytest.raises(FerstoreError, match="no Ray cluster"), cluster(address):
            pytest.fail("found one")
    with pytest.raises(FerstoreError, match=r"cannot find the Ray cluster at nowhere\.invalid"):
        cluster_access._loopback("nowhere.invalid:6379")


def test_commands_refuse_it_before_anything_changes(
    open_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = noise_store(tmp_path, 3)
    before = tree_digest(tmp_path / "store")
    for address in (["--address", open_head.gcs], []):
        words = ["extract", "--weights", "random", "--store", store.url, *address]
        done = subprocess.run(
            [sys.executable, "-m", "ferstore.cli", *words],
            env={**os.environ, "RAY_ADDRESS": open_head.client},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith("ferstore: the Ray cluster at ")
        assert "answers without a token" in line
    assert tree_digest(tmp_path / "store") == before


@pytest.mark.parametrize(("key", "expected"), [("insecure-cluster = true", True), ("", False)])
def test_the_option_reaches_ray_from_a_job_file(
    key: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, object]] = []

    def no_cluster(address: object, *, insecure: bool, **_: object) -> None:
        asked.append((address, insecure))
        raise InputError("no cluster")

    store = noise_store(tmp_path, 3)
    job = tmp_path / "job.toml"
    job.write_text(f'store = "{store.url}"\nweights = "random"\naddress = "head:1"\n{key}\n')
    monkeypatch.setattr("ferstore.extract.run.cluster", no_cluster)
    monkeypatch.setattr("ferstore.cli.session.log_to", lambda _: None)
    monkeypatch.setattr("ferstore.cli.entry.signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["jobs.extract", "--config", str(job)])
    with pytest.raises(SystemExit) as ended:
        run_job("extract")
    assert ended.value.code == 2
    assert asked == [("head:1", expected)]
