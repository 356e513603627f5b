from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ferstore.errors import FetchError
from ferstore.image import fetch
from ferstore.image.fetch import Fetcher, fer2013_pgm, why

PIXELS = " ".join(str(n % 256) for n in range(2304)).encode()
ROW = b"0," + PIXELS + b",Training"


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(max_bytes=10_000) as fetcher:
        yield fetcher


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def make_zip(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return f"file://{path}"


def test_a_local_file_with_an_unusual_name_is_read(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "é %41 ::b?sig=#.png"
    path.write_bytes(b"bytes")
    assert fetcher.read(f"file://{path}") == b"bytes"


def test_a_file_of_any_filesystem_is_read(fetcher: Fetcher, memory: Any) -> None:
    memory.pipe("/d/x.png", b"bytes")
    assert fetcher.read("memory://d/x.png") == b"bytes"


def test_an_archive_on_any_filesystem_is_read(fetcher: Fetcher, memory: Any, tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"d/x.png": b"bytes"})
    memory.pipe("/a.zip", (tmp_path / "a.zip").read_bytes())
    assert fetcher.read("zip://d/x.png::memory://a.zip") == b"bytes"


@pytest.mark.parametrize("root", ["file", "memory"])
def test_a_row_of_fer2013_is_a_canonical_pgm(root: str, fetcher: Fetcher, memory: Any, tmp_path: Path) -> None:
    content = b"emotion,pixels,Usage\n" + ROW + b"\n"
    (tmp_path / "fer2013.csv").write_bytes(content)
    memory.pipe("/fer2013.csv", content)
    table = "memory://fer2013.csv" if root == "memory" else f"file://{tmp_path}/fer2013.csv"
    data = fetcher.read(f"fer2013://21-{21 + len(ROW)}::{table}")
    assert data == b"P5\n48 48\n255\n" + bytes(range(256)) * 9
    # A change of this digest changes the identity of every image of fer2013.csv.
    assert hashlib.sha256(data).hexdigest() == "76797c106efc5556bd7d38bacc7e87096dc6205427f1c8fb92470ab724b83d87"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"0," + PIXELS,
        b"0," + PIXELS + b" 1,Training",
        b"0," + PIXELS[:-4] + b",Training",
        b"0," + PIXELS[:-3] + b"256,Training",
        b"0," + PIXELS[:-3] + b" -1,Training",
        b"0," + PIXELS[:-3] + b"1_1,Training",
        b"0," + PIXELS[:-3] + b"1.0,Training",
        b"0,,Training",
    ],
)
def test_a_malformed_row_is_a_fetch_error(line: bytes) -> None:
    with pytest.raises(FetchError, match=r"fer2013\.csv"):
        fer2013_pgm(line)


def test_quoted_pixels_are_the_same_image() -> None:
    assert fer2013_pgm(b'0,"' + PIXELS + b'",Training') == fer2013_pgm(ROW)


@pytest.mark.timeout(20)
def test_what_is_not_a_regular_file_is_refused_and_does_not_hang(fetcher: Fetcher, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "fifo.png", tmp_path / "folder.png", Path("/dev/zero")):
        with pytest.raises(FetchError, match="not a regular file"):
            fetcher.read(f"file://{path}")
        with pytest.raises(FetchError, match="not a regular file"):
            fetcher.read(f"zip://x.png::file://{path}")


def test_a_dangling_link_and_a_missing_file_say_so(fetcher: Fetcher, memory: Any, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("nowhere")
    for url in (f"file://{tmp_path}/link.png", f"file://{tmp_path}/none.png", "memory://none.png"):
        with pytest.raises(FetchError, match="there is no such file"):
            fetcher.read(url)


def test_a_file_above_the_limit_is_not_read(fetcher: Fetcher, memory: Any, tmp_path: Path) -> None:
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)
    memory.pipe("/big.png", bytes(10_001))
    for url in (f"file://{tmp_path}/sparse.png", "memory://big.png"):
        with pytest.raises(FetchError, match="more than 10000 bytes"):
            fetcher.read(url)
    memory.pipe("/fits.png", bytes(10_000))
    assert len(fetcher.read("memory://fits.png")) == 10_000


