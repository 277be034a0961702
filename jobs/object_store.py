"""Folders in an object store or in Hadoop, such as s3://bucket/folder: what readers and writers of them share.

fsspec opens them (https://filesystem-spec.readthedocs.io). Credentials come from where its clients look for them, for
S3 the variables AWS_… and ~/.aws, and from nowhere else: a URL has none, so config, logs and records have none.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from jobs.errors import IdxtrainError, InputError, StoreLostError, one_line

T = TypeVar("T")

BLOCK = 8 << 20  # bytes that are read at a time, and again after a lost connection
ATTEMPTS = 3  # of a block, an upload or a question, beside those of the client itself
PAUSE_SECONDS = 1.0  # before the second attempt, and twice that before the third
_REMOTE = re.compile(r"(s3a?|hdfs)://")
_PROTOCOLS = {"s3": "s3", "s3a": "s3", "hdfs": "hdfs"}
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Names of the clients' errors, of which some are no OSErrors, that no other attempt can help.
_LASTING = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError")


def is_remote(text: str) -> bool:
    """Return whether a folder is a URL of an object store or of Hadoop."""
    return _REMOTE.match(text) is not None


def require_url(url: str) -> str:
    """Return a remote folder's URL; raise ValueError for one that has credentials, or is not one of a folder."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("found a user name or password in the URL, expected none, as a run's config is shared")
    if not is_remote(url) or not parts.netloc or parts.query or parts.fragment or not url.isprintable():
        # What comes after ? may be a secret.
        raise ValueError(f"found {url.partition('?')[0]!r} and a query, or no bucket, expected s3://bucket/folder")
    return url


def file_system(url: str, option: str) -> Any:
    """Return fsspec's file system of a URL. Raises InputError, with the option's name, if its package is missing."""
    protocol, _, rest = url.partition("://")
    try:
        # Clients are not for use after a fork: Spark forks its workers.
        return _file_system(_PROTOCOLS[protocol], rest.partition("/")[0], os.getpid())
    except ImportError as error:
        raise InputError(
            f"{option} {url}: found no package {error.name or 's3fs'}, expected it for this location; fix: "
            "`.uv/bin/uv sync --extra s3`"
        ) from error


@cache  # one for all files of a bucket: each client takes 11 to 15 MB, and is kept
def _file_system(protocol: str, server: str, process: int) -> Any:
    import fsspec

    host, _, port = server.partition(":")
    address = {"host": host, **({"port": int(port)} if port else {})} if protocol == "hdfs" else {}
    return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **address)


def path_of(system: Any, url: str) -> str:
    """Return the path of a URL in its file system."""
    path: str = system._strip_protocol(url.replace("s3a://", "s3://", 1)).rstrip("/")
    return path


def read_blocks(system: Any, what: str, path: str, start: int, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` on. After a lost connection it continues where that was.

    `what`: the file in messages. `size`: of the whole file. Raises StoreLostError if it cannot be read to its end;
    PermissionError or FileNotFoundError as the client does.
    """
    while start < size:
        end = min(start + BLOCK, size)

        def read(first: int = start, last: int = end) -> bytes:
            block: bytes = system.cat_file(path, start=first, end=last)
            if not 0 < len(block) <= last - first:
                raise EOFError(f"found {len(block)} bytes")
            return block

        block = attempt(read, f"{what}: the transfer ended after {start} of {size} bytes")
        yield block
        start += len(block)


def attempt(action: Callable[[], T], problem: str) -> T:
    """Return the result of an action on a store, tried again after an error that may pass.

    Raises StoreLostError after the last attempt, which begins with `problem`; other errors as the client does.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (PermissionError, FileNotFoundError, IdxtrainError):
            raise
        except Exception as error:  # each client has its own for a connection that is cut
            if is_lasting(error):
                raise
            if number == ATTEMPTS:
                raise StoreLostError(
                    f"{problem} ({reason(error)}, {ATTEMPTS} attempts); fix: run the same command again, which resumes"
                ) from None  # the cause may hold what `reason` leaves out
            time.sleep(PAUSE_SECONDS * number)
    raise AssertionError  # not reached


def is_lasting(error: Exception) -> bool:
    """Return whether another attempt at the same cannot help: a full disk here, or missing credentials."""
    return type(error).__name__ in _LASTING or bool(isinstance(error, OSError) and error.filename)


@contextmanager
def reporting(what: str, missing: str = "found no such folder; fix: correct the URL") -> Iterator[None]:
    """Turn a client's errors into one line without credentials, InputErrors but for errors of this machine.

    Only calls of the client belong inside: an OSError of this machine that names no file passes for one of the client.
    `what`: the option and URL. `missing`: what to report, with the fix, if there is no such file.
    """
    try:
        yield
    except IdxtrainError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{what}: {missing}") from error
    except OSError as error:
        if error.filename:  # of this machine, such as a full disk
            raise
        raise _unreachable(what, error) from None
    except Exception as error:  # botocore's own, such as for missing credentials
        raise _unreachable(what, error) from None


def _unreachable(what: str, error: Exception) -> InputError:
    return InputError(
        f"{what}: no access ({reason(error)}); fix: correct the URL or the credentials, for S3 AWS_PROFILE or "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL of another server than Amazon's"
    )


def reason(error: Exception) -> str:
    """Return an error on one line, without the values of credentials."""
    text = one_line(error) or type(error).__name__
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, f"${name}")
    return text
