"""A stranger's query reaches the store and nothing else, and takes no more of the machine than it may.

Whether an attempt escaped is judged by what lies on the disk and what came out, not by the exception alone.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from drawn import tree_digest

from ferstore.api import FeatureStore
from ferstore.errors import QueryError
from ferstore.query.isolated import Process
from ferstore.query.limits import Limits
from ferstore.query.session import Session
from ferstore.rendering import show_query
from ferstore.store.pin import Pin
from ferstore.store.store import init_store

Tally = Callable[[str, int], None]
Put = Callable[..., Pin]
CANARY = "canary-5d41402abc4b"  # in a file outside the store
ENVIRONMENT = "canary-7d793037a076"  # in a variable of the environment
PAST = "canary-of-the-past"  # in a file of the store that no current snapshot names
SECRET = "FERSTORE_CANARY"


HOG_LIMITS = Limits(seconds=1, memory=1 << 30, threads=2, rows=100_000)
REACHED = re.compile(
    "stopped after 1 seconds|more memory|ended its process|more than 100,000 rows|nested too deep|characters; allowed"
    "|Max expression depth|maximum supported string|larger than 2"  # DuckDB's own limits
)


@dataclass
class Ground:
    """What an attempt may touch: a store, files outside it, a folder to work in and one for temporary files."""

    api: FeatureStore
    outside: Path
    work: Path
    temporary: Path
    parquet: str
    past: str
    session: Session  # in this process, behind no bounds but the parser's and the connection's

    @cached_property
    def before(self) -> tuple[object, ...]:
        return self.state()

    def state(self) -> tuple[object, ...]:
        folders = (Path(self.api.url.removeprefix("file://")), self.outside, self.work, self.temporary)
        return tuple((tree_digest(folder), sorted(map(str, folder.rglob("*")))) for folder in folders)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, put: Put) -> Iterator[Ground]:
    root = tmp_path_factory.mktemp("escapes")
    outside, work, temporary = root / "outside", root / "work", root / "temporary"
    for folder in (outside, work, temporary):
        folder.mkdir()
    store = init_store(str(root / "store"))
    pin = put(store, images=[{"item_id": "a", "label": PAST, "image_id": "0"}])
    (past,) = (f.file_path.removeprefix("file://") for f in pin.data_files("images"))
    pin = put(store, images=[{"item_id": "a", "label": "sad", "image_id": "0"}])
    (parquet,) = (f.file_path.removeprefix("file://") for f in pin.data_files("images"))
    for name in ("secret.csv", "secret.json", "secret.txt"):
        (outside / name).write_text(f'{{"a": "{CANARY}"}}\n' if name.endswith("json") else f"a\n{CANARY}\n")
    (outside / "secret.parquet").write_bytes(Path(past).read_bytes())
    (outside / "module.py").write_text(f"print('{CANARY}')")
    inside = Path(store.url.removeprefix("file://"))
    (inside / "link.csv").symlink_to(outside / "secret.csv")
    (Path(parquet).parent / "link.parquet").symlink_to(outside / "secret.parquet")
    Path(f"{parquet}.more").write_text(f"a\n{CANARY}\n")  # the path of a file that may be read is its beginning
    given = dict(os.environ)
    os.environ[SECRET] = ENVIRONMENT
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    (inside / "log").mkdir()  # a command makes it
    made = Ground(FeatureStore(store), outside, work, temporary, parquet, past, Session(store, pin))
    assert made.before[2:] == (({}, []), ({}, []))
    with made.session.execute("select label from images") as cursor:  # what is refused below is so for its own sake
        assert list(cursor.rows()) == [("sad",)]
    assert made.api.sql("select label from images", limits=HOG_LIMITS).rows() == [("sad",)]
    yield made
    os.environ.clear()
    os.environ.update(given)
    tempfile.tempdir = None


READS = {
    "read_text": "from read_text('{out}/secret.txt')",
    "read_blob": "from read_blob('{out}/secret.txt')",
    "read_csv": "from read_csv('{out}/secret.csv')",
    "read_csv_auto": "from read_csv_auto('{out}/secret.csv')",
    "read_json": "from read_json('{out}/secret.json')",
    "read_json_auto": "from read_json_auto('{out}/secret.json')",
    "read_json_objects": "from read_json_objects('{out}/secret.json')",
    "read_ndjson": "from read_ndjson('{out}/secret.json')",
    "read_ndjson_objects": "from read_ndjson_objects('{out}/secret.json')",
    "read_parquet": "from read_parquet('{out}/secret.parquet')",
    "parquet_scan": "from parquet_scan('{out}/*.parquet')",
    "read_duckdb": "from read_duckdb('{out}/secret.db')",
    "read_single_csv_file": "from read_single_csv_file('{out}/secret.csv')",
    "parquet_metadata": "from parquet_metadata('{out}/secret.parquet')",
    "parquet_schema": "from parquet_schema('{out}/secret.parquet')",
    "parquet_kv_metadata": "from parquet_kv_metadata('{out}/secret.parquet')",
    "parquet_full_metadata": "from parquet_full_metadata('{out}/secret.parquet')",
    "parquet_bloom_probe": "from parquet_bloom_probe('{out}/secret.parquet', 'label', 'x')",
    "glob": "from glob('{out}/*')",
    "sniff_csv": "from sniff_csv('{out}/secret.csv')",
    "name in quotes": "from '{out}/secret.csv'",
    "name in double quotes": 'from "{out}/secret.parquet"',
    "name with a glob": "from '{out}/secret.*'",
    "described file": "describe '{out}/secret.csv'",
    "summarized file": "summarize '{out}/secret.csv'",
    "shown file": "show '{out}/secret.csv'",
    "file under a WITH of another name": "with a as (select 1) from a, '{out}/secret.csv'",
    "file in a subquery": "select (select max(a) from '{out}/secret.csv')",
    "file in a lateral join": "from images, lateral (from read_text('{out}/secret.txt'))",
    "file in a lambda": "select list_transform([1], lambda x: (select 1 from read_text('{out}/secret.txt')))",
    "file in a limit": "select 1 limit (select count(*) from '{out}/secret.csv')",
    "file in an explain": "explain analyze from read_csv('{out}/secret.csv')",
    "qualified function": "from system.main.read_text('{out}/secret.txt')",
    "from a name beside": "from '{parquet}.more'",
    "path with dots": "from '{parquet}/../../../../outside/secret.csv'",
    "link in the store": "from '{store}/link.csv'",
    "link in a table's folder": "from read_parquet('{folder}/link.parquet')",
    "a file of the store itself": "from '{parquet}'",
    "a file of an earlier state": "from read_parquet('{past}')",
    "a file of an earlier state by name": 'from "{past}"',
    "catalog of the store": "from '{store}/catalog.db'",
    "query()": "from query('from read_text(''{out}/secret.txt'')')",
    "query_table()": "from query_table(['{out}/secret.csv'])",
    "serialized SQL": "from json_execute_serialized_sql(json_serialize_sql('from ''{out}/secret.csv'''))",
    "plan of SQL in a string": "select json_serialize_plan('from ''{out}/secret.csv''')",
    "pointers": "from arrow_scan(1, 2, 3)",
    "pandas pointers": "from pandas_scan(1)",
    "a variable of Python": "from ground",
    "a frame of Python": "from python_arrow_scan(1, 2, 3)",
    "network": "from read_csv('http://127.0.0.1:9/secret.csv')",
    "network by name": "from 'https://127.0.0.1:9/secret.parquet'",
    "object store": "from read_parquet('s3://bucket/secret.parquet')",
}
HOST = {
    "getenv": "select getenv('FERSTORE_CANARY')",
    "getvariable": "select getvariable('FERSTORE_CANARY')",
    "current_setting": "select current_setting('secret_directory')",
    "current_setting as a method": "select 'secret_directory'.current_setting()",
    "quoted current_setting": "select \"CURRENT_SETTING\"('secret_directory')",
    "qualified current_setting": "select system.main.current_setting('home_directory')",
    "shown setting": "show secret_directory",
    "shown setting within": "from (show secret_directory)",
    "duckdb_settings": "from duckdb_settings()",
    "view of settings": "from duckdb_settings",
    "pg_settings": "from pg_catalog.pg_settings",
    "pg_settings by its name": "from pg_settings",
    "setting in a plan": "select json_serialize_plan('select current_setting(''secret_directory'')', optimize := true)",
    "duckdb_secrets": "from duckdb_secrets()",
    "which_secret": "from which_secret('s3://x', 's3')",
    "paths in views": "from duckdb_views()",
    "paths in sqlite_master": "select sql from sqlite_master",
    "paths in information_schema": "select view_definition from information_schema.views",
    "paths in pg_views": "select definition from pg_catalog.pg_views",
    "cached files": "from duckdb_external_file_cache()",
    "temporary files": "from duckdb_temporary_files()",
    "databases": "from duckdb_databases()",
    "shown databases": "show databases",
    "extensions": "from duckdb_extensions()",
    "logs": "from duckdb_logs()",
    "user agent": "from pragma_user_agent()",
}
WRITES = {
    "copy out": "copy images to '{work}/out.csv'",
    "copy a query out": "copy (select 1) to '{work}/out.parquet' (format parquet)",
    "copy onto a file of the store": "copy (select 1 as a) to '{parquet}' (format parquet, use_tmp_file false)",
    "copy in": "copy images from '{out}/secret.csv'",
    "copy in a WITH": "with x as (copy images to '{work}/out.csv') from x",
    "explained copy": "explain analyze copy images to '{work}/out.csv'",
    "explained copy after a remark": "explain /**/ analyze /**/ copy images to '{work}/out.csv'",
    "copy database": "copy from database memory to other",
    "attach": "attach '{work}/new.db'",
    "attach the catalog": "attach '{store}/catalog.db' as c (type sqlite)",
    "export": "export database '{work}/out'",
    "import": "import database '{out}'",
    "install": "install httpfs",
    "install from a folder": "install '{out}/secret.parquet'",
    "load": "load '{out}/secret.parquet'",
    "secret": "create persistent secret s (type s3, key_id 'a', secret 'b')",
    "macro": "create macro f() as table from read_text('{out}/secret.txt')",
    "table": "create table t as select 1",
    "insert": "insert into images select * from images",
    "delete in a WITH": "with x as (delete from images returning 1) from x",
    "update": "update images set label = 'x'",
    "drop": "drop view images",
    "set": "set enable_external_access = true",
    "set global": "set global allowed_paths = ['/']",
    "set variable": "set variable x = (select content from read_text('{out}/secret.txt'))",
    "reset": "reset lock_configuration",
    "pragma": "pragma enable_external_access",
    "profile": "pragma profiling_output = '{work}/profile.json'",
    "profiling": "from enable_profiling()",
    "logging": "call enable_logging(storage = 'file', storage_config = {{'path': '{work}'}})",
    "logging as a table": "from enable_logging()",
    "write_log": "select write_log('x')",
    "temporary folder": "set temp_directory = '{temporary}'",
    "checkpoint": "from checkpoint()",
    "force checkpoint": "force checkpoint",
    "prepare": "prepare q as copy images to '{work}/out.csv'",
    "execute": "execute q",
    "call": "call force_checkpoint()",
    "use": "use system",
    "two statements": "select 1; copy images to '{work}/out.csv'",
    "two statements and remarks": "select 1 /* ; */ ; -- x\n copy images to '{work}/out.csv'",
    "two statements after a wide space": "select 1;\u3000copy images to '{work}/out.csv'",
    "statement after a NUL": "select 1\0; copy images to '{work}/out.csv'",
    "half a surrogate": "select '\ud800'; copy images to '{work}/out.csv'",
    "external resource": "from register_external_resource('x')",
    "grammar extension": "from add_grammar_extension('x')",
    "sequence": "select nextval('s')",
    "internal function": "select __internal_decompress_string(1::utinyint)",
    "state of an aggregate": "select finalize('abc'::blob)",
    "bytes of a variant": "select variant_bytes_to_variant('abc'::blob)",
}
ATTEMPTS = {**READS, **HOST, **WRITES}
BY_COMMAND = ("name in quotes", "shown setting", "copy out", "attach", "two statements", "half a surrogate")


def filled(ground: Ground, query: str) -> str:
    parts = {"out": ground.outside, "work": ground.work, "temporary": ground.temporary, "past": ground.past}
    parts |= {"parquet": ground.parquet, "folder": Path(ground.parquet).parent}
    return query.format(store=ground.api.url.removeprefix("file://"), **parts)


def leaked(text: str) -> list[str]:
    """Canaries in a text, and the folder of whoever runs this."""
    home = str(Path.home() / ".duckdb")
    return [canary for canary in (CANARY, ENVIRONMENT, PAST, home) if canary in text]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_reaches_nothing_and_leaves_nothing(
    ground: Ground, name: str, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ground.work)
    said = ""
    with pytest.raises(QueryError) as caught, ground.session.execute(filled(ground, ATTEMPTS[name])) as cursor:
        said = repr(list(cursor.rows()))
    assert leaked(said + str(caught.value)) == []
    assert "\n" not in str(caught.value)
    assert ground.state() == ground.before
    tally("escapes refused", 1)


def command(ground: Ground, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ferstore.cli", "--store", ground.api.url, "sql", *words],
        cwd=ground.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", BY_COMMAND)
def test_the_command_line_refuses_it_in_one_line(ground: Ground, name: str, level: str, tally: Tally) -> None:
    if level == "ci" and name != BY_COMMAND[0]:
        pytest.skip("one command is enough for every run; the full suite tries them all")
    query = filled(ground, ATTEMPTS[name])
    done = command(ground, os.fsdecode(b"select '\xff'") if name == "half a surrogate" else query)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert leaked(done.stderr) == []
    assert ground.state() == ground.before
    tally("escapes refused", 1)


HOGS = {
    "endless recursion": "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t",
    "one value of gigabytes": "select length(lpad('x', 2000000000, 'y'))",
    "strings of gigabytes": "select max(repeat('x', 1000000000) || range) from range(5000)",
    "string of strings": "select length(repeat(repeat('x', 1000000000), 4))",
    "string beyond any": "select repeat('x', 10000000000)",
    "numbers without end": "select count(*) from range(1000000000000000)",
    "list beyond any": "select range(10000000000)",
    "list of lists": "select list_transform(range(100000), lambda x: range(1000000))",
    "doubling list": "select list_reduce(list_transform(range(64), lambda x: 'aa'), lambda a, b: a || a)",
    "list of everything": "select list(range) from range(10000000000)",
    "join of everything": "select max(md5(a.range || '' || b.range)) from range(1000000000) a, range(1000000000) b",
    "sort of everything": "from range(10000000000) order by hash(range)",
    "distinct everything": "select count(distinct hash(range)) from range(10000000000)",
    "rows without end": "select range, repeat('x', 1000) from range(100000000000)",
    "edits of everything": "select damerau_levenshtein(repeat('a', 200000), repeat('b', 200000))",
    "replaced gigabytes": "select length(regexp_replace(repeat('a', 10000000), 'a', repeat('b', 10000), 'g'))",
    "printed gigabytes": "select printf('%2000000000d', 1)",
    "sleep": "select sleep_ms(1000000)",
    "sleep of another": "select pg_sleep(1000)",
    "deep parentheses": f"select {'(' * 40000}1{')' * 40000}",
    "deep functions": f"select {'list_transform([1], lambda x: ' * 300}1{')' * 300}",
    "deep joins": "from (select 1)" + ", (select 1)" * 4000,
    "deep names": "select a" + ".a" * 40000,
    "deep unions": "select 1" + " union all select 1" * 5000,
    "chain of WITH": f"with a0 as (select 1){''.join(f', a{n} as (from a{n - 1})' for n in range(1, 3000))} from a2999",
    "long text": f"select '{'x' * 2_000_000}'",
}
OFTEN = ("endless recursion", "strings of gigabytes", "list of lists", "deep functions", "deep joins", "long text")


@pytest.mark.parametrize("name", HOGS)
def test_a_query_that_would_take_the_machine_is_ended_within_its_limits(
    ground: Ground, name: str, level: str, tally: Tally
) -> None:
    if level == "ci" and name not in OFTEN:
        pytest.skip("six are enough for every run; the full suite tries them all")
    began, peak = time.monotonic(), peaks()
    with pytest.raises(QueryError) as caught:
        ground.api.sql(HOGS[name], limits=HOG_LIMITS).rows()
    assert "\n" not in str(caught.value)
    assert REACHED.search(str(caught.value)), str(caught.value)
    assert time.monotonic() - began < 30, "the limit is 1 s of work, on however slow a machine"
    own, children = peaks()
    assert children < (1 << 30) + (768 << 20) or children == peak[1]
    assert own - peak[0] < 1 << 30
    assert ground.state() == ground.before
    tally("escapes refused", 1)


def peaks() -> tuple[int, int]:
    """Most memory that this process and any that it ended ever had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, children = (resource.getrusage(one).ru_maxrss * unit for one in who)
    return own, children


