"""Errors of s3fs, gcsfs and adlfs: which are tried again, and what is told of those that stay."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import pickle
from typing import Any

import pytest

from ferstore import driver_errors
from ferstore.driver_errors import as_os_error, is_taken, passes
from ferstore.errors import UnavailableError

BOTOCORE = "botocore.exceptions.BotoCoreError"
GOOGLE = "google.auth.exceptions.GoogleAuthError"
NAMES = sorted(driver_errors._PASSING_TYPES | driver_errors._ROOTS | driver_errors._CREDENTIALS)


def chain(*names: str) -> Exception:
    """An error of the first of these types, each of which derives from the next."""
    kind: type[Exception] = Exception
    for name in reversed(names):
        kind = type(named(name, kind))
    return kind("said by the library")


def named(name: str, *bases: type[Exception], **fields: Any) -> Exception:
    """An error of a type with this name, as a driver that is not installed would raise it."""
    module, _, short = name.rpartition(".")
    kind = type(short, bases or (Exception,), {"__module__": module})
    error = kind("said by the server")
    for field, value in fields.items():
        setattr(error, field, value)
    return error


def azure(name: str, status: int | None = None) -> Exception:
    error = chain(f"azure.core.exceptions.{name}", "azure.core.exceptions.AzureError")
    if status is not None:
        error.status_code = status  # type: ignore[attr-defined]
    return error


def google(code: Any) -> Exception:
    return named("gcsfs.retry.HttpError", code=code)


def botocore(status: int, code: str) -> Exception:
    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return named("botocore.exceptions.ClientError", response=answer)


def caused(error: Exception, cause: Exception) -> Exception:
    """As s3fs raises it."""
    error.__cause__ = cause
    return error


PASSING = {
    "s3fs 503": OSError(errno.EBUSY, "SlowDown"),
    "s3fs 500": OSError(errno.EREMOTEIO, "InternalError"),
    "s3fs 409": caused(OSError(errno.EIO, "conflict"), botocore(409, "ConditionalRequestConflict")),
    "s3fs 429": caused(OSError(errno.EIO, "?"), botocore(429, "TooManyRequests")),
    "s3fs 400 throttled": caused(OSError(errno.EIO, "?"), botocore(400, "ThrottlingException")),
    "s3fs upload gone": caused(FileNotFoundError("upload"), botocore(404, "NoSuchUpload")),
    "botocore no connection": chain(
        "botocore.exceptions.EndpointConnectionError", "botocore.exceptions.ConnectionError", BOTOCORE
    ),
    "botocore closed": chain(
        "botocore.exceptions.ConnectionClosedError", "botocore.exceptions.HTTPClientError", BOTOCORE
    ),
    "aiohttp cut": chain("aiohttp.client_exceptions.ClientPayloadError", "aiohttp.client_exceptions.ClientError"),
    "gcsfs 503": google(503),
    "gcsfs 429 as text": google("429"),
    "gcsfs 502": named("requests.exceptions.ProxyError", type(named("requests.exceptions.ConnectionError", OSError))),
    "gcsfs checksum": named("gcsfs.retry.ChecksumError"),
    "google no connection": chain("google.auth.exceptions.TransportError", GOOGLE),
    "azure 503": azure("HttpResponseError", 503),
    "azure 429": azure("HttpResponseError", 429),
    "azure no connection": azure("ServiceRequestError"),
    "azure no answer": azure("ServiceResponseError"),
}
STAYING = {
    "s3fs 403": caused(PermissionError("denied"), botocore(403, "AccessDenied")),
    "s3fs expired token": caused(PermissionError("expired"), botocore(400, "ExpiredToken")),
    "s3fs 404": caused(FileNotFoundError("gone"), botocore(404, "NoSuchKey")),
    "s3fs bucket there": caused(FileExistsError("mine"), botocore(409, "BucketAlreadyOwnedByYou")),
    "s3fs 412": caused(OSError(errno.EINVAL, "?"), botocore(412, "PreconditionFailed")),
    "botocore no credentials": chain("botocore.exceptions.NoCredentialsError", BOTOCORE),
    "gcsfs 401": google(401),
    "gcsfs 403": OSError("Forbidden: https://storage.googleapis.com"),
    "google no credentials": chain("google.auth.exceptions.DefaultCredentialsError", GOOGLE),
    "azure 403": azure("HttpResponseError", 403),
    "azure 401": azure("ClientAuthenticationError", 401),
    "full": OSError(errno.ENOSPC, "full"),
    "a bug": KeyError("code"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_known(name: str) -> None:
    assert passes(PASSING[name])
    assert isinstance(as_os_error(PASSING[name]), OSError)


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_is_known(name: str) -> None:
    assert not passes(STAYING[name])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PASSING["azure 503"], TimeoutError),
        (STAYING["botocore no credentials"], PermissionError),
        (STAYING["google no credentials"], PermissionError),
        (STAYING["gcsfs 401"], PermissionError),
        (STAYING["azure 403"], PermissionError),
        (azure("HttpResponseError", 400), OSError),
    ],
    ids=["passing", "no credentials", "no google credentials", "401", "403", "400"],
)
def test_a_drivers_own_error_is_told_as_the_systems(error: Exception, kind: type[OSError]) -> None:
    told = as_os_error(error)
    assert type(told) is kind
    assert type(error).__name__ in str(told)
    assert type(pickle.loads(pickle.dumps(told))) is kind


def test_others_errors_are_left_alone() -> None:
    for error in (STAYING["a bug"], STAYING["full"], STAYING["s3fs 404"], ValueError("x")):
        assert as_os_error(error) is error


def test_what_ferstore_has_told_is_not_tried_again() -> None:
    assert not passes(caused(UnavailableError("told"), PASSING["gcsfs 503"]))


def test_a_condition_that_failed_is_known_however_it_is_told() -> None:
    assert is_taken(FileExistsError())
    assert is_taken(STAYING["s3fs 412"])
    assert is_taken(azure("ResourceModifiedError", 412))
    assert not any(is_taken(error) for error in [PASSING["s3fs 409"], STAYING["s3fs 404"], OSError()])


@pytest.mark.parametrize("name", NAMES)
def test_the_types_are_called_so_where_their_packages_are_installed(name: str) -> None:
    module, _, short = name.rpartition(".")
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"no {module.split('.')[0]} here")
    kind = getattr(importlib.import_module(module), short)
    assert f"{kind.__module__}.{kind.__qualname__}" == name
