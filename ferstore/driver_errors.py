"""Errors of storage drivers: which pass by themselves, and what each says in the words of the operating system.

s3fs, gcsfs and adlfs turn some of what a server answers into OSErrors, and let the rest through as their libraries
raise it, which is no OSError. Types are told by name, so that no driver has to be installed. Read in s3fs 2026.9
(``errors.py``, ``core._error_wrapper``), gcsfs 2026.10 (``retry.py``) and adlfs 2026.8 with azure-core 1.41.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

_PASSING_NUMBERS = frozenset(
    {
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),  # s3fs makes EBUSY of a 503
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH),
        getattr(errno, "EREMOTEIO", errno.ETIMEDOUT),  # s3fs's of a 500
    }
)
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset({"NoSuchUpload", "RequestTimeout", "Throttling", "ThrottlingException", "RequestThrottled"})
"""Amazon's words where the status does not say it. A multi-part upload is gone once it was completed or given up: the
answer to that was lost, and the object is written again."""
_PASSING_TYPES = frozenset(
    {
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.parsers.ResponseParserError",
        "http.client.HTTPException",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "requests.exceptions.ChunkedEncodingError",
        "gcsfs.retry.ChecksumError",
        "google.auth.exceptions.TransportError",
        "google.auth.exceptions.TimeoutError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "azure.core.exceptions.IncompleteReadError",
    }
)
_ROOTS = frozenset(
    {
        "botocore.exceptions.BotoCoreError",
        "botocore.exceptions.ClientError",
        "botocore.parsers.ResponseParserError",
        "http.client.HTTPException",
        "aiohttp.client_exceptions.ClientError",
        "requests.exceptions.RequestException",
        "gcsfs.retry.HttpError",
        "gcsfs.retry.ChecksumError",
        "google.auth.exceptions.GoogleAuthError",
        "azure.core.exceptions.AzureError",
    }
)
_CREDENTIALS = frozenset(
    {
        "botocore.exceptions.NoCredentialsError",
        "botocore.exceptions.PartialCredentialsError",
        "botocore.exceptions.CredentialRetrievalError",
        "google.auth.exceptions.GoogleAuthError",
        "azure.core.exceptions.ClientAuthenticationError",
    }
)


def passes(error: BaseException) -> bool:
    """Whether the same request may be answered a moment later. What it did may still have happened."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, FileExistsError | PermissionError):  # of a 409 or a 403, which say so every time
        return False
    if isinstance(error, OSError) and error.errno in _PASSING_NUMBERS:
        return True
    status, code = _answer(error)
    return status in _PASSING_STATUS or code in _PASSING_CODES or bool(_types(error) & _PASSING_TYPES)


def is_taken(error: BaseException) -> bool:
    """Whether a conditional creation failed because something is there.

    s3fs knows a 412 only where the server names the condition in a field of Amazon's, which other servers leave out.
    """
    return isinstance(error, FileExistsError) or _answer(error)[0] == 412


def as_os_error(error: Exception) -> Exception:
    """A driver's own error as an OSError; any other as it is."""
    types = _types(error)
    if isinstance(error, OSError) or not types & _ROOTS:
        return error
    text = f"{type(error).__name__}: {error}"
    if passes(error):
        return TimeoutError(errno.ETIMEDOUT, text)
    if types & _CREDENTIALS or _answer(error)[0] in (401, 403):
        return PermissionError(errno.EACCES, text)
    return OSError(errno.EIO, text)


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """Status and code of the answer that an error holds, or the one that a driver made an OSError of."""
    for each in (error, error.__cause__ if isinstance(error, OSError) else None):
        response: Any = getattr(each, "response", None)
        if isinstance(response, Mapping):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, response.get("Error", {}).get("Code")
        for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
            status = getattr(each, name, None)
            if isinstance(status, int) or (isinstance(status, str) and status.isdecimal()):
                return int(status), None
    return None, None


def _types(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
