"""The command line: exit codes, one line an error, one JSON object, and nothing changed by a mistake."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from drawn import noise_files, noise_store, picture, sql, tree_digest, write
from filled import fill

from ferstore.cli import app, main
from ferstore.sources.ingest import ingest
from ferstore.store.store import Store, init_store
from ferstore.store.tags import create_tag

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)

Outcome = tuple[int, str, str]


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """What a command changes in its process, put back: in a test it is pytest's."""
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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six pictures with features, one of them broken, and two tags; no test changes it."""
    folder = tmp_path_factory.mktemp("cli")
    store = noise_store(folder, 6)
    create_tag(store, "before")
    fill(store)
    ingest(store, "folder", str(write(folder / "noise", {"sad/broken.png": b"no picture"})))
    create_tag(store, "after")
    return store


@pytest.fixture
def here(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, with the filled store in FERSTORE_STORE; returns the store's folder."""
    folder = Path(store.url.removeprefix("file://"))
    monkeypatch.setenv("FERSTORE_STORE", str(folder))
    monkeypatch.delenv("FERSTORE_CATALOG", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code, out, err


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("ferstore: ") and "Traceback" not in text


WRONG = {
    "unknown command": (["frobnicate"], "No such command"),
    "unknown option": (["tables", "--jsn"], "--json"),
    "missing argument": (["ingest", "folder"], "Missing argument"),
    "typo in a kind": (["ingest", "ferplsu", "."], "did you mean 'ferplus'?"),
    "missing folder": (["ingest", "folder", "nowhere"], "there is nothing at"),
    "a file for a folder": (["ingest", "jaffe", "plain.txt"], "is a file"),
    "a folder of another kind": (["ingest", "jaffe", "empty"], "is not a jaffe data set"),
    "empty name": (["ingest", "folder", "faces", "--name", ""], "1 to 200 printable characters"),
    "unknown protocol": (["ingest", "folder", "gopher://x/y"], "protocol"),
    "password in a URL": (["ingest", "folder", "https://me:secret@host/x.zip"], "user information"),
    "unknown data set": (["extract", "--weights", "random", "--dataset", "nosie"], "no data set 'nosie'"),
    "unknown layer": (["extract", "--layers", "mixed_99"], "unknown layer 'mixed_99'"),
    "no layer": (["extract", "--layers", ","], "no layer"),
    "unknown view": (["extract", "--views", "upside_down"], "unknown view 'upside_down'"),
    "unknown precision": (["extract", "--precision", "float8"], "float8"),
    "bad actors": (["extract", "--actors", "many"], "auto, or a number from 1"),
    "no actors": (["extract", "--actors", "0"], "0 actors"),
    "bad batch": (["extract", "--batch-size", "0"], "batch size 0"),
    "negative limit": (["extract", "--limit", "-1"], "limit -1"),
    "malformed digest": (["extract", "--weights", "random", "--weights-sha256", "00"], "64 hex digits"),
    "wrong digest": (["extract", "--weights", "random", "--weights-sha256", "0" * 64], "0000"),
    "missing weights": (["extract", "--weights", "nowhere.h5"], "nowhere.h5"),
    "weights with code": (["extract", "--weights", "model.pkl"], "allowed: "),
    "two statements": (["sql", "select 1; select 2"], "2 statements"),
    "not read-only": (["sql", "drop table images"], "read-only"),
    "no such table": (["sql", "select * from imagse"], "imagse"),
    "syntax": (["sql", "selct 1"], "selct"),
    "an error while it runs": (["sql", "select error('no')"], "no"),
    "an error over random features": (["sql", "select error('no') from pool_3"], "no"),
    "parquet without a file": (["sql", "select 1", "--format", "parquet"], "--output"),
    "json to a file": (["sql", "select 1", "--json", "--output", "x.json"], "--format json"),
    "output in no folder": (["sql", "select 1", "--output", "no/x.csv"], "in no folder that is there"),
    "output is a folder": (["sql", "select 1", "--output", "empty"], "is a folder"),
    "unknown format": (["sql", "select 1", "--format", "pdf"], "pdf"),
    "nonsense time": (["sql", "select 1", "--at", "yesterday-ish"], "is no tag, snapshot id or time"),
    "unknown snapshot": (["sql", "select 1", "--at", "1234567890123"], "no snapshot 1234567890123"),
    "unknown tag": (["diff", "before", "aftre"], "'aftre' is no tag"),
    "tag taken": (["tag", "before"], "exists and never moves"),
    "bad tag": (["tag", "a/b"], "tag name 'a/b'"),
    "unknown table": (["snapshots", "--table", "imagse"], "unknown table 'imagse'"),
    "nobody to erase": (["erase"], "--subject S, or --image ID"),
    "an unknown person": (["erase", "--subject", "nobody"], "nothing in this store is of subject 'nobody'"),
    "an unknown picture": (["erase", "--image", "0" * 64], "nothing in this store is of image"),
    "no picture's id": (["erase", "--image", "face.png"], "64 hex digits"),
    "no length of time": (["vacuum", "--keep", "7"], "a number with d, h, m or s"),
    "a negative length": (["vacuum", "--grace", "-1d"], "a number with d, h, m or s"),
    "a run that is not at work": (["runs", "--abandon", "x"], "no run 'x' at work"),
    "similar to nothing": (["similar", "0" * 64], "0000"),
    "unknown vector": (["similar", "0" * 64, "--layer", "pool_4"], "pool_4"),
    "no such place": (["--store", "/proc/x", "init"], "cannot make a store at"),
    "a file for a store": (["--store", "plain.txt", "init"], "is a file"),
    "a folder of strangers": (["--store", "faces", "init"], "is not empty"),
    "no store": (["--store", "empty", "tables"], "no store at"),
    "a store of another format": (["--store", "future", "tables"], "format 99"),
    "a damaged store": (["--store", "damaged", "tables"], "damaged"),
    "a catalog it has not": (["--catalog", "postgresql://me:secret@host/db", "tables"], "keeps its catalog inside"),
    "a demo in the way": (["demo", "--output", "faces"], "is not empty and is no demo"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2_and_changes_nothing(
    case: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path,
        {
            "faces/a/b.png": picture(1),
            "plain.txt": b"text",
            "model.pkl": b"code",
            "future/ferstore.json": json.dumps({"format": 99, "created_by": "ferstore 9"}).encode(),
            "damaged/ferstore.json": b"{",
        },
    )
    (tmp_path / "empty").mkdir()
    before, around = tree_digest(here), tree_digest(tmp_path)
    arguments, said = WRONG[case]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert one_line(err), err
    assert said in err
    assert "secret" not in err
    assert tree_digest(here) == before
    assert tree_digest(tmp_path) == around


def test_an_output_inside_the_store_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree_digest(here)
    code, out, err = run(capsys, "sql", "select 1", "--output", str(here / "tables" / "x.csv"))
    assert (code, out, one_line(err)) == (2, "", True)
    assert "lies inside the store" in err
    assert tree_digest(here) == before


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_query_that_fails_on_its_way_leaves_the_file_as_it_was(
    kind: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "result"
    output.write_text("as it was")
    late = "select case when i > 100000 then error('too late') else 'x' end from range(200000) t(i)"
    code, out, err = run(capsys, "sql", late, "--format", kind, "--output", str(output))
    assert (code, out, one_line(err)) == (2, "", True)
    assert "too late" in err
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert output.read_text() == "as it was"


def test_rows_go_to_a_file_in_every_format(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "select item_id, label from images order by item_id limit 2"
    for kind in ("csv", "json", "parquet"):
        assert run(capsys, "sql", query, "--format", kind, "--output", f"rows.{kind}") == (0, "", "")
    expected = [
        {"item_id": "happy/00001.png", "label": "happy"},
        {"item_id": "happy/00003.png", "label": "happy"},
    ]
    assert json.loads((tmp_path / "rows.json").read_text()) == expected
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == expected
    assert (tmp_path / "rows.csv").read_text() == "item_id,label\nhappy/00001.png,happy\nhappy/00003.png,happy\n"


JSON = {
    "init": ["init"],
    "init --dry-run": ["init", "--dry-run"],
    "ingest --dry-run": ["ingest", "folder", "faces", "--dry-run"],
    "extract": ["extract", "--weights", "random"],
    "extract --dry-run": ["extract", "--weights", "random", "--seed", "1", "--dry-run"],
    "sql": ["sql", "select *, 'nan'::double as x from images"],
    "sql --at": ["sql", "select count(*) as n from pool_3", "--at", "before"],
    "similar": ["similar", "IMAGE", "-k", "2"],
    "diff": ["diff", "before", "after"],
    "tables": ["tables"],
    "snapshots": ["snapshots"],
    "runs": ["runs"],
    "tag": ["tag"],
    "tag --dry-run": ["tag", "new", "--dry-run"],
    "compact --dry-run": ["compact", "--dry-run"],
    "vacuum --dry-run": ["vacuum", "--keep", "0", "--dry-run"],
    "vacuum of nothing": ["vacuum"],
    "erase --dry-run": ["erase", "--image", "IMAGE", "--dry-run"],
    "verify": ["verify"],
    "doctor": ["doctor"],
}


@pytest.mark.parametrize("case", JSON)
def test_json_is_one_object_and_a_look_changes_nothing(
    case: str, here: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"faces/a/b.png": picture(1)})
    arguments = [_any_image(store) if word == "IMAGE" else word for word in JSON[case]]
    before = tree_digest(here)
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert out.count("\n") == 1
    assert isinstance(json.loads(out), dict)
    assert tree_digest(here) == before


def _any_image(store: Store) -> str:
    return str(sql(store, "select image_id from pool_3 limit 1")[0][0])


@pytest.mark.parametrize("case", sorted(set(JSON) - {"init --dry-run"}))
def test_the_same_for_people_is_text_with_exit_code_0(
    case: str, here: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"faces/a/b.png": picture(1)})
    arguments = [_any_image(store) if word == "IMAGE" else word for word in JSON[case]]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out.strip()
    assert not out.startswith("{")


def test_a_result_of_random_weights_says_so_beside_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "sql", "select count(*) as n from pool_3", "--format", "csv")
    assert (code, out) == (0, "n\n6\n")
    assert "come from random weights (seed 0)" in err
    assert run(capsys, "sql", "select count(*) as n from images", "--format", "csv") == (0, "n\n6\n", "")


def test_the_store_may_be_named_before_or_after_the_command(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FERSTORE_STORE", str(tmp_path / "no store"))
    words = [
        ["--store", str(here), "tables", "--json"],
        ["tables", "--store", str(here), "--json"],
        [f"--store={here}", "tables", "--json"],
        ["tables", "--json", f"--store={here}"],
    ]
    results = [run(capsys, *line) for line in words]
    assert {result[0] for result in results} == {0}
    assert len(set(results)) == 1


def test_a_word_after_two_dashes_is_no_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "tag", "--dry-run", "--", "--store")
    assert (code, err) == (0, "would tag --store\n")


def test_ingest_with_a_broken_file_is_done_with_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init_store(str(tmp_path / "ferstore-data"))
    write(tmp_path / "faces", {**noise_files(2), "sad/broken.png": b"no picture"})
    code, out, err = run(capsys, "ingest", "folder", "faces")
    assert code == 3
    assert "added 2, changed 0, unchanged 0, quarantined 1" in out
    assert err.startswith("  quarantined sad/broken.png: not an image")


def test_a_tag_is_made_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", noise_store(tmp_path, 1).url]
    code, out, _ = run(capsys, "tag", "first", *store)
    assert (code, out) == (0, "tagged first: 2 tables\n")
    assert "first" in json.loads(run(capsys, "tag", "--json", *store)[1])["tags"]


def test_an_unexpected_error_is_one_line_and_a_traceback_only_when_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("ferstore.api.FeatureStore.tables", fail)
    code, out, err = run(capsys, "tables")
    assert (code, out, one_line(err)) == (1, "", True)
    assert "unexpected ZeroDivisionError: two lines" in err
    code, _, err = run(capsys, "tables", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_a_stop_by_signal_is_one_line_and_exit_code_1(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr("ferstore.api.FeatureStore.tables", interrupted)
    code, out, err = run(capsys, "tables")
    assert (code, out, one_line(err)) == (1, "", True)
    assert "what was finished is kept" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, command.replace("_", "-"), "--help")
    assert (code, err) == (0, "")
    assert "Usage: ferstore" in out
    assert "Example: ferstore" in " ".join(out.split())


def test_help_and_version_need_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(command.replace("_", "-") in out for command in COMMANDS)
    code, out, err = run(capsys, "--version")
    assert (code, out.split()[0], err) == (0, "ferstore", "")
    code, out, err = run(capsys)
    assert (code, one_line(err)) == (2, True)


HEAVY = ("duckdb", "pyiceberg", "pyarrow", "numpy", "ray", "tensorflow", "keras", "PIL")


def loaded(*arguments: str) -> set[str]:
    """Heavy packages that a command loads, in a process of its own."""
    program = (
        "import sys\nfrom ferstore.cli import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    assert loaded("--help") == set()
    assert loaded("extract", "--help") == set()


def test_a_query_loads_neither_ray_nor_tensorflow(here: Path) -> None:
    assert not loaded("sql", "select count(*) from images") & {"ray", "tensorflow", "keras"}