def test_the_command_line_ends_a_hog_with_one_line_that_says_how_to_go_on(ground: Ground, tally: Tally) -> None:
    done = command(ground, HOGS["endless recursion"], "--timeout", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "ferstore: the query was stopped after 1 seconds; ask for less, or give it longer with"
    )
    assert done.stderr.count("\n") == 1
    tally("escapes refused", 1)


def test_memory_is_said_to_be_what_was_short(ground: Ground) -> None:
    limits = Limits(memory=256 << 20)
    with pytest.raises(QueryError, match=r"(memory|SIG).*raise --memory"):
        ground.api.sql("select max(repeat('x', 1000000000) || range) from range(5000)", limits=limits).rows()


def test_rows_beyond_the_limit_are_refused_when_held_and_streamed_to_a_file(ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"more than 10 rows .*--output FILE, or raise --rows"):
        ground.api.sql("from range(11)", limits=Limits(rows=10)).rows()
    assert len(ground.api.sql("from range(10)", limits=Limits(rows=10)).rows()) == 10
    query = "select range, repeat('x', 100) as text from range(300000)"
    for kind in ("csv", "parquet"):
        given = {"at": None, "as_json": False, "limits": Limits(rows=10)}
        show_query(ground.api, query, kind=kind, output=tmp_path / f"all.{kind}", **given)  # type: ignore[arg-type]
    with (tmp_path / "all.csv").open() as lines:
        assert sum(1 for _ in lines) == 300_001
    assert pq.read_metadata(tmp_path / "all.parquet").num_rows == 300_000


