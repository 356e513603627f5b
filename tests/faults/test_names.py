"""Names with quotes, semicolons and other alphabets are data wherever they are used, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drawn import tree_digest, write
from hypothesis import given, settings
from hypothesis import strategies as st

from ferstore.api import FeatureStore
from ferstore.cli import main
from ferstore.errors import InputError
from ferstore.query.session import Session
from ferstore.sources.ingest import ingest
from ferstore.store.pin import Pin
from ferstore.store.store import init_store
from ferstore.terminal import print_table
from ferstore.train.split_plan import SplitRequest

Put = Callable[..., Pin]
TEXTS = st.text("ab'\"`;-/\\*$(){}[]%_.,:\t\né日\u202e\x1b\0\ud800 ", min_size=1, max_size=12)
UNPRINTABLE = ["new\nline", "turned \u202e text", "half \ud800", "code \x1b[31m", "nul\0", " ", ""]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


def test_every_name_in_a_row_comes_back_as_it_is_and_changes_no_query(stores: Path, put: Put, level: str) -> None:
    store = init_store(str(stores / 'it\'s; a "store" é'))
    names = st.tuples(*[TEXTS.filter(lambda text: "\ud800" not in text)] * 4)

    @settings(deadline=None, max_examples={"ci": 6, "full": 40, "night": 400}[level], database=None)
    @given(names)
    def check(row: tuple[str, str, str, str]) -> None:
        keys = ("dataset", "item_id", "subject", "label")
        given = dict(zip(keys, row, strict=True))
        put(store, images=[given])
        quoted = [
            f"{key} = '{value.replace(chr(39), chr(39) * 2)}'" for key, value in given.items() if "\0" not in value
        ]
        query = f"select {', '.join(keys)} from images where {' and '.join(quoted) or 'true'}"
        with Session(store, store.pin()).execute(query) as cursor:
            assert row in list(cursor.rows())

    check()


def test_every_tag_is_found_by_its_name_or_refused(stores: Path, put: Put, level: str) -> None:
    api = FeatureStore(init_store(str(stores / "tags")))
    put(api.store, images=[{"item_id": "a"}])
    taken: set[str] = set()

    @settings(deadline=None, max_examples={"ci": 8, "full": 40, "night": 400}[level], database=None)
    @given(TEXTS)
    def check(name: str) -> None:
        try:
            api.tag(name)
        except InputError:
            assert name in taken or name not in api.tags()
            with pytest.raises(InputError):
                api.store.pin("no such " + name)
            return
        taken.add(name)
        assert api.store.pin(name).snapshots["images"] == api.tags()[name]["images"]
        assert api.diff(name, name).tables == ()

    check()


@pytest.mark.parametrize("name", UNPRINTABLE)
def test_a_name_that_cannot_be_printed_is_refused_and_nothing_changes(stores: Path, put: Put, name: str) -> None:
    root = stores / f"refused {UNPRINTABLE.index(name)}"
    api = FeatureStore(init_store(str(root)))
    put(api.store, images=[{"item_id": "a", "label": "x"}])
    faces = write(root.with_name(f"{root.name} faces"), {"a/1.png": b"-"})
    before = tree_digest(root)
    attempts: list[Callable[[], object]] = [
        lambda: ingest(api.store, "folder", str(faces), name=name),
        lambda: api.tag(name),
        lambda: api.split(SplitRequest(name, "-", "random")),
        lambda: api.sql("select 1", at=f"{name}?"),
        lambda: api.diff(f"{name}?", f"{name}?"),
    ]
    for attempt in attempts:
        with pytest.raises(InputError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        str(caught.value).encode()
    assert tree_digest(root) == before


def test_bytes_that_are_no_text_are_refused_before_any_command_runs(
    stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = stores / "bytes"
    init_store(str(root))
    before = tree_digest(root)
    for words in (
        ["split", "s", "--dataset", "a\udcff", "--protocol", "random"],
        ["tag", "a\udcff"],
        ["sql", "a\udcff"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--store", str(root), *words])
        assert caught.value.code == 2
        assert (
            capsys.readouterr().err == "ferstore: argument 'a\\udcff'; allowed: UTF-8 text; rename what is called so\n"
        )
    assert tree_digest(root) == before


def test_a_table_shows_the_codes_that_would_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["item"], [("a\x1b[2Jb\u202ec\rd",), ("two\nlines",)])
    assert capsys.readouterr().out.split() == ["item", r"a\x1b[2Jb\u202ec\rd", "two", "lines"]
