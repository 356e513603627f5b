"""Credentials are masked in any text, and nothing else is."""

from __future__ import annotations

import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferstore.errors import FerstoreError
from ferstore.redaction import ScrubbingFormatter, scrub

HELD = [
    "postgresql://user:hunter2@host/db",
    "cannot open 'https://hunter2@host/x', it says",
    'url="s3://KEY:hunter2@bucket/x" and more',
    "https://me:hun/hunter2@host/x",
    "https://host/x.png?v=1&X-Amz-Signature=hunter2&y=2",
    "https://host/x.png?sig=hunter2",
    "https://host/x#access_token=hunter2",
    "https://host/x?X%2DAmz%2DSignature=hunter2",
    "zip://a.png::https://u:hunter2@host/a.zip",
    "(psycopg2) connection failed: password=hunter2 host=h",
    "Max retries exceeded with url: /x?token=hunter2 (Caused by",
    "abfss://account:hunter2@host/x",
    "two https://a:hunter2@b/c and ftp://d:hunter2@e/f",
]


@pytest.mark.parametrize("text", HELD)
def test_a_credential_in_a_text_is_masked(text: str) -> None:
    assert "hunter2" not in scrub(text)
    assert "***" in scrub(text)
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "abfss://container@account.dfs.core.windows.net/x.png",
        "https://host:8080/a@b.png?v=1",
        "s3://bucket/me@home/x.png",
        "file:///home/a:b@c/x.png",
        "--set weight_decay=0.5 --set key=value",
        "folder /data/year=2020/x.png",
        "no URL here, a@b.c",
    ],
)
def test_what_is_none_stays_as_it_is(text: str) -> None:
    assert scrub(text) == text


@given(st.text("ab:/@?&=.#' tokensig", max_size=40))
def test_masking_twice_is_masking_once(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


def test_a_long_text_ends() -> None:
    """Where it took the square of the length, pytest's own timeout would end this."""
    for text in ("a." * 200_000 + "=", "a" * 400_000 + "=", "x://" * 50_000, "?a" * 100_000 + "=1"):
        scrub(text)


def test_every_error_of_ours_is_masked(tmp_path: object) -> None:
    error = FerstoreError(HELD[0], allowed=HELD[1], hint=HELD[4])
    assert "hunter2" not in str(error) + error.problem + error.allowed + error.hint


def test_a_line_of_a_log_is_masked_with_its_traceback() -> None:
    formatter = ScrubbingFormatter("%(message)s")
    try:
        raise ValueError(HELD[0])
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "at %s", (HELD[4],), sys.exc_info())
    said = formatter.format(record)
    assert "hunter2" not in said
    assert "Traceback" in said
