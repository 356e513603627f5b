"""compact, vacuum and erase as a user types them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from drawn import noise_store, sql
from filled import REQUEST, fill

from ferstore.cli import main
from ferstore.store.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = noise_store(tmp_path, 4)
    fill(store, REQUEST)
    monkeypatch.setenv("FERSTORE_STORE", str(tmp_path / "store"))
    return store


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_night_of_upkeep(store: Store, put: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compact", "--json")
    merged = {table["table"]: table for table in json.loads(out)["tables"]}
    assert code == 0
    assert merged["runs"]["files_after"] == 1
    assert run(capsys, "compact") == (0, "nothing to merge\n", "")
    code, out, _ = run(capsys, "vacuum", "--keep", "0", "--json")
    found = json.loads(out)
    assert (code, found["leftovers"]) == (0, 0)
    assert found["files"] > found["snapshots"]["runs"] > 0
    code, out, _ = run(capsys, "verify", "--json")
    assert (code, json.loads(out)["sound"]) == (0, True)


def test_a_picture_is_erased_and_the_next_look_finds_nobody(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image, url = sql(store, "select image_id, source_url from images order by item_id limit 1")[0]
    code, out, err = run(capsys, "erase", "--image", str(image), "--dry-run")
    assert (code, err) == (0, "")
    assert "would erase 1 picture; rows: images 1, mixed_10 1, pool_3 1" in out
    code, out, err = run(capsys, "erase", "--image", str(image))
    assert code == 0
    assert out.startswith("erased 1 picture; rows: images 1, mixed_10 1, pool_3 1\n")
    assert str(url) in err  # the picture itself is the user's to remove
    assert sql(store, "select count(*) from images") == [(3,)]
    code, _, err = run(capsys, "erase", "--image", str(image))
    assert code == 2
    assert err.startswith("ferstore: nothing in this store is of image")


def test_while_a_job_works_elsewhere_erase_ends_with_code_4_until_it_is_declared_dead(
    store: Store, put: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (image,) = sql(store, "select image_id from images limit 1")[0]
    put(
        store, runs=[{"run_id": "far", "command": "extract", "state": "running", "host": "not-" + socket.gethostname()}]
    )
    code, out, err = run(capsys, "erase", "--image", str(image))
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "at work: extract far on not-" in err
    assert "ferstore runs --abandon RUN" in err
    code, out, _ = run(capsys, "runs", "--abandon", "far", "--json")
    assert code == 0
    assert [r["state"] for r in json.loads(out)["runs"] if r["run_id"] == "far"] == ["failed"]
    assert run(capsys, "erase", "--image", str(image))[0] == 0
