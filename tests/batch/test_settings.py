"""Settings of a job: what wins, and that a mistake is one line before anything is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ferstore.batch import entry
from ferstore.batch.jobs import JOBS
from ferstore.batch.settings import Settings, job_settings
from ferstore.errors import InputError

ROOT = Path(__file__).parents[2]


def settings(folder: Path, name: str, text: str, *words: str, **environment: str) -> Settings:
    path = folder / "job.toml"
    path.write_text(text)
    return job_settings(name, ["--config", str(path), *words], environment)


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = 'batch-size = 8\nseed = 1\nweights = "random"\nlimit = 5\nstore = "of the file"'
    found = settings(
        tmp_path, "extract", text, "--seed", "3", FERSTORE_SEED="2", FERSTORE_BATCH_SIZE="16", FERSTORE_STORE="here"
    )
    [step] = found.steps
    assert (step.asked.batch_size, step.asked.seed, step.asked.limit) == (16, 3, 5)
    assert found.options.store == "here"
    assert "--store=here" in step.arguments


def test_a_table_wins_over_the_top_and_the_top_holds_for_every_step(tmp_path: Path) -> None:
    runs = '[[runs]]\nexperiment = "deepest"\n[[runs]]\nexperiment = "sub_deep"\nseed = 2'
    text = f'training_set = "parts"\nseed = 1\n{runs}'
    first, second = settings(tmp_path, "train", text).steps
    assert (first.asked.experiment, first.asked.seed) == ("deepest", 1)
    assert (second.asked.experiment, second.asked.seed) == ("sub_deep", 2)
    assert {step.asked.training_set for step in (first, second)} == {"parts"}
    both = settings(tmp_path, "train", text, "--seed=9").steps
    assert [step.asked.seed for step in both] == [9, 9]


def test_every_kind_of_value_reaches_its_option(tmp_path: Path) -> None:
    text = """
    training-set = "parts"
    experiment = "fusion"
    joint = true
    set = ["hidden=8", "fusion=concat", "dropout=0.2"]
    views = ["identity", "hflip"]
    gpus-per-worker = 1
    """
    [step] = settings(tmp_path, "train", text, FERSTORE_JOINT="yes").steps
    assert (step.asked.joint, step.asked.views, step.asked.gpus_per_worker) == (True, ("identity", "hflip"), 1.0)
    assert (step.asked.recipe.hidden, step.asked.recipe.fusion, step.asked.recipe.dropout) == (8, "concat", 0.2)
    [step] = settings(tmp_path, "train", text, FERSTORE_SET="hidden=4 fusion=concat", FERSTORE_JOINT="no").steps
    assert (step.asked.joint, step.asked.recipe.hidden) == (False, 4)
    [step] = settings(tmp_path, "extract", 'weights = "random"\nactors = 4').steps
    assert step.asked.actors == 4
    [step] = settings(tmp_path, "extract", 'weights = "random"\nactors = "auto"').steps
    assert step.asked.actors is None


def test_the_logical_date_is_today_in_utc_and_stands_in_any_text(tmp_path: Path) -> None:
    before = datetime.now(UTC).date().isoformat()
    found = settings(tmp_path, "report", 'output = "of-{logical_date}"')
    assert found.options.logical_date in (before, datetime.now(UTC).date().isoformat())
    [step] = settings(tmp_path, "report", 'output = "of-{logical_date}"', "--logical-date", "2026-11-23").steps
    assert "--output=of-2026-11-23" in step.arguments
    assert "--output=of-{logical_date}" in step.template, "what tells that nothing changed is the same every day"


def test_maintenance_is_three_steps_and_a_night_those_that_have_a_table(tmp_path: Path) -> None:
    steps = settings(tmp_path, "maintain", '[vacuum]\nkeep = "30d"').steps
    assert [step.template for step in steps] == [("compact",), ("verify",), ("vacuum", "--keep=30d")]
    text = (
        '[extract]\nweights = "random"\n[[ingest]]\nkind = "folder"\nurl = "a"\n[[ingest]]\nkind = "jaffe"\nurl = "b"'
    )
    steps = settings(tmp_path, "nightly", text).steps
    assert [step.name for step in steps] == ["ingest 1", "ingest 2", "extract"]
    assert steps[0].template == ("ingest", "--", "folder", "a")


def test_a_dry_run_is_that_of_every_step_that_has_one(tmp_path: Path) -> None:
    found = settings(tmp_path, "maintain", "", "--dry-run")
    assert found.options.dry_run
    dry = [step.section.command for step in found.steps if "--dry-run" in step.arguments]
    assert dry == ["compact", "vacuum"]


@pytest.mark.parametrize("name", JOBS)
def test_the_job_file_that_comes_with_it_is_valid(name: str) -> None:
    job_settings(name, ["--config", str(ROOT / "jobs" / f"{name}.toml")], {})


def test_what_is_kept_of_a_url_has_no_credentials(tmp_path: Path) -> None:
    text = 'kind = "folder"\nurl = "s3://me:secret@bucket/faces"\ncatalog = "postgresql://me:secret@host/db"'
    found = settings(tmp_path, "ingest", text)
    assert "secret" not in json.dumps(found.recorded())
    assert found.recorded() == {"ingest": ["ingest", "--", "folder", "s3://***@bucket/faces"]}


def test_variables_that_are_no_setting_are_told(tmp_path: Path) -> None:
    assert settings(tmp_path, "maintain", "", FERSTORE_KEPP="1d", HOME="/").ignored == ("FERSTORE_KEPP",)


# Of each job: an unknown key, a wrong type, an impossible value or request of resources.
GOOD: Mapping[str, str] = {
    "ingest": 'kind = "folder"\nurl = "faces"\n',
    "extract": 'weights = "random"\n',
    "train": 'training-set = "parts"\nexperiment = "deepest"\n',
    "report": 'output = "report"\n',
    "nightly": '[extract]\nweights = "random"\n',
    "maintain": '[vacuum]\nkeep = "1d"\n',
}
WRONG: list[tuple[str, str, str]] = [
    ("ingest", 'nmae = "x"', "unknown key 'nmae'"),
    ("ingest", "name = 5", "name = 5; allowed: text in quotes"),
    ("ingest", 'kind = "ferplsu"\n', "did you mean 'ferplus'?"),
    ("ingest", "wait-seconds = -1", "wait-seconds -1; allowed: 0 to 604800"),
    ("extract", "batchsize = 64", "did you mean batch-size?"),
    ("extract", 'batch-size = "many"', "batch-size = 'many'; allowed: a whole number"),
    ("extract", "batch-size = 2.5", "batch-size = 2.5; allowed: a whole number"),
    ("extract", "batch-size = true", "batch-size = True; allowed: a whole number"),
    ("extract", "dataset = 5", "dataset = 5; allowed: text in quotes"),
    ("extract", 'retry-quarantined = "yes"', "allowed: true or false"),
    ("extract", "layers = [1]", "allowed: text in quotes, or a list of texts"),
    ("extract", "layers = {a = 1}", "unknown table 'layers'"),
    ("extract", "batch-size = -3", "batch size -3; allowed: 1 to 4096"),
    ("extract", "gpus-per-actor = 3.5", "3.5 GPUs an actor; allowed: 0, a fraction up to 1, or a whole number"),
    ("extract", "actors = -1", "-1 actors; allowed: auto, or 1 and more"),
    ("extract", 'precision = "float8"', "float8"),
    ("extract", 'layers = ["pool_4"]', "did you mean pool_3?"),
    ("train", "epoch = 1", "did you mean epochs?"),
    ("train", 'workers = "two"', "workers = 'two'; allowed: a whole number"),
    ("train", "workers = 0", "--workers 0; allowed: 1 to"),
    ("train", "gpus-per-worker = 3.5", "--gpus-per-worker 3.5; allowed: 0 to 1"),
    ("train", 'set = ["drop=1"]', "did you mean dropout?"),
    ("report", "face = true", "did you mean faces?"),
    ("report", 'faces = "yes"', "allowed: true or false"),
    ("report", 'on-conflict = "perhaps"', "perhaps"),
    ("report", "wait-seconds = 1e9", "wait-seconds 1e+09; allowed: 0 to 604800"),
    ("nightly", "[extrct]", "unknown table 'extrct'"),
    ("nightly", "batchsize = 1", "unknown key 'batchsize' in [extract]"),
    ("nightly", 'batch-size = "1"', "batch-size = '1'; allowed: a whole number"),
    ("nightly", "actors = 0", "extract: 0 actors"),
    ("nightly", "[[split]]", "'split' as no table; allowed: [split]"),
    ("nightly", '[[train]]\nexperiment = "deepest"', "train: Missing option '--training-set'"),
    ("maintain", "kep = 1", "did you mean keep?"),
    ("maintain", "grace = 1", "grace = 1; allowed: text in quotes"),
    ("maintain", 'grace = "soon"', "--grace 'soon'; allowed: a number with d, h, m or s"),
    ("maintain", "[vacuum]\nkeep = 1", "is not TOML"),
]


def refused(folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, *words: str) -> str:
    """The one line that a job with such a file ends with, before it opens a store."""
    path = folder / "job.toml"
    path.write_text(text)
    assert entry.job(name, ["--config", str(path), *words], {}) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("ferstore: ")
    return said.err


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferstore.api.open", lambda *_, **__: pytest.fail("a store was opened"))


@pytest.mark.parametrize(("name", "line", "said"), WRONG, ids=[f"{name} {line!r}" for name, line, _ in WRONG])
def test_a_wrong_setting_is_one_line_before_anything_is_opened(
    name: str, line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_store: None
) -> None:
    good = GOOD[name]
    if line.startswith("kind"):
        good = 'url = "faces"\n'
    told = refused(tmp_path, capsys, name, f"{good}{line}\n")
    assert said.replace(" in [extract]", "") in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batchsize", "4"], "did you mean --batch-size?"),
        (["--batch-size", "many"], "command line: batch-size = 'many'; allowed: a whole number"),
        (["--batch-size"], "--batch-size without a value"),
        (["--gpus-per-actor=3.5"], "3.5 GPUs an actor"),
        (["--retry-quarantined=yes"], "allowed: --retry-quarantined alone"),
        (["--logical-date", "yesterday"], "a day such as 2026-11-23"),
        (["--logical-date", "20261123"], "a day such as 2026-11-23"),
        (["--job", "../x"], "1 to 64 of a-z"),
        (["positional"], "no such option"),
        (["--keep", "1d"], "no such option"),
    ],
)
def test_a_wrong_command_line_too(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_store: None
) -> None:
    assert said in refused(tmp_path, capsys, "extract", GOOD["extract"], *words)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ({"FERSTORE_BATCH_SIZE": "many"}, "FERSTORE_BATCH_SIZE: batch-size = 'many'; allowed: a whole number"),
        ({"FERSTORE_ACTORS": "-1"}, "-1 actors"),
        ({"FERSTORE_RETRY_QUARANTINED": "maybe"}, "FERSTORE_RETRY_QUARANTINED: retry-quarantined = 'maybe'"),
    ],
)
def test_a_wrong_variable_too(variable: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        settings(tmp_path, "extract", GOOD["extract"], **variable)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('runs = "deepest"', r"'runs' as no table; allowed: \[\[runs\]\]"),
        ("runs = []", "'runs' as no table"),
        ("runs = [1]", "'runs' as no table"),
        ('training-set = "a"\ntraining_set = "b"\nexperiment = "deepest"', "is there twice"),
        ("seed = [[1]]", "of no type an option has"),
        ("seed = 00:00:01", "of no type an option has"),
        ("[[runs]]\nseed = {a = 1}", "the value of 'seed' is of no type"),
    ],
)
def test_a_file_of_another_shape_too(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        settings(tmp_path, "train", text)


def test_an_option_of_no_step_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no step has the option 'epochs'"):
        settings(tmp_path, "nightly", f"epochs = 1\n{GOOD['nightly']}")
    with pytest.raises(InputError, match="has no step"):
        settings(tmp_path, "nightly", "")


def test_a_missing_file_and_a_missing_option_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without --config"):
        job_settings("extract", [], {})
    with pytest.raises(InputError, match="cannot read job file"):
        job_settings("extract", ["--config", str(tmp_path / "nowhere.toml")], {})


def run_apart(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", JOBS)
def test_each_kind_of_mistake_is_refused_with_nothing_loaded_that_could_reach_a_cluster_or_a_store(
    name: str, tmp_path: Path
) -> None:
    """Also where there is a store, and a cluster that would wait for an answer."""
    files = []
    for number, (job, line, _) in enumerate(WRONG):
        good = "" if line.startswith("kind") else GOOD[job]
        (path := tmp_path / f"{number}.toml").write_text(f"{good}{line}\n")
        files += [str(path)] if job == name else []
    assert len(files) >= 3
    program = (
        "import socket, sys\nfrom ferstore.batch.entry import job\n"
        "socket.socket.connect = lambda *_: sys.exit('connected')\n"
        f"codes = {{job({name!r}, ['--config', file], {{'RAY_ADDRESS': '192.0.2.1:6379'}}) for file in {files!r}}}\n"
        "print(codes, {'ray', 'tensorflow', 'keras', 'pyiceberg', 'duckdb', 'pyarrow'} & set(sys.modules))"
    )
    done = run_apart(program, tmp_path)
    assert done.stdout == "{2} set()\n", done.stderr
    assert done.stderr.count("\n") == len(files)


def test_checking_a_job_loads_neither_ray_nor_tensorflow(tmp_path: Path) -> None:
    for name, text in GOOD.items():
        (tmp_path / f"{name}.toml").write_text(text)
    program = (
        "import sys\nfrom ferstore.batch.settings import job_settings\n"
        f"for name in {list(GOOD)!r}: job_settings(name, ['--config', name + '.toml'], {{}})\n"
        "print(*({'ray', 'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))"
    )
    done = run_apart(program, tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
