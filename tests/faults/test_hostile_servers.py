"""Servers that redirect where they must not, never end, never answer, or lie: one item, in bounded memory and time.

All run here. Linux gives a machine all of 127.0.0.0/8, and these tests call some of it public or private.
"""

from __future__ import annotations

import gzip
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from drawn import picture, sql

from ferstore.errors import FetchError, SourceError
from ferstore.image import fetch, web
from ferstore.image.fetch import Fetcher
from ferstore.sources import ingest as ingest_module
from ferstore.sources.folder import table_listing
from ferstore.sources.ingest import ingest
from ferstore.sources.item import Refused
from ferstore.sources.tree import open_tree
from ferstore.store.store import init_store
from tests.faults.conftest import Tally

OWN, PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
MIB = 2**20
PICTURE = picture(1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, Callable[[Handler], None]]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        host = self.server.server_address[0]
        self.asked.append(f"{self.command} {host!s} {self.path}")
        try:
            self.answers.get(self.path, missing)(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815  http.server's name

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def missing(handler: Handler) -> None:
    handler.answer(b"", 404)


def redirect(url: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(b"", 302, Location=url)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Servers on all three addresses, at one port; ``Handler.answers`` says what they answer, each the same."""
    real = web.kind_of_address

    def kind_of_address(address: str) -> web.Kind:
        return {PUBLIC: "public", PRIVATE: "private"}.get(address) or real(address)  # type: ignore[return-value]

    monkeypatch.setattr(web, "kind_of_address", kind_of_address)
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_SECONDS", 0.0)
    web.kind_of.cache_clear()
    monkeypatch.setattr(Handler, "answers", {"/good.png": lambda handler: handler.answer(PICTURE)})
    monkeypatch.setattr(Handler, "asked", [])
    first = ThreadingHTTPServer((OWN, 0), Handler)
    number = int(first.server_address[1])
    servers = [first, *(ThreadingHTTPServer((host, number), Handler) for host in (PUBLIC, PRIVATE))]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield number
    for server in servers:
        server.shutdown()
        server.server_close()
    web.kind_of.cache_clear()


def refusal(url: str, max_bytes: int = MIB, listed_in: str | None = None) -> str:
    with Fetcher(max_bytes, listed_in=listed_in) as fetcher, pytest.raises(FetchError) as caught:
        fetcher.read(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_read_with_one_request(port: int) -> None:
    for host in (OWN, PUBLIC, PRIVATE):
        with Fetcher() as fetcher:
            assert fetcher.read(f"http://{host}:{port}/good.png") == PICTURE
    assert Handler.asked == [f"GET {host} /good.png" for host in (OWN, PUBLIC, PRIVATE)]


def test_a_redirect_within_a_kind_is_followed(port: int) -> None:
    Handler.answers["/moved.png"] = redirect("/good.png")
    for host in (OWN, PUBLIC, PRIVATE):
        with Fetcher() as fetcher:
            assert fetcher.read(f"http://{host}:{port}/moved.png") == PICTURE


@pytest.mark.parametrize("form", ["{}", "zip://x.png::{}", "fer2013://0-9::{}"])
@pytest.mark.parametrize(("start", "target"), [(PUBLIC, OWN), (PUBLIC, PRIVATE), (PRIVATE, OWN), (OWN, PUBLIC)])
def test_a_redirect_to_another_kind_of_address_is_refused(
    port: int, start: str, target: str, form: str, tally: Tally
) -> None:
    Handler.answers["/moved.zip"] = redirect(f"http://{target}:{port}/good.png")
    assert "127.0.0." in refusal(form.format(f"http://{start}:{port}/moved.zip"))
    assert [line for line in Handler.asked if target in line] == []
    assert len(Handler.asked) <= 2  # nothing is tried again; an archive is asked for its size by HEAD and by GET
    tally("hostile redirects", 1)


SPELLINGS = [
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16",
    "0.0.0.0", "0", "[::]", "224.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_addresses_that_are_never_connected_to_in_any_spelling(
    port: int, host: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    made: list[object] = []
    real = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, target: made.append(target) or real(self, target))
    Handler.answers["/moved.png"] = redirect(f"http://{host}/latest/meta-data")
    refusal(f"http://{host}/latest/meta-data")
    for start in (OWN, PUBLIC):
        refusal(f"http://{start}:{port}/moved.png")
    assert Handler.asked == [f"GET {start} /moved.png" for start in (OWN, PUBLIC)]
    assert not [target for target in made if isinstance(target, tuple) and target[1] == 80]
    tally("hostile redirects", 2)


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://h/x", "gopher://h/x", "s3://b/x", "//", "http://", "http://[", "data:,x", "ws://h/"],
)
def test_a_redirect_to_another_scheme_or_to_nowhere_is_refused(port: int, target: str, tally: Tally) -> None:
    Handler.answers["/moved.png"] = redirect(target)
    assert "passwd" not in refusal(f"http://{OWN}:{port}/moved.png").replace("file:///etc/passwd", "")
    tally("hostile redirects", 1)


def test_redirects_in_a_circle_end(port: int) -> None:
    Handler.answers["/moved.png"] = redirect("/moved.png")
    assert "TooManyRedirects" in refusal(f"http://{OWN}:{port}/moved.png")
    assert len(Handler.asked) == 10


@pytest.mark.parametrize("name", ["localhost", "evil.example"])
def test_a_name_that_resolves_anew_reaches_nothing_new(port: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is asked for, this machine when it is connected to."""
    answers = iter([PUBLIC])
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        return real(next(answers, OWN) if host == name else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert "loopback" in refusal(f"http://{name}:{port}/good.png")
    assert Handler.asked == []


# Answers


def endless(handler: Handler, declared: str | None = None) -> None:
    handler.send_response(200)
    if declared:
        handler.send_header("Content-Length", declared)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(2000):
        handler.wfile.write(bytes(MIB // 4))


def chunked(handler: Handler) -> None:
    """No length, and the picture in pieces."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for at in range(0, len(PICTURE), 50):
        part = PICTURE[at : at + 50]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.flush()
    handler.wfile.write(b"0\r\n\r\n")


def test_a_picture_of_no_stated_length_is_read_to_its_end(port: int) -> None:
    Handler.answers["/chunked.png"] = chunked
    with Fetcher() as fetcher:
        assert fetcher.read(f"http://{OWN}:{port}/chunked.png") == PICTURE


@pytest.mark.parametrize("declared", [None, "100", str(2**60), "-1", "x"])
@pytest.mark.parametrize("form", ["{}", "fer2013://0-9::{}"])
def test_a_body_without_end_is_read_to_the_limit(port: int, form: str, declared: str | None, tally: Tally) -> None:
    Handler.answers["/endless.png"] = lambda handler: endless(handler, declared)
    tracemalloc.start()
    try:
        with Fetcher(MIB) as fetcher:
            try:  # what follows the 100 bytes is no part of the file, or an error, as the network cuts it
                assert fetcher.read(form.format(f"http://{OWN}:{port}/endless.png")) == bytes(100)
            except FetchError:
                declared = "100"
        assert declared == "100"  # any other is an error
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    tally("hostile servers", 1)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_whose_parts_have_no_end_is_refused(
    port: int, kind: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setattr(web, "ANSWER_BYTES", MIB)

    def lies(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.answer(b"", Content_Length="5000")
            return
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-4999/5000")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(400):
            handler.wfile.write(bytes(MIB // 4))

    Handler.answers["/endless"] = lies
    tracemalloc.start()
    try:
        assert "more than 1048576 bytes" in refusal(f"{kind}://x.png::http://{OWN}:{port}/endless")
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    tally("hostile servers", 1)


def test_a_compressed_answer_is_not_inflated(port: int, tally: Tally) -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    Handler.answers["/bomb.png"] = lambda handler: handler.answer(bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert "compressed" in refusal(f"http://{OWN}:{port}/bomb.png")
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    tally("hostile servers", 1)


def test_a_body_that_is_cut_off_is_no_picture(port: int, tally: Tally) -> None:
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(PICTURE)
        handler.close_connection = True

    Handler.answers["/cut.png"] = cut
    refusal(f"http://{OWN}:{port}/cut.png")
    tally("hostile servers", 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("drop", [0.0, 0.05], ids=["silent", "a byte now and then"])
def test_a_server_that_takes_forever_is_left(
    port: int, drop: float, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setattr(web, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(web, "SECONDS", 0.6)
    monkeypatch.setattr(fetch, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(web, "_CLIENTS", {kind: web._client(kind) for kind in web.KINDS})  # not those kept so far
    left = threading.Event()

    def slow(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not left.wait(drop or 30) and drop:
            handler.wfile.write(b"x")
            handler.wfile.flush()

    Handler.answers["/slow.png"] = slow
    assert "Timeout" in refusal(f"http://{OWN}:{port}/slow.png")
    left.set()
    assert len(Handler.asked) == 1
    tally("hostile servers", 1)


def test_a_server_that_is_busy_is_asked_again_and_one_without_the_file_is_not(port: int) -> None:
    def busy(handler: Handler) -> None:
        if Handler.asked.count(Handler.asked[0]) < 3:
            handler.answer(b"", 503)
        else:
            handler.answer(PICTURE)

    Handler.answers["/busy.png"] = busy
    with Fetcher() as fetcher:
        assert fetcher.read(f"http://{OWN}:{port}/busy.png") == PICTURE
    Handler.asked.clear()
    assert "there is no such file" in refusal(f"http://{OWN}:{port}/none.png")
    assert "there is no such file" in refusal(f"zip://x.png::http://{OWN}:{port}/none.zip")


# Listings


def pages_without_end(handler: Handler) -> None:
    handler.answer(b'<a href="deeper/">x</a><a href="a.png">a</a>', Content_Type="text/html")


def test_pages_that_link_ever_deeper_end(port: int, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    class Endless(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return pages_without_end

    monkeypatch.setattr(Handler, "answers", Endless())
    monkeypatch.setattr("ferstore.sources.tree._PAGES", 20)
    with pytest.raises(SourceError, match="more than 20 pages"), open_tree(f"http://{OWN}:{port}/set"):
        pass
    assert len(Handler.asked) <= 21
    tally("hostile servers", 1)


def test_a_folder_of_pages_is_listed_and_what_it_links_to_elsewhere_is_not(port: int) -> None:
    page = b'<a href="happy/">h</a> <a href="../up.png">u</a> <a href="/etc/x.png">e</a> <a href="http://h/x.png">w</a>'
    Handler.answers["/set/"] = lambda handler: handler.answer(page, Content_Type="text/html")
    inner = b'<a href="a.png">a</a><a href="./">self</a><a href="/set/">top</a>'
    Handler.answers["/set/happy/"] = lambda handler: handler.answer(inner, Content_Type="text/html")
    with open_tree(f"http://{OWN}:{port}/set") as tree:
        assert tree.files == ("happy/a.png",)


@pytest.mark.parametrize("table", ["http://{public}/t.csv", "s3://bucket/t.csv", "gs://bucket/t.csv"])
@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/etc/passwd", "memory://x.png", "zip://a.png::file:///a.zip", "zip://a.png::a.zip",
            "fer2013://0-9::file:///etc/passwd", "az://secret/x.png"],
)  # fmt: skip
def test_a_remote_table_lists_nothing_of_this_machine(
    port: int, table: str, url: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setattr(Fetcher, "read", lambda self, location: f"url,label\n{url},x\nb.png,y\n".encode())
    listing = table_listing(table.format(public=f"{PUBLIC}:{port}"))
    [refused, item] = listing.entries
    assert isinstance(refused, Refused)
    assert "table lists" in refused.error
    assert item.url.endswith("b.png")
    tally("hostile redirects", 1)


def test_a_remote_table_reaches_its_own_kind_of_address_and_public_ones(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "_READERS", 1)
    urls = [f"http://{host}:{port}/good.png" for host in (OWN, PUBLIC, PRIVATE)]
    table = "url,label\n" + "".join(f"{url},happy\n" for url in urls) + "file:///etc/hostname,happy\n"
    Handler.answers["/t.csv"] = lambda handler: handler.answer(table.encode())
    store = init_store(str(tmp_path / "store"))
    expected = {PUBLIC: [PUBLIC], PRIVATE: [PUBLIC, PRIVATE], OWN: [OWN, PUBLIC]}
    for host, reached in expected.items():
        Handler.asked.clear()
        report = ingest(store, "folder", f"http://{host}:{port}/t.csv", name=host)
        assert (report.listed, report.added, report.quarantined) == (4, len(reached), 4 - len(reached))
        stored = sql(store, f"select source_url from images where dataset = '{host}' order by 1")
        assert [url for (url,) in stored] == [f"http://{there}:{port}/good.png" for there in reached]
        assert {line.split()[1] for line in Handler.asked} == {host, *reached}
    (tmp_path / "t.csv").write_text(table)  # the user's own
    assert ingest(store, "folder", str(tmp_path / "t.csv"), name="own").added == 3
