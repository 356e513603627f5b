"""Fixtures every test may use."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import postgres as postgresql
import pyarrow as pa
import pytest
import s3 as s3_server

from ferstore.store.commit import transact
from ferstore.store.pin import Pin
from ferstore.store.rows import replace_rows
from ferstore.store.store import Store
from ferstore.store.writer import feature_column

for name in ("FERSTORE_STORE", "FERSTORE_CATALOG"):
    os.environ.pop(name, None)  # the store of whoever runs the tests is not theirs


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real faces and trained weights: ``FERSTORE_SHARED``, else ``../shared`` beside the project."""
    folder = Path(os.environ.get("FERSTORE_SHARED", Path(__file__).parents[2] / "shared")).resolve()
    if not (folder / "data" / "ferplus-sample").is_dir():
        pytest.skip(f"no shared faces at {folder}: set FERSTORE_SHARED")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """A real PostgreSQL server, where one can be run."""
    if reason := postgresql.missing():
        pytest.skip(reason)
    with postgresql.server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.Server]:
    """A server that speaks S3 on this machine, which this process and those it starts reach by their environment."""
    if reason := s3_server.missing():
        pytest.skip(reason)
    with s3_server.serve() as server, s3_server.reached(server):
        yield server


@pytest.fixture(scope="session")
def gpu() -> None:
    """Skips where there is no GPU."""
    try:
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no GPU: nvidia-smi finds none")


@pytest.fixture
def bucket(s3: s3_server.Server) -> Iterator[str]:
    """URL of a folder of its own in a bucket."""
    url = f"s3://{s3_server.BUCKET}/{secrets.token_hex(6)}"
    yield url
    s3_server.forget(url)


NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
_DEFAULTS: Mapping[str, Any] = {"string": "-", "int": 0, "long": 0, "float": 0.0, "double": 0.0, "timestamptz": NOW}


@pytest.fixture(scope="session")
def table_of() -> Callable[[Store, str, Sequence[Mapping[str, Any]]], Any]:
    """Rows of a table from dicts: what is required and not given gets a default, a feature is an array of its shape."""

    def build(store: Store, table: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        schema = store.schemas[table]
        arrow = schema.arrow()
        columns = []
        for column in schema.columns:
            if column.name == schema.value:
                columns.append(feature_column(schema, np.stack([row[column.name] for row in rows]).astype(np.float32)))
                continue
            default = _DEFAULTS.get(column.type) if column.required else None
            values = [row.get(column.name, default) for row in rows]
            if column.name == "norm" and schema.value:
                values = [float(np.linalg.norm(row[schema.value])) for row in rows]
            columns.append(pa.array(values, arrow.field(column.name).type))
        return pa.Table.from_arrays(columns, schema=arrow)

    return build


@pytest.fixture(scope="session")
def put(table_of: Callable[..., Any]) -> Callable[..., Pin]:
    """Upsert dicts into one or more tables in one commit: ``put(store, images=[...], pool_3=[...])``."""

    def commit(store: Store, **tables: Sequence[Mapping[str, Any]]) -> Pin:
        rows = {table: table_of(store, table, dicts) for table, dicts in tables.items()}
        return transact(store, lambda pin: [replace_rows(store, pin, table, rows[table]) for table in rows], {})

    return commit


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist's own order (most tests first) would undo the one below


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with Ray clusters first: two processes that take a file at a time must not end with the longest one."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)
