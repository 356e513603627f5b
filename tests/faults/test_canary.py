"""A credential that is planted wherever a user might put one is in nothing that ferstore prints, logs or keeps."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import noise_files, noise_store, sql, write
from filled import fill

from ferstore.cli import main
from ferstore.cli.session import Globals
from ferstore.store.store import Store

ROOT = Path(__file__).parents[2]
CANARY = "CANARYc0ffee4711"
DEAD = "127.0.0.1:9"  # nobody listens
URLS = (
    f"https://user:{CANARY}@{DEAD}/x",
    f"https://{CANARY}@{DEAD}/x",
    f" https://user:{CANARY}@{DEAD}/x",
    f"https://user:pa/{CANARY}@{DEAD}/x",
    f"https://{DEAD}/x?X-Amz-Signature={CANARY}",
    f"https://{DEAD}/x?v=1&sig={CANARY}",
    f"https://{DEAD}/x?token={CANARY}",
    f"https://{DEAD}/x#access_token={CANARY}",
    f"s3://KEY:{CANARY}@bucket/x",
    f"abfss://account:{CANARY}@host/x",
    f"ftp://user:{CANARY}@host/x",
    f"file://user:{CANARY}@host/x",
    f"simplecache::https://user:{CANARY}@host/x",
)
CATALOGS = (
    f"postgresql://user:{CANARY}@{DEAD}/db",
    f"postgresql://user:{CANARY}@127.0.0.1:port/db",
    f"postgresql+psycopg2://user:{CANARY}@{DEAD}/db?password={CANARY}",
    f"postgresql://user:pa/{CANARY}@127.0.0.1/db",
    f"mysql://user:{CANARY}@host/db",
    f"http://user:{CANARY}@{DEAD}",
    f"http://{DEAD}/?token={CANARY}",
    f"sqlite:////nowhere/x.db?password={CANARY}",
    f"user:{CANARY}@host/db",
)
WAYS = {
    "--store": lambda url: ("--store", url, "tables"),
    "init": lambda url: ("--store", url, "init"),
    "init --dry-run": lambda url: ("--store", url, "init", "--dry-run"),
    "ingest": lambda url: ("ingest", "folder", url, "--name", "x"),
    "ingest archive": lambda url: ("ingest", "folder", f"{url.strip()}/a.zip"),
    "ingest member": lambda url: ("ingest", "folder", f"zip://faces::{url.strip()}.zip"),
    "ingest table": lambda url: ("ingest", "folder", f"{url}.csv"),
    "--weights": lambda url: ("extract", "--weights", f"{url}.h5"),
    "--weights of a kind": lambda url: ("extract", "--weights", f"{url.partition('?')[0]}.pkl"),
    "--weights query": lambda url: ("extract", "--weights", url.replace("/x", "/x.safetensors")),
    "--weights-sha256": lambda url: ("extract", "--weights", f"{url}.h5", "--weights-sha256", url),
    "figures --weights": lambda url: ("figures", "face.png", "--output", "o", "--weights", f"{url}.h5"),
    "figures": lambda url: ("figures", url, "--output", "o", "--weights", "random"),
    "similar": lambda url: ("similar", url),
    "report --output": lambda url: ("report", "--output", url),
    "sql --output": lambda url: ("sql", "from runs", "--output", url),
    "sql --at": lambda url: ("sql", "from runs", "--at", url),
    "tag": lambda url: ("sql", f"from read_csv('{url}')"),
}
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "FSSPEC_S3_SECRET", "AZURE_STORAGE_KEY", "RAY_AUTH_TOKEN")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = noise_store(tmp_path_factory.mktemp("canary"), 4)
    fill(store)
    return store


@pytest.fixture(autouse=True)
def process(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to work in, secrets in the environment; what a command changes in its process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FERSTORE_STORE", store.url.removeprefix("file://"))
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    handlers, level, stop = list(logging.root.handlers), logging.root.level, signal.getsignal(signal.SIGTERM)
    yield
    for handler in [handler for handler in logging.root.handlers if handler not in handlers]:
        logging.root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        logging.root.addHandler(handler)
    logging.root.setLevel(level)
    logging.captureWarnings(False)
    signal.signal(signal.SIGTERM, stop)
    Globals.store = Globals.catalog = None
    Globals.debug = False


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and all that came out, with tracebacks."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--debug", *arguments])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out + err


def found_in(folder: Path) -> list[str]:
    """Names and files below a folder that hold the canary, Parquet decoded too."""
    held = []
    for path in folder.rglob("*"):
        if CANARY in path.name:
            held.append(str(path))
        if not path.is_file():
            continue
        if CANARY.encode() in path.read_bytes():
            held.append(str(path))
        if path.suffix == ".parquet" and CANARY in text_of(pq.read_table(path)):
            held.append(f"{path} (decoded)")
    return held


def text_of(rows: pa.Table) -> str:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_list)
    shown = [name for name in rows.column_names if any(kind(rows.schema.field(name).type) for kind in kinds)]
    plain = [name for name in shown if name not in ("pool_3", "conv4", "probabilities")]
    return json.dumps(rows.select(plain).to_pylist(), default=str)


def check_everywhere(store: Store, *folders: Path) -> None:
    for folder in (Path(store.url.removeprefix("file://")), *folders):
        assert found_in(folder) == []


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_url_with_a_credential_is_refused_and_kept_nowhere(
    way: str, store: Store, capfd: pytest.CaptureFixture[str], tmp_path: Path, tally: Any
) -> None:
    for url in URLS:
        code, said = run(capfd, *WAYS[way](url))
        assert CANARY not in said, f"{way} {url}: {said}"
        assert code in (1, 2), f"{way} {url}: {code} {said}"
        assert said.splitlines()[-1].startswith("ferstore: ")
    check_everywhere(store, tmp_path)
    tally("canaries", len(URLS))


@pytest.mark.parametrize("command", [("tables",), ("init",), ("sql", "from runs")], ids=" ".join)
def test_a_catalogs_password_is_shown_nowhere(
    command: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    tally: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for catalog in CATALOGS:
        for given in (True, False):
            if given:
                code, said = run(capfd, "--store", str(tmp_path / "s"), "--catalog", catalog, *command)
            else:
                monkeypatch.setenv("FERSTORE_CATALOG", catalog)
                code, said = run(capfd, "--store", str(tmp_path / "s"), *command)
                monkeypatch.delenv("FERSTORE_CATALOG")
            assert CANARY not in said, f"{catalog}: {said}"
            assert code in (1, 2), f"{catalog}: {code} {said}"
    assert found_in(tmp_path) == []
    tally("canaries", 2 * len(CATALOGS))


def test_a_listing_with_credentials_keeps_its_rows_out_of_the_store(
    store: Store, capfd: pytest.CaptureFixture[str], tmp_path: Path, tally: Any
) -> None:
    rows = [f'"{url}",happy' for url in URLS] + [f'"zip://a.png::{url.strip()}.zip",sad' for url in URLS]
    rows.append(f"nothing.png,happy,,{URLS[0]}")
    write(tmp_path / "in", {"list.csv": ("url,label,subject,split\n" + "\n".join(rows)).encode()})
    code, said = run(capfd, "ingest", "folder", str(tmp_path / "in" / "list.csv"), "--name", "listed", "--json")
    assert CANARY not in said, said
    assert code == 3
    run(capfd, "extract", "--dataset", "listed", "--dry-run")
    assert sql(store, "select count(*) from quarantine where dataset = 'listed'") != [(0,)]
    check_everywhere(store)
    for command in (("sql", "from quarantine", "--json"), ("runs", "--json"), ("snapshots", "--json")):
        assert CANARY not in run(capfd, *command)[1]
    code, said = run(capfd, "report", "--output", str(tmp_path / "report"))
    assert code == 0
    assert CANARY not in said
    assert found_in(tmp_path / "report") == []
    tally("canaries", len(rows))


def test_a_job_files_secrets_are_shown_nowhere(tmp_path: Path, tally: Any) -> None:
    jobs = {
        "catalog": f'store = "s"\ncatalog = "{CATALOGS[0]}"\nkind = "folder"\nurl = "faces"\n',
        "store": f'store = "{URLS[0]}"\nkind = "folder"\nurl = "faces"\n',
        "url": f'kind = "folder"\nurl = "{URLS[4]}"\n',
        "not TOML": f'catalog = "{CATALOGS[0]}\n',
        "a list": f'kind = "folder"\nurl = ["{URLS[0]}"]\n',
        "a table": f'kind = "folder"\nurl = "x"\n[catalog]\nurl = "{CATALOGS[0]}"\n',
        "another key": f'kind = "folder"\nurl = "x"\npassword = "{CATALOGS[0]}"\n',
    }
    for name, text in jobs.items():
        (tmp_path / "job.toml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "jobs.ingest", "--config", "job.toml", "--debug"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert CANARY not in done.stdout + done.stderr, f"{name}: {done.stderr}"
        assert done.returncode == 2, f"{name}: {done.stderr}"
    tally("canaries", len(jobs))


@pytest.mark.ray
def test_rays_logs_and_the_store_hold_no_secret_of_the_environment_or_the_command_line(
    tmp_path: Path, level: str, tally: Any
) -> None:
    """A cluster of its own in a folder of its own, with a password in the command line and secrets around it."""
    if level == "ci":
        pytest.skip("a cluster of its own takes longer than CI has for it: FERSTORE_FAULTS=full")
    write(tmp_path / "faces", noise_files(3))
    # SQLite takes no password, and leaves what it does not know of a URI alone.
    catalog = f"sqlite:///file:{tmp_path}/outside.db?uri=true&password={CANARY}"
    session = Path(tempfile.mkdtemp(prefix="cr", dir="/tmp"))  # sockets need a short path
    own = {"PYTHONPATH": str(ROOT), "FERSTORE_STORE": str(tmp_path / "store"), "RAY_TMPDIR": str(session)}
    extract = ("extract", "--weights", "random", "--layers", "pool_3", "--actors", "1", "--limit", "2")
    try:
        for command in (("init",), ("ingest", "folder", str(tmp_path / "faces"), "--name", "faces"), extract):
            done = subprocess.run(
                [sys.executable, "-m", "ferstore.cli", "--debug", "--catalog", catalog, *command],
                env={**os.environ, **own},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert CANARY not in done.stdout + done.stderr
        assert list(session.rglob("raylet.out"))
        assert found_in(session) == []
        assert found_in(tmp_path) == []
    finally:
        shutil.rmtree(session, ignore_errors=True)
    tally("canaries", len(SECRETS) + 1)
