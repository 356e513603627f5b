"""Imports point one way, and the heavy ones are where they are allowed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = {"sources", "extract", "train", "report"}
RANK = {
    "redaction": -2,
    "version": -2,
    "errors": -1,
    **dict.fromkeys(
        (
            "progress",
            "labels",
            "config",
            "stderr",
            "network",
            "cluster_access",
            "resources",
            "watch",
            "driver_errors",
            "background",
        ),
        0,
    ),
    **dict.fromkeys(("image", "cluster"), 1),
    "store": 2,
    "query": 3,
    **dict.fromkeys(STAGES, 4),
    **dict.fromkeys(("figures", "result"), 4.5),  # compose stages for the API
    "api": 5,
    "terminal": 5,
    "rendering": 6,
    "upkeep": 6,
    "demo": 7,
    "cli": 8,
    "batch": 9,
}
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "ferstore").rglob("*.py"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def part(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name != "__init__.py" or len(path.parts) > 2], ids=str
)
def test_imports_point_down_the_picture(path: Path) -> None:
    own = path.with_suffix("").parts[1]
    assert own in RANK, f"{own} has no place in the picture: give it one here"
    for name in imported(path):
        if name.startswith("ferstore.") and part(name) in RANK and part(name) != own:
            assert RANK[part(name)] < RANK[own], f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_tensorflow_and_ray_stay_where_they_belong(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    text = path.as_posix()
    if roots & {"tensorflow", "keras"}:
        network = ("ferstore/extract/inception.py", "ferstore/extract/activations.py")
        assert text in network or text.startswith("ferstore/train/")
    if "matplotlib" in roots:
        assert text.startswith("ferstore/report/") or text == "ferstore/api.py"  # as a type; see below
    if "ray" in roots:
        clusters = ("ferstore/cluster.py", "ferstore/cluster_access.py")
        watch = "ferstore/watch.py"  # as the first value is recorded
        assert text in ("ferstore/extract/pool.py", "ferstore/train/run.py", watch, *clusters)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "ferstore.cli",
            ("tensorflow", "keras", "ray", "duckdb", "pyiceberg", "pyarrow", "numpy", "matplotlib", "jinja2"),
        ),
        ("ferstore.api", ("tensorflow", "keras", "ray", "matplotlib", "jinja2")),
        ("ferstore.report.make", ("tensorflow", "keras", "ray")),
        ("ferstore.extract.run", ("tensorflow", "keras", "ray")),
        ("ferstore.extract.request", ("pyarrow", "pyiceberg", "duckdb", "ray")),  # refuses a request in time
        ("ferstore.train.request", ("pyarrow", "pyiceberg", "duckdb", "ray")),
        ("ferstore.image.probe", ("tensorflow", "ray", "duckdb", "pyiceberg", "pyarrow")),
    ],
)
def test_heavy_imports_are_lazy(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_code_comes_from_data(path: Path) -> None:
    """Nothing is unpickled, evaluated or imported by a name from data: what is read is arrays, rows, JSON and TOML."""
    text = (ROOT / path).read_text("utf-8")
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "runpy", "imp"}
    assert not {"ray.cloudpickle", "multiprocessing.reduction", "importlib.import_module"} & imported(path)
    named = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not named & {"eval", "exec", "compile", "__import__"}
    loads = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    called = {(node.value.id, node.attr) for node in loads if isinstance(node.value, ast.Name)}
    assert not called & {
        ("np", "load"),
        ("keras", "models"),
        ("keras", "saving"),
        ("tf", "saved_model"),
        ("torch", "load"),
    }
    assert not [
        word
        for word in ast.walk(ast.parse(text))
        if isinstance(word, ast.keyword)
        and word.arg == "allow_pickle"
        and not (isinstance(word.value, ast.Constant) and word.value.value is False)
    ]
