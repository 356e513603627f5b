"""The manifests are what KubeRay's schema allows, hold no secret, and make of exit codes what they say."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "jobs" / "kubernetes").glob("*.yaml"))
each = pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)


@cache
def published() -> dict[str, Any]:
    """KubeRay's schemas by kind; tests/support/kuberay_schema.py says from where and how."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("kuberay.json").read_text("utf-8"))
    return found


def problems(document: dict[str, Any]) -> list[str]:
    schema = {"$defs": published()["$defs"], **published()[document["kind"]]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]


def manifest(path: Path) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(path.read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def job(path: Path) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(path)["spec"]
    return spec.get("jobTemplate", spec)


def containers(path: Path) -> list[dict[str, Any]]:
    cluster = job(path)["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object below a node whose fields the schema lists."""
    if isinstance(node, dict):
        yield node
    free = ("rayStartParams", "requests", "limits", "metadata")  # names of these are the user's
    for name, below in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if name not in free:
            yield from objects(below)


def test_there_is_one_of_each_kind() -> None:
    assert sorted(manifest(path)["kind"] for path in MANIFESTS) == ["RayCronJob", "RayJob"]


@each
def test_kuberay_allows_it(path: Path) -> None:
    assert problems(manifest(path)) == []


@each
def test_a_misspelt_key_anywhere_is_found(path: Path) -> None:
    document = manifest(path)
    places = len(list(objects(document)))
    assert places > 25
    for number in range(places):
        broken = copy.deepcopy(document)
        list(objects(broken))[number]["mispelt"] = "x"
        assert any("mispelt" in problem for problem in problems(broken)), list(objects(document))[number]


@each
@pytest.mark.parametrize(
    ("field", "value"),
    [("submissionMode", 5), ("backoffLimit", "two"), ("ttlSecondsAfterFinished", "600"), ("rayClusterSpec", {})],
)
def test_a_wrong_value_is_found(path: Path, field: str, value: object) -> None:
    document = manifest(path)
    document["spec"].get("jobTemplate", document["spec"])[field] = value
    assert [problem for problem in problems(document) if field in problem]


@each
def test_no_secret_is_written_in_it_and_every_cluster_wants_a_token(path: Path) -> None:
    for container in containers(path):
        for variable in container["env"]:
            if re.search("KEY|SECRET|TOKEN|PASSWORD|CATALOG", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]
                assert "value" not in variable
    # Without a Secret's name KubeRay makes a token a cluster; pods and submitter get it.
    assert job(path)["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "//" not in re.sub(r"(?m)#.*$|s3://features/ferstore$", "", path.read_text("utf-8"))


@each
def test_gpus_are_of_the_workers_and_the_head_takes_no_actor(path: Path) -> None:
    cluster = job(path)["rayClusterSpec"]
    head, worker = containers(path)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "FERSTORE_GPUS_PER_ACTOR", "value": "1"} in head["env"]
    (group,) = cluster["workerGroupSpecs"]
    assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert group["replicas"] > 0, "extract refuses a cluster that has no GPU as it begins"


@each
def test_the_rays_of_image_manifest_and_project_are_one(path: Path) -> None:
    assert job(path)["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert len({container["image"] for container in containers(path)}) == 1


@each
@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 0), (1, 1), (2, 1), (4, 1)])
def test_the_entrypoint_reaches_the_job_and_its_exit_code_kuberay(
    path: Path, code: int, ends: int, tmp_path: Path
) -> None:
    """Through the shell of KubeRay's submitter, ``ray job submit`` and the shell of Ray's job supervisor."""
    ray_command, python = tmp_path / "ray", tmp_path / "python"
    ray_command.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "said"}\nexit {code}\n')
    for program in (ray_command, python):
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    submit = f"ray job submit --no-wait -- {job(path)['entrypoint'].strip()} ; echo submitted"
    done = subprocess.run(["bash", "-ce", "--", submit], env=environment, capture_output=True, text=True, check=True)
    arguments, last = done.stdout.splitlines()
    assert last == "submitted"
    words = json.loads(arguments)
    entrypoint = list2cmdline(words[words.index("--") + 1 :])  # as ray.dashboard.modules.job.cli makes it
    assert subprocess.run(entrypoint, shell=True, env=environment).returncode == ends
    said = (tmp_path / "said").read_text().split()
    date = said.pop()
    name = path.stem
    assert said == ["-m", f"jobs.{name}", "--config", f"/etc/ferstore/{name}.toml", "--logical-date"]
    if name == "nightly":
        days = {(datetime.now(UTC) - timedelta(hours=12, minutes=minutes)).date().isoformat() for minutes in (0, 1)}
        assert date in days
    else:
        assert manifest(path)["metadata"]["name"] == job(path)["jobId"] == f"ferstore-{name}-{date}"