def test_a_file_whose_size_is_not_known_is_read_up_to_the_limit(fetcher: Fetcher) -> None:
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("no file here hides its size")
    assert Fetcher().read("file:///proc/self/status").startswith(b"Name:")
    with pytest.raises(FetchError, match="more than 10 bytes"):
        Fetcher(max_bytes=10).read("file:///proc/self/status")


def test_credentials_do_not_show_in_the_error(fetcher: Fetcher) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher.read("https://user:hunter2@host/x.png?sig=hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_broken_archive_is_listed_once(fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(b"this is no archive")
    opened: list[str] = []
    original = fetch.open_binary

    def count(url: str, *rest: Any) -> Any:
        opened.append(url)
        return original(url, *rest)

    monkeypatch.setattr(fetch, "open_binary", count)
    for _ in range(3):
        with pytest.raises(FetchError, match="broken zip archive"):
            fetcher.read(f"zip://x.png::file://{tmp_path}/a.zip")
    assert len(opened) == 1


def test_many_threads_read_more_archives_than_stay_open(tmp_path: Path) -> None:
    urls = {
        f"zip://{n}.png::{make_zip(tmp_path / f'{a}.zip', {f'{n}.png': b'%d-%d' % (a, n) for n in range(5)})}": (
            b"%d-%d" % (a, n)
        )
        for a in range(20)
        for n in range(5)
    }
    with Fetcher() as fetcher, ThreadPoolExecutor(8) as pool:
        wanted = list(urls) * 3
        assert list(pool.map(fetcher.read, wanted)) == [urls[url] for url in wanted]
        assert len(fetcher._slots) <= 8
        assert all(slot.users == 0 for slot in fetcher._slots.values())


class Flaky:
    """A remote filesystem whose first answers are errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def _strip_protocol(self, url: str) -> str:
        return url

    def open(self, path: str, mode: str) -> io.BytesIO:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return io.BytesIO(b"bytes")


class AnswerError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("https://host/x?sig=hunter2")
        self.status = status


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("ferstore.image.fetch.time.sleep", pauses.append)
    return pauses


def served(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> Flaky:
    files = Flaky(*errors)
    monkeypatch.setattr("ferstore.image.fetch.fsspec.filesystem", lambda scheme: files)
    return files


def test_errors_that_may_pass_are_tried_again_three_times(
    fetcher: Fetcher, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = served(monkeypatch, OSError("reset"), TimeoutError(), AnswerError(503))
    assert fetcher.read("s3://bucket/x.png") == b"bytes"
    assert (files.calls, len(pauses)) == (4, 3)
    files = served(monkeypatch, *[OSError("reset")] * 4)
    with pytest.raises(FetchError, match="reset"):
        fetcher.read("s3://bucket/x.png")
    assert files.calls == 4


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), AnswerError(403), KeyError("bug")])
def test_errors_that_stay_are_not_tried_again(
    error: Exception, fetcher: Fetcher, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = served(monkeypatch, error)
    with pytest.raises(FetchError) as caught:
        fetcher.read("s3://bucket/x.png")
    assert (files.calls, pauses) == (1, [])
    assert "hunter2" not in str(caught.value)


@pytest.mark.timeout(20)
def test_an_error_with_a_servers_megabytes_in_it_is_one_short_line() -> None:
    assert len(why(ValueError("x" * 10**7))) < 200


def test_a_missing_driver_names_the_extra_to_install(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("ferstore.image.fetch.fsspec.filesystem", missing)
    with pytest.raises(FetchError, match=r"pip install 'ferstore\[s3\]'"):
        fetcher.read("s3://bucket/x.png")


def test_archives_close_with_the_fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []
    original = fetch.open_binary

    def remember(url: str, *rest: Any) -> Any:
        files.append(original(url, *rest))
        return files[-1]

    monkeypatch.setattr(fetch, "open_binary", remember)
    with Fetcher() as fetcher:
        fetcher.read(f"zip://x.png::{make_zip(tmp_path / 'a.zip', {'x.png': b'1'})}")
        assert not files[0].closed
    assert files[0].closed
