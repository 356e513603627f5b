"""What a query sees, and what it cannot reach."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ferstore.api import FeatureStore
from ferstore.errors import CorruptionError, InputError, QueryError
from ferstore.extract.plan import WorkItem
from ferstore.extract.worker import feature_rows
from ferstore.query.diff import diff
from ferstore.query.engine import _SETTINGS, lock
from ferstore.query.session import Session
from ferstore.query.similar import nearest, stored_vector
from ferstore.store.commit import Change, transact
from ferstore.store.files import write_data_file
from ferstore.store.rows import replace_rows
from ferstore.store.store import Store, init_store
from ferstore.store.writer import encode

NOW = datetime(2026, 11, 23, tzinfo=UTC)
IDS = [f"{n:064x}" for n in range(6)]


def add_features(
    store: Store, table: str, values: np.ndarray, extractor: str = "e1", later: int = 0, view: str = "identity"
) -> None:
    items = [WorkItem(image_id, view, (), "d", "i") for image_id in IDS[: len(values)]]
    schema = store.schemas[table]
    rows = feature_rows(schema, items, values.astype(np.float32), extractor, NOW + timedelta(seconds=later))
    file = write_data_file(store.data_folder(table), "x", encode(schema, rows), len(rows))
    transact(store, lambda pin: [Change(table, (file,))], {"command": "test"})


def add_images(store: Store, labels: list[str | None], dataset: str = "d") -> None:
    rows = [
        {
            "dataset": dataset,
            "item_id": f"i{n}",
            "image_id": IDS[n],
            "source_url": "u",
            "label": label,
            "ingested_at": NOW,
        }
        for n, label in enumerate(labels)
    ]
    table = pa.Table.from_pylist(rows, store.schemas["images"].arrow())
    transact(store, lambda pin: [replace_rows(store, pin, "images", table)], {})


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.abs(np.random.default_rng(0).normal(size=(6, 2048))).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Store:
    store = init_store(str(tmp_path_factory.mktemp("query") / "it's a store"))
    add_images(store, ["happy", "happy", "sad", None, "sad", "sad"])
    add_features(store, "pool_3", vectors[:5])
    maps = np.arange(2 * 8 * 8 * 2048, dtype=np.float32).reshape(2, 8, 8, 2048) % 1000
    add_features(store, "mixed_10", maps)
    return store


def rows(store: Store, query: str) -> list[tuple[object, ...]]:
    with Session(store, store.pin()).execute(query) as cursor:
        return list(cursor.rows())


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from images",
        "from images",
        "with a as (select 1) select * from a",
        "values (1), (2)",
        "describe pool_3",
        "show tables",
        "summarize images",
        "explain select * from images",
        "select 1;",
    ],
)
def test_one_reading_statement_is_run(store: Store, query: str) -> None:
    assert rows(store, query)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "select 1; select 2",
        "delete from images",
        "insert into images select * from images",
        "update images set label = 'x'",
        "create table t (a int)",
        "create or replace view images as select 1",
        "drop view images",
        "copy images to 'out.csv'",
        "copy (select 1) to 'out.parquet' (format parquet)",
        "explain analyze copy images to 'out.csv'",
        "with x as (insert into images select * from images returning 1) select * from x",
        "attach 'other.db'",
        "export database 'out'",
        "import database 'out'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set memory_limit = '1GB'",
        "reset enable_external_access",
        "pragma database_list",
        "call pragma_version()",
        "checkpoint",
        "vacuum",
        "begin",
        "prepare q as select 1",
        "execute q",
        "create secret s (type s3)",
        "select * from read_text('/etc/hostname')",
        "select * from read_blob('/etc/hostname')",
        "select * from read_csv('/etc/hostname')",
        "select * from read_json('/etc/hostname')",
        "select * from read_parquet('/etc/hostname')",
        "select * from '/etc/hostname'",
        "select * from glob('/*')",
        "select * from sniff_csv('/etc/hostname')",
        "select * from parquet_metadata('/etc/hostname')",
        "select * from query('copy (select 1) to ''out.csv''')",
        "select * from store",
        "select * from nosuchtable",
        "select nosuchcolumn from images",
        "select getenv('HOME')",
        "select tensor('abc'::blob)",
    ],
)
def test_anything_else_is_refused_in_one_line_and_changes_nothing(
    store: Store, query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(store.url.removeprefix("file://"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(QueryError) as caught:
        rows(store, query)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_file_of_the_store_cannot_be_written_over(store: Store) -> None:
    (file,) = (f.file_path.removeprefix("file://") for f in store.pin().data_files("images"))
    before = Path(file).read_bytes()
    with pytest.raises(QueryError):
        rows(store, f"copy (select 1) to '{file}' (use_tmp_file false)")
    assert Path(file).read_bytes() == before


def test_an_unknown_table_is_answered_with_those_there_are(store: Store) -> None:
    with pytest.raises(QueryError, match=r"nosuch.*allowed: tables and views .*feature_health.*pool_3"):
        rows(store, "select * from nosuch")


@pytest.mark.parametrize(
    ("query", "has_map"),
    [
        ("select * from mixed_10", False),
        ("select m.* from mixed_10 m", False),
        ("select mixed_10.norm from mixed_10", False),
        ("select mixed_10 from mixed_10", True),
        ('select m."MIXED_10" from mixed_10 as m', True),
        ("select * from (select image_id, mixed_10 from mixed_10)", True),
    ],
)
def test_maps_come_only_when_they_are_named(store: Store, query: str, has_map: bool) -> None:
    found = rows(store, query)
    assert len(found) == 2
    assert any(isinstance(value, bytes) and len(value) == 262144 for value in found[0]) == has_map


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tensor_gives_the_values_in_row_major_order(tmp_path: Path, dtype: str) -> None:
    store = init_store(str(tmp_path / "s"), map_dtype=dtype)  # type: ignore[arg-type]
    maps = np.random.default_rng(1).normal(size=(2, 8, 8, 2048)).astype(np.float32)
    add_features(store, "mixed_10", maps)
    found = FeatureStore(store).sql("select tensor(mixed_10) as t, mean, norm from mixed_10 order by image_id").numpy()
    expected = maps.astype(dtype).astype(np.float32).reshape(2, -1)
    assert np.array_equal(found["t"], expected)
    assert np.allclose(found["mean"], maps.reshape(2, -1).mean(1), atol=1e-5)
    assert np.allclose(found["norm"], np.linalg.norm(maps.reshape(2, -1), axis=1), rtol=1e-5)


def test_features_join_items_with_their_newest_vector(tmp_path: Path, vectors: np.ndarray) -> None:
    store = init_store(str(tmp_path / "s"))
    add_images(store, ["happy", "sad", "sad"])
    add_features(store, "pool_3", vectors[:2], "old", later=0)
    add_features(store, "pool_3", vectors[:1] * 2, "new", later=5)
    add_features(store, "pool_3", vectors[:1] * 3, "new", later=9, view="hflip")
    found = rows(store, "select item_id, extractor_id, pool_3[1] from features order by item_id")
    assert found == [
        ("i0", "new", pytest.approx(2 * vectors[0, 0])),
        ("i1", "old", pytest.approx(vectors[1, 0])),
        ("i2", None, None),
    ]


def test_feature_health_counts_what_is_wrong(tmp_path: Path, vectors: np.ndarray) -> None:
    store = init_store(str(tmp_path / "s"))
    bad = vectors[:4].copy()
    bad[:, 7] = 0
    bad[1, 3] = np.nan
    add_features(store, "pool_3", bad)
    assert rows(store, "select images, not_finite, dead_channels from feature_health") == [(4, 1, 1)]


def test_an_empty_store_answers(tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "s"))
    assert rows(store, "select count(*) from features") == [(0,)]
    assert rows(store, "from feature_health") == []


def test_names_with_quotes_and_unicode_are_data(tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "s"))
    name = 'O\'Neil "日本"; drop view images; --'
    add_images(store, ["x"], name)
    assert rows(store, "select dataset from images") == [(name,)]


def test_a_session_does_not_see_what_is_committed_later(tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "s"))
    session = Session(store, store.pin())
    add_images(store, ["x"])
    with session.execute("select count(*) from images") as cursor:
        assert list(cursor.rows()) == [(0,)]


def test_a_missing_file_is_the_stores_fault_not_the_querys(tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "s"))
    add_images(store, ["x"])
    (file,) = store.pin().data_files("images")
    Path(file.file_path.removeprefix("file://")).unlink()
    with pytest.raises(CorruptionError, match="ferstore verify"):
        rows(store, "from images")


def test_neighbours_are_those_of_a_plain_scan(store: Store, vectors: np.ndarray) -> None:
    pin = store.pin()
    vector, extractor = stored_vector(store, pin, IDS[2], "pool_3", None)
    found = nearest(store, pin, vector, layer="pool_3", extractor_id=extractor, k=3, without=IDS[2])
    unit = vectors[:5] / np.linalg.norm(vectors[:5], axis=1, keepdims=True)
    cosine = unit @ unit[2]
    order = [n for n in np.argsort(-cosine) if n != 2][:3]
    assert [n.image_id for n in found] == [IDS[n] for n in order]
    assert [n.similarity for n in found] == pytest.approx(cosine[order].tolist(), abs=1e-5)
    assert [n.label for n in found] == [["happy", "happy", "sad", None, "sad"][n] for n in order]
    with pytest.raises(InputError, match="has no pool_3"):
        stored_vector(store, pin, IDS[5], "pool_3", None)
    with pytest.raises(InputError, match="holds no vectors"):
        stored_vector(store, pin, IDS[0], "mixed_10", None)


def test_diff_tells_rows_labels_and_drift(tmp_path: Path, vectors: np.ndarray) -> None:
    store = init_store(str(tmp_path / "s"))
    add_images(store, ["happy", "sad"])
    add_features(store, "pool_3", vectors[:3])
    before = store.pin()
    add_images(store, ["happy", "fear", "sad"])
    add_features(store, "pool_3", vectors[:3] + 5, view="identity")
    found = diff(store, before, store.pin())
    assert {t.table: (t.added, t.removed, t.changed) for t in found.tables}["images"] == (1, 0, 1)
    assert [(r.item_id, r.before, r.after) for r in found.relabelled] == [("i1", "sad", "fear")]
    (drift,) = found.drift
    assert (drift.before, drift.after) == (3, 6)
    assert drift.largest_shift > 1
    assert diff(store, before, before).tables == ()


def test_results_come_as_arrow_numpy_and_rows(store: Store, vectors: np.ndarray) -> None:
    result = FeatureStore(store).sql("select image_id, pool_3 from pool_3 order by image_id")
    assert result.arrow().num_rows == 5
    assert np.array_equal(result.numpy()["pool_3"], vectors[:5])
    assert result.rows()[0][0] == IDS[0]
    assert "5 rows" in repr(result)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
        ("autoload_known_extensions", "false"),
        ("autoinstall_known_extensions", "false"),
        ("python_enable_replacements", "false"),
        ("temp_directory", ""),
    ],
)
def test_the_connection_is_locked_behind_the_parser_too(store: Store, setting: str, value: str) -> None:
    with duckdb.connect(config=dict(_SETTINGS)) as connection:
        lock(connection, Session(store, store.pin())._job("from images"), frozenset())
        query = f"select current_setting('{setting}')::varchar"
        assert connection.execute(query).fetchall() == [(value,)]
