"""Credentials taken out of any text, for messages, logs and rows: what stands before a host's ``@``, and secret values.

Where a URL is known as one, `ferstore.image.location` refuses or redacts it by its parts. This is for text that only
may hold one: an error of a driver, a traceback, a warning.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote_plus

MASK = "***"

SECRET_PARAMETER = re.compile(
    r"x-(amz|goog|ms)-.*|.*(signature|access_?key|accessid|token|password|passwd|secret|api_?key|credential|bearer|jwt).*"
    r"|sig|key|auth|authorization|pwd|pass|sas",
    re.IGNORECASE,
)
"""Names of a URL's parameters whose values sign or open something."""

# In `abfss://container@account.dfs.core.windows.net/path` the part before `@` is no user.
CONTAINER_BEFORE_AT = ("az", "abfs", "abfss")
# User and host; or a password with an unescaped slash, which looks like a host with a port that is no number. Lengths
# are bounded, or a long text would take the square of its length.
_USER = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]{0,30})://([^\s/?#'\"]{0,300}|[^\s/?#'\":@]{0,99}:(?!\d+[/?#])[^\s'\"?#]{0,300})@"
)
_PARAMETER = re.compile(r"([?&;#]|\b)([\w.%\-]{1,60})=([^\s&;#'\"]+)")


def scrub(text: str) -> str:
    """The text with credentials masked; twice is the same as once."""
    if "://" in text:
        text = _USER.sub(_user, text)
    return _PARAMETER.sub(_parameter, text) if "=" in text else text


def _user(match: re.Match[str]) -> str:
    scheme, user = match.groups()
    return match[0] if scheme.lower() in CONTAINER_BEFORE_AT and ":" not in user else f"{scheme}://{MASK}@"


def _parameter(match: re.Match[str]) -> str:
    mark, name, _ = match.groups()
    # Outside a URL, `key=...` is anyone's; a password is one anywhere, such as in PostgreSQL's `password=x host=y`.
    secret = SECRET_PARAMETER.fullmatch(unquote_plus(name)) and (mark or name.lower() not in ("key", "sig"))
    return f"{mark}{name}={MASK}" if secret else match[0]


class ScrubbingFormatter(logging.Formatter):
    """Lines of a log without credentials, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))