def test_a_slow_reader_does_not_use_up_the_time_of_its_query(ground: Ground) -> None:
    with ground.api.session(limits=Limits(seconds=5)).execute("from range(100000)") as cursor:
        rows = cursor.rows()
        next(rows)
        cursor._remote.wait()  # type: ignore[attr-defined]
        left = cursor._remote._left  # type: ignore[attr-defined]
        time.sleep(0.5)
        assert sum(1 for _ in rows) == 99_999
        assert left - cursor._remote._left < 0.5  # type: ignore[attr-defined]


def test_the_process_of_a_query_has_no_environment_and_can_write_no_file(ground: Ground) -> None:
    process = Process(None)
    try:
        given = Path(f"/proc/{process.popen.pid}/environ")
        if given.is_file():
            wait_for(lambda: given.read_bytes() != b"")
            assert ENVIRONMENT.encode() not in given.read_bytes()
    finally:
        process.end()
    code = (
        "from ferstore.query import worker\nworker._bound(1 << 30)\n"
        f"with open({str(ground.work / 'x')!r}, 'w') as file:\n    file.write('x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    (ground.work / "x").unlink()


def wait_for(done: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.01)


def test_a_query_ends_with_its_reader(ground: Ground) -> None:
    """Killed, it cannot tell its query to end; the query sees that nobody is there."""
    code = (
        "import os, sys\nfrom ferstore import api\nfrom ferstore.query import isolated\n"
        f"store = api.open({ground.api.url!r})\nremote = isolated.Remote(api.Limits(), None)\n"
        "print(remote._process.popen.pid, flush=True)\n"
        "remote.begin(store.session()._job('select sleep_ms(60000)'))\nremote.reader()\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    query = int(reader.stdout.readline())
    reader.kill()
    reader.wait()
    reader.stdout.close()
    wait_for(lambda: not alive(query))
    assert not alive(query)


def alive(process: int) -> bool:
    """Whether it runs: one that ended and that nobody asked for is still listed."""
    try:
        os.kill(process, 0)
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def test_what_a_library_prints_is_no_row(ground: Ground) -> None:
    """DuckDB prints the progress of a query of more than two seconds where it takes a program for a prompt."""
    query = "select range, case when range % 50000 = 0 then sleep_ms(300) end as s from range(400000)"
    assert sum(1 for _ in ground.api.sql(query, limits=Limits(threads=1)).rows()) == 400_000
