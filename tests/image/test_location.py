from __future__ import annotations

import posixpath
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ferstore.errors import SourceError
from ferstore.image.location import (
    PROTOCOLS,
    FileLocation,
    MemberLocation,
    RowLocation,
    member_problem,
    normalise,
    parse,
    redact,
)

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\\/"), min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
files = paths.map(lambda path: f"file:///{path}")


@given(st.sampled_from(PROTOCOLS), st.text("abcäé %:.-_/", min_size=1, max_size=30).map(lambda path: f"b/{path}"))
def test_a_file_reads_back_as_written(protocol: str, path: str) -> None:
    url = f"{protocol}://{'/' if protocol == 'file' else ''}{path}"
    assume("::" not in path)
    assert parse(url) == FileLocation(url)


@given(st.sampled_from(["zip", "tar"]), paths, files)
def test_a_member_reads_back_as_written(kind: str, member: str, archive: str) -> None:
    assume(not member_problem(member) and posixpath.normpath(member) == member)
    assume("::" not in archive)
    location = MemberLocation("zip" if kind == "zip" else "tar", member, archive)
    assert parse(location.url) == location


@given(st.integers(0, 10**12), st.integers(1, 10**5), files)
def test_a_row_reads_back_as_written(start: int, length: int, table: str) -> None:
    assume("::" not in table)
    location = RowLocation(start, start + length, table)
    assert parse(location.url) == location


@given(st.text(max_size=60))
def test_any_string_is_a_location_or_a_source_error(text: str) -> None:
    try:
        location = parse(text)
    except SourceError:
        return
    assert parse(location.url) == location


def test_a_chain_is_split_at_its_last_separator() -> None:
    assert parse("zip://a::b.png::file:///x/a.zip") == MemberLocation("zip", "a::b.png", "file:///x/a.zip")
    assert parse("zip://data::file:///x/a.zip") == MemberLocation("zip", "data", "file:///x/a.zip")


@pytest.mark.parametrize(
    "url",
    [
        "simplecache::s3://bucket/x.png",
        "filecache://x::s3://b/y",
        "reference://x",
        "github://org:repo@main/x.png",
        "ftp://host/x.png",
        "sftp://host/x.png",
        "dir://x::file:///y",
        "s3://bucket/x::file:///etc/passwd",
        "zip://a.png::zip://b.zip::file:///c.zip",
        "tar://a.png::simplecache::s3://b/c.tar",
        "zip://a.png::fer2013://1-2::file:///c.csv",
        "zip://a.png",
        "zip://../a.png::file:///c.zip",
        "zip:///etc/passwd::file:///c.zip",
        "zip://a\\b.png::file:///c.zip",
        "zip://C:/b.png::file:///c.zip",
        "zip://a/./b.png::file:///c.zip",
        "zip://::file:///c.zip",
        "fer2013://5-5::file:///c.csv",
        "fer2013://-1-5::file:///c.csv",
        "fer2013://05-9::file:///c.csv",
        "file://relative/x.png",
        "relative/x.png",
        "s3://",
        "http:///x.png",
        "file:///a\0b",
        "file:///a\udc80b",
        "",
    ],
)
def test_what_is_no_location_is_refused(url: str) -> None:
    with pytest.raises(SourceError):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@host/x.png",
        "https://hunter2@host/x.png",
        "https://user:pa/hunter2@host/x.png",
        "s3://AKIA:hunter2@bucket/x.png",
        "abfss://user:hunter2@account/x.png",
        "https://host/x.png?X-Amz-Signature=hunter2",
        "https://host/x.png?a=1&x-amz-credential=hunter2",
        "https://host/x.png?sig=hunter2",
        "https://host/x.png?%73ig=hunter2",
        "https://host/x.png?AWSAccessKeyId=hunter2",
        "https://host/x.png?X-Goog-Signature=hunter2",
        "https://host/x.png#access_token=hunter2",
        "s3://bucket/x.png?token=hunter2",
        "zip://a.png::https://user:hunter2@host/a.zip",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SourceError, match="configuration") as caught:
        normalise(url)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in redact(url)


@pytest.mark.parametrize(
    "url",
    [
        "abfss://container@account.dfs.core.windows.net/x.png",
        "https://host:8080/a@b.png?v=1",
        "s3://bucket/me@home/x.png",
        "file:///home/a:b@c/x?sig=1.png",
    ],
)
def test_what_only_looks_like_a_credential_is_a_file(url: str) -> None:
    assert normalise(url) == url


def test_redacting_keeps_local_names_whole() -> None:
    assert redact("zip://a?b@c.png::file:///d@e?f.zip") == "zip://a?b@c.png::file:///d@e?f.zip"
    assert redact("https://u:p@host/x?v=1") == "https://***@host/x?***"


def test_local_paths_become_absolute_and_are_not_percent_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise("a b/../ü%20.png") == f"file://{tmp_path}/ü%20.png"
    assert normalise("FILE:///a//b/") == "file:///a/b"
    assert normalise("zip://x.png::a.zip") == f"zip://x.png::file://{tmp_path}/a.zip"
    assert normalise("memory:///d/x/") == "memory://d/x"
