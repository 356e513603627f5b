"""Stores made halfway, made twice at once, lost, moved and mixed up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ferstore.errors import StoreError
from ferstore.query.session import Session
from ferstore.store import store as store_module
from ferstore.store.doctor import doctor
from ferstore.store.files import write_file
from ferstore.store.pin import Pin
from ferstore.store.rows import read_rows
from ferstore.store.store import Store, init_store, open_store
from ferstore.store.verify import verify

Put = Callable[..., Pin]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def root(store: Store) -> Path:
    return Path(store.url.removeprefix("file://"))


@pytest.mark.parametrize("tables", [0, 3])
def test_an_init_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, tables: int
) -> None:
    original, made = store_module._properties, []

    def stop_after(*args: object) -> object:
        made.append(args)
        if len(made) > tables:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "_properties", stop_after)
    with pytest.raises(KeyboardInterrupt):
        init_store(str(tmp_path / "s"))
    monkeypatch.undo()
    with pytest.raises(StoreError, match="no store at"):
        open_store(str(tmp_path / "s"))
    store = init_store(str(tmp_path / "s"))
    put(store, images=[{}])
    assert {finding.state for finding in doctor(store)} == {"ok"}


def test_an_init_killed_while_it_wrote_its_marker_is_finished_by_the_next(tmp_path: Path) -> None:
    init_store(str(tmp_path))
    marker = tmp_path / "ferstore.json"
    marker.rename(tmp_path / ".ferstore.json.0123.partial")
    assert init_store(str(tmp_path)).url == f"file://{tmp_path}"
    assert marker.exists()


def test_a_half_made_store_is_not_finished_with_another_map_type(tmp_path: Path) -> None:
    init_store(str(tmp_path), map_dtype="float16")
    (tmp_path / "ferstore.json").unlink()
    with pytest.raises(StoreError, match=r"half-made store whose table 'mixed_10' has"):
        init_store(str(tmp_path), map_dtype="float32")
    assert not (tmp_path / "ferstore.json").exists()
    assert init_store(str(tmp_path)).map_dtype == "float16"


def test_a_finished_store_keeps_its_map_type(store: Store) -> None:
    with pytest.raises(StoreError, match=r"as float16, not float32"):
        init_store(store.url, map_dtype="float32")
    assert init_store(store.url).map_dtype == "float16"
    assert open_store(store.url).schemas["mixed_10"] == store.schemas["mixed_10"]


INIT = """
import sys
from ferstore.store.store import init_store
print("ready", flush=True)
sys.stdin.readline()
print(len(init_store(sys.argv[1]).pin().tables))
"""


def test_inits_at_once_make_one_store(tmp_path: Path, put: Put) -> None:
    url, pipe = str(tmp_path / "s"), subprocess.PIPE
    command = [sys.executable, "-W", "error", "-c", INIT, url]
    makers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for maker in makers:
        assert maker.stdout
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin
        maker.stdin.write("go\n")
        maker.stdin.flush()
    answers = [maker.communicate(timeout=120)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0]
    assert answers == [f"{len(open_store(url).schemas)}\n"] * 2
    put(open_store(url), images=[{}])
    assert {finding.state for finding in doctor(open_store(url))} == {"ok"}


def test_a_file_is_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(StoreError):
        init_store(str(tmp_path / "f"))
    with pytest.raises(StoreError):
        init_store(str(tmp_path / "f" / "below"))
    with pytest.raises(StoreError, match="no store"):
        open_store(str(tmp_path / "f" / "below"))
    assert (tmp_path / "f").read_bytes() == b"x"


def test_a_place_that_is_nowhere_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*ferstore init") as caught:
        open_store(str(tmp_path / "nothing"))
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_format_is_left_as_it_is(store: Store) -> None:
    marker = root(store) / "ferstore.json"
    said = {**json.loads(marker.read_text()), "format": 99, "created_by": "ferstore 9.9"}
    marker.write_text(json.dumps(said))
    for use in (open_store, init_store):
        with pytest.raises(StoreError, match=r"format 99 \(made by ferstore 9\.9\); allowed: format 1") as caught:
            use(store.url)
        assert caught.value.exit_code == 2
    assert json.loads(marker.read_text()) == said


def test_keys_of_a_later_marker_are_no_fault(store: Store) -> None:
    marker = root(store) / "ferstore.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "colour": "blue"}))
    assert open_store(store.url).url == store.url


def test_an_inside_store_refuses_a_catalog_and_an_outside_one_needs_its_own(tmp_path: Path) -> None:
    inside, outside = str(tmp_path / "in"), str(tmp_path / "out")
    catalog = f"sqlite:///{tmp_path / 'c.db'}"
    init_store(inside)
    init_store(outside, catalog=catalog)
    with pytest.raises(StoreError, match="keeps its catalog inside"):
        open_store(inside, catalog=catalog)
    with pytest.raises(StoreError, match="keeps its catalog outside"):
        open_store(outside)
    assert len(open_store(outside, catalog=catalog).pin().tables) == len(open_store(inside).pin().tables)


def test_two_stores_do_not_share_a_catalog(tmp_path: Path) -> None:
    catalog = f"sqlite:///{tmp_path / 'c.db'}"
    init_store(str(tmp_path / "a"), catalog=catalog)
    with pytest.raises(StoreError, match=r"already holds a store at .*/a/"):
        init_store(str(tmp_path / "b"), catalog=catalog)


@pytest.mark.parametrize("uri", ["mysql://host/db", "nonsense", "http+x://y"])
def test_a_catalog_of_an_unknown_kind_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(StoreError, match=r"allowed: sqlite:///path, postgresql://"):
        init_store(str(tmp_path / "s"), catalog=uri)


@pytest.mark.parametrize("uri", ["sqlite:////nosuch/folder/c.db", "postgresql://me:secret@127.0.0.1:1/db"])
def test_a_catalog_out_of_reach_is_refused_without_its_password(tmp_path: Path, uri: str) -> None:
    with pytest.raises(StoreError, match="cannot open the") as caught:
        init_store(str(tmp_path / "s"), catalog=uri)
    assert "secret" not in str(caught.value)


def test_a_lost_catalog_is_told_and_no_query_finds_nothing_in_silence(store: Store, put: Put) -> None:
    put(store, images=[{}])
    (root(store) / "catalog.db").unlink()
    lost = open_store(store.url)
    for use in (lambda: lost.pin(), lambda: verify(lost), lambda: doctor(lost), lambda: init_store(store.url)):
        with pytest.raises(StoreError, match=r"holds no tables.*restore catalog\.db"):
            use()


def test_the_catalog_of_another_store_is_refused(tmp_path: Path, put: Put) -> None:
    catalogs = {name: f"sqlite:///{tmp_path / name}.db" for name in "ab"}
    stores = {name: init_store(str(tmp_path / name), catalog=uri) for name, uri in catalogs.items()}
    put(stores["b"], images=[{}])
    mixed = open_store(stores["a"].url, catalog=catalogs["b"])
    with pytest.raises(StoreError, match="check --catalog"):
        mixed.pin()


@pytest.mark.parametrize(
    "name",
    [
        "sp ace",
        "qu'ote\"s",
        "ünï 日本",
        "a[1]",
        "a*b",
        "q?x=1&y",
        "h#x",
        "p%20c%",
        "{a,b}",
        "back\\slash",
        "a:b",
        "-x;--",
    ],
)
def test_any_folder_name_works(tmp_path: Path, put: Put, name: str) -> None:
    init_store(str(tmp_path / name / "s"))
    store = open_store(str(tmp_path / name / "s"))
    put(store, images=[{"item_id": name}])
    with Session(store, store.pin()).execute("select item_id from images") as cursor:
        assert list(cursor.rows()) == [(name,)]
    assert verify(store).sound
    assert {finding.state for finding in doctor(store)} == {"ok"}
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing beside it, no catalog elsewhere


@pytest.mark.parametrize("url", ["memory://{}/store", "memory:///{}/store"])
def test_a_store_that_is_no_folder_is_whole(tmp_path: Path, put: Put, url: str) -> None:
    url, catalog = url.format(tmp_path.name), f"sqlite:///{tmp_path / 'c.db'}"
    init_store(url, catalog=catalog)
    store = open_store(url, catalog=catalog)
    put(store, images=[{"item_id": "a"}], quarantine=[{"error": "e"}])
    put(store, images=[{"item_id": "a", "label": "sad"}, {"item_id": "b"}])
    assert len(read_rows(store, store.pin(), "images")) == 2
    with Session(store, store.pin()).execute("from images select item_id, label order by all") as cursor:
        assert list(cursor.rows()) == [("a", "sad"), ("b", None)]
    report = verify(store)
    assert report.sound
    assert report.files == 3
    assert {finding.state for finding in doctor(store)} == {"ok"}
    write_file(f"{store.data_folder('images')}/left.parquet", b"over")
    assert [finding.check for finding in doctor(store) if finding.state != "ok"] == ["orphans"]
