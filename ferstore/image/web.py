"""http(s) through fsspec, where neither an address nor an answer is trusted.

A URL may come from a table that a stranger wrote, and any server may redirect. What this machine can reach (its own
ports, the network it is in, its cloud's metadata service) is not theirs to name. One rule, by the *kind* of an address,
``public``, ``private`` or ``loopback``:

- A request stays with the kind of the host that its URL names: no redirect leads to another one. Who names a server of
  their own on the command line reaches it; no public server leads there.
- A remote table lists public addresses, and addresses of its own kind (`may_list`).
- Link-local addresses and those of metadata services are never connected to, whoever names them; https never
  redirects to http, nor either to another scheme.

The kind is checked where a socket is made, by the address it is made for: other spellings of an address, names that
resolve to it and a name server that answers differently the second time change nothing.

An answer has a size limit, a time limit, and a limit on silence. It is taken as sent: nothing is decompressed.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from ferstore.errors import FetchError

Kind: TypeAlias = Literal["public", "private", "loopback"]
KINDS: tuple[Kind, ...] = ("public", "private", "loopback")

SECONDS = 600.0  # a request may take
SILENCE_SECONDS = 30.0  # a server may say nothing
ANSWER_BYTES = 300 * 2**20  # of a page of links, or of a part of an archive: some more than the largest item

# Of clouds, where they are not link-local: AWS (IPv6), Alibaba, Azure, Oracle.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_web(url: str) -> bool:
    """Whether a canonical URL is one of http or https."""
    return url.startswith(("http://", "https://"))


def kind_of_address(address: str) -> Kind:
    """Which kind an IP address is of.

    Raises:
        PermissionError: it is never connected to.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.ip_address(int(ip) % 2**32) if ip in _NAT64 else None)
        ip = inner or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        raise PermissionError(errno.EACCES, f"{address} is an address that is never connected to")
    if ip.is_loopback:
        return "loopback"
    return "public" if ip.is_global else "private"


@functools.lru_cache(1024)
def kind_of(url: str) -> Kind:
    """Which kind the host of a web URL is of, by the first address its name resolves to.

    Raises:
        PermissionError: an address that is never connected to.
        OSError: the name does not resolve.
    """
    parts = urlsplit(url)
    found = socket.getaddrinfo(parts.hostname, parts.port or parts.scheme, type=socket.SOCK_STREAM)
    return kind_of_address(str(found[0][4][0]))


def may_list(table: str) -> tuple[Kind, ...]:
    """The kinds of address that the table at this URL may list."""
    return ("public", kind_of(_origin(table))) if is_web(table) else KINDS if _is_here(table) else ("public",)


def _is_here(url: str) -> bool:
    return url.startswith(("file://", "memory://"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def filesystem(url: str, kinds: tuple[Kind, ...] = KINDS) -> Any:
    """The fsspec filesystem that reads this web URL and stays with its kind.

    Raises:
        FetchError: the kind is not one of ``kinds``.
        OSError: as `kind_of`.
    """
    kind = kind_of(_origin(url))
    if kind not in kinds:
        raise FetchError(f"{urlsplit(url).hostname} is a {kind} address, which a table elsewhere may not list")
    return fsspec.filesystem(url.partition("://")[0], get_client=_CLIENTS[kind])


def open_file(url: str, kinds: tuple[Kind, ...] = KINDS) -> Any:
    """A file of the web to be read in parts. fsspec tells every error as that of a missing file; here it is itself."""
    try:
        return filesystem(url, kinds).open(url, "rb")
    except FileNotFoundError as error:
        cause = error.__cause__
        if not isinstance(cause, Exception) or getattr(cause, "status", None) == 404:
            raise
        raise cause from None


def read(url: str, max_bytes: int, kinds: tuple[Kind, ...] = KINDS, *, span: tuple[int, int] | None = None) -> bytes:
    """A whole file, or its bytes ``[start, end)``, by one request.

    Raises:
        FetchError: larger than ``max_bytes``, compressed though that was not asked for, or not the part asked for.
        Exception: what fsspec and aiohttp raise.
    """
    files = filesystem(url, kinds)
    return cast(bytes, sync(files.loop, _read, files, url, max_bytes, span))


async def _read(files: Any, url: str, max_bytes: int, span: tuple[int, int] | None) -> bytes:
    session = await files.set_session()
    options = dict(files.kwargs)
    if span:
        options["headers"] = {**options.get("headers", {}), "Range": f"bytes={span[0]}-{span[1] - 1}"}
    async with session.get(files.encode_url(url), **options) as answer:
        files._raise_not_found_for_status(answer, url)
        if answer.headers.get("Content-Encoding", "identity") not in ("identity", ""):
            raise FetchError("the server compressed the file, though it was asked not to")
        if span and answer.status != 206:
            raise FetchError("the server does not send parts of files")
        return await _at_most(answer, max_bytes)


async def _at_most(answer: Any, max_bytes: int) -> bytes:
    if (answer.content_length or 0) > max_bytes:
        raise FetchError(f"more than {max_bytes} bytes")
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > max_bytes:
            answer.close()
            raise FetchError(f"more than {max_bytes} bytes")
    return bytes(body)


def _client(kind: Kind) -> Callable[..., Awaitable[Any]]:
    """fsspec's ``get_client``, whose sockets are for addresses of one kind."""

    def connect(address: Any) -> socket.socket:
        family, type_, protocol, _, target = address
        found = kind_of_address(str(target[0]))
        if found != kind:
            raise PermissionError(errno.EACCES, f"{target[0]} is a {found} address, where a {kind} one was named")
        return socket.socket(family, type_, protocol)

    async def get_client(**options: Any) -> Any:
        import aiohttp  # a second's third, and most data sets are not on the web

        class Answer(aiohttp.ClientResponse):
            """One whose `read`, by which fsspec takes pages and parts of files, has an end."""

            async def read(self) -> bytes:
                if self._body is None:
                    self._body = await _at_most(self, ANSWER_BYTES)
                return self._body

        watch = aiohttp.TraceConfig()
        watch.on_request_redirect.append(_refuse_downgrade)
        options["headers"] = {"Accept-Encoding": "identity", **(options.get("headers") or {})}
        timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        return aiohttp.ClientSession(
            **{
                **options,
                "connector": aiohttp.TCPConnector(socket_factory=connect),
                "response_class": Answer,
                "trace_configs": [watch],
                "auto_decompress": False,
                "timeout": timeout,
            }
        )

    return get_client


async def _refuse_downgrade(_session: Any, _context: Any, redirect: Any) -> None:
    target = redirect.response.headers.get("Location", "")
    if redirect.url.scheme == "https" and urlsplit(target).scheme == "http":
        raise PermissionError(errno.EACCES, "a redirect from https to http")


_CLIENTS = {kind: _client(kind) for kind in KINDS}
