"""Archives from a web server: downloads resume, are bounded in size and time, and are checked before they are renamed.

Hand-rolled on urllib because HTTP libraries leave resuming, size limits, a minimum speed and checked redirects to the
caller anyway, and a login node needs no other dependency this way.
"""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from jobs.archive import Role
from jobs.fetch.config import url_problem
from jobs.fetch.data_set import KnownArchive
from jobs.fetch.partial import PartialFile
from jobs.fetch.source import SourceDownError, SourceError
from jobs.files import sync
from jobs.progress import Progress

_ATTEMPTS = 3  # of an interrupted transfer
_BLOCK = 1 << 16
_MAX_BYTES = 1 << 30  # if the catalog does not know the size
_MIN_SPEED = 1024  # bytes/s: a slower server would delay a scheduled run for hours
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _InterruptedError(SourceError):
    """The transfer ended too early, or must restart: worth another attempt."""


class Mirror:
    """One base URL. `timeout`: seconds for each connection and each read."""

    def __init__(self, base: str, timeout: float) -> None:
        self.name = base.rstrip("/") + "/"
        self._timeout = timeout
        self._opener = _opener()

    def get(self, role: Role, archive: KnownArchive, directory: Path) -> Path:
        """Download the archive's .gz. If that fails, a .part file keeps what arrived, and the next try resumes it."""
        target = directory / archive.gz_name
        with PartialFile(target.with_name(f"{target.name}.part")) as part:
            resumed = part.length > 0
            self._complete(archive, part)
            digest = part.md5()
            if digest != archive.gz_md5 and resumed:
                # Another server may have sent the first bytes: download all of them from this one.
                part.cut(0)
                self._complete(archive, part)
                digest = part.md5()
            if digest != archive.gz_md5:
                part.cut(0)
                raise SourceError(f"found MD5 {digest}, expected {archive.gz_md5}")
            part.finish(target)
        sync(directory)
        return target

    def _complete(self, archive: KnownArchive, part: PartialFile) -> None:
        """Download until the file is complete; resume at most _ATTEMPTS − 1 times."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._receive(archive, part)
            except _InterruptedError as error:
                if attempt == _ATTEMPTS:
                    raise SourceError(f"{error} ({_ATTEMPTS} attempts)") from error

    def _receive(self, archive: KnownArchive, part: PartialFile) -> None:
        """Request the missing bytes once, and append the answer."""
        done = part.length
        size = archive.gz_bytes
        if done == size:
            return
        with closing(self._open(archive, part, done)) as response:
            done, total = _extent(response, part, done)
            if size is not None and total not in (None, size):
                raise SourceError(f"offers {total} bytes, expected {size}")
            total = size if total is None else total
            limit = _MAX_BYTES if size is None else size
            part.cut(done)
            with Progress(archive.gz_name, total, "bytes") as shown:
                for block in _blocks(response, self._timeout):
                    done += len(block)
                    if done > limit:
                        break
                    part.write(block)
                    shown.update(done)
        if done > limit:
            part.cut(0)
            raise SourceError(f"sends more than the expected {limit} bytes")
        if total is not None and done < total:
            raise _InterruptedError(f"the transfer ended after {done} of {total} bytes")

    def _open(self, archive: KnownArchive, part: PartialFile, done: int) -> HTTPResponse:
        headers = {"User-Agent": "idxtrain", "Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        request = Request(self.name + archive.gz_name, headers=headers)  # noqa: S310 (the config checked the scheme)
        try:
            return self._opener.open(request, timeout=self._timeout)
        except HTTPError as error:
            error.close()
            if done and error.code == 416:
                part.cut(0)
                raise _InterruptedError(f"has no bytes after {done}") from error
            raise SourceError(f"HTTP {error.code} {' '.join(str(error.reason).split())}") from error
        except (HTTPException, OSError) as error:
            raise SourceDownError(_reason(error)) from error


def _extent(response: HTTPResponse, part: PartialFile, done: int) -> tuple[int, int | None]:
    """Return the byte at which the answer starts, 0 or `done`, and the length of the whole file, None if unknown."""
    if response.status != 206:
        return 0, response.length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match and int(match[1]) == done > 0:
        return done, int(match[2])
    part.cut(0)
    raise _InterruptedError(f"answers with another range than requested ({response.headers.get('Content-Range')!r})")


def _blocks(response: HTTPResponse, timeout: float) -> Iterator[bytes]:
    """Yield the body as it arrives. Catches network errors alone: a full disk is not the mirror's fault."""
    begin = time.monotonic()
    received = 0
    while True:
        try:
            block = response.read1(_BLOCK)
        except TimeoutError as error:
            raise SourceDownError(_reason(error)) from error
        except (HTTPException, OSError) as error:
            raise _InterruptedError(f"the transfer ended early ({_reason(error)})") from error
        if not block:
            return
        received += len(block)
        if time.monotonic() - begin > timeout + received / _MIN_SPEED:
            raise SourceDownError(f"sends less than {_MIN_SPEED} bytes/s")
        yield block


class _CheckedRedirects(HTTPRedirectHandler):
    """Follows redirects only to URLs that archives may come from, and never from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        problem = url_problem(newurl.partition("?")[0])  # a redirect may have a signature in its query
        downgrade = req.type == "https" and not newurl.lower().startswith("https:")
        if problem or downgrade:
            fp.close()
            raise SourceError(f"redirects to {newurl!r}, which {problem or 'is not https://'}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    return build_opener(_CheckedRedirects)


def _reason(error: Exception) -> str:
    """Return a network error on one line, without Python's wrapping."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return " ".join(text.split()) or type(cause).__name__
