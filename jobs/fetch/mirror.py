"""Archives from a web server: resumed where a download broke off, bounded, and checked before they get their name."""

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
from jobs.fetch.catalog import KnownArchive
from jobs.fetch.config import url_problem
from jobs.fetch.partial import PartialFile
from jobs.fetch.source import SourceDownError, SourceError
from jobs.files import sync
from jobs.progress import Progress

_ATTEMPTS = 3  # how often a broken transfer is taken up again
_BLOCK = 1 << 16
_MOST_BYTES = 1 << 30  # where the catalog does not know the size
_SLOWEST = 1024  # bytes/s; a server that sends less would keep a scheduled run waiting for hours
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _BrokenOffError(SourceError):
    """The transfer ended too early, or has to begin anew: worth another attempt."""


class Mirror:
    """One base URL. `timeout` in seconds holds for each connection and each read."""

    def __init__(self, base: str, timeout: float) -> None:
        self.name = base.rstrip("/") + "/"
        self._timeout = timeout
        self._opener = _opener()

    def get(self, role: Role, archive: KnownArchive, directory: Path) -> Path:
        """Download the archive's .gz. What arrived of it stays in a .part file, to be taken up by the next try."""
        target = directory / archive.gz_name
        with PartialFile(target.with_name(f"{target.name}.part")) as part:
            resumed = part.length > 0
            self._complete(archive, part)
            found = part.md5()
            if found != archive.gz_md5 and resumed:
                # The first bytes may be another server's fault: give this one a chance with all of them.
                part.cut(0)
                self._complete(archive, part)
                found = part.md5()
            if found != archive.gz_md5:
                part.cut(0)
                raise SourceError(f"found MD5 {found}, expected {archive.gz_md5}")
            part.finish(target)
        sync(directory)
        return target

    def _complete(self, archive: KnownArchive, part: PartialFile) -> None:
        """Download until the part is whole, or as often as is sensible."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._receive(archive, part)
            except _BrokenOffError as error:
                if attempt == _ATTEMPTS:
                    raise SourceError(f"{error} ({_ATTEMPTS} attempts)") from error

    def _receive(self, archive: KnownArchive, part: PartialFile) -> None:
        """Make one request, for what the part lacks, and append the answer."""
        done = part.length
        size = archive.gz_bytes
        if done == size:
            return
        with closing(self._open(archive, part, done)) as response:
            done, total = _extent(response, part, done)
            if size is not None and total not in (None, size):
                raise SourceError(f"offers {total} bytes, expected {size}")
            total = size if total is None else total
            limit = _MOST_BYTES if size is None else size
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
            raise SourceError(f"sends more than the {limit} bytes expected")
        if total is not None and done < total:
            raise _BrokenOffError(f"broke off after {done} of {total} bytes")

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
                raise _BrokenOffError(f"has no bytes after {done}") from error
            raise SourceError(f"HTTP {error.code} {' '.join(str(error.reason).split())}") from error
        except (HTTPException, OSError) as error:
            raise SourceDownError(_reason(error)) from error


def _extent(response: HTTPResponse, part: PartialFile, done: int) -> tuple[int, int | None]:
    """Return at which byte the answer begins, 0 or `done`, and how long the whole file is, if the server says."""
    if response.status != 206:
        return 0, response.length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match and int(match[1]) == done > 0:
        return done, int(match[2])
    part.cut(0)
    raise _BrokenOffError(f"answers with another range than asked for ({response.headers.get('Content-Range')!r})")


def _blocks(response: HTTPResponse, timeout: float) -> Iterator[bytes]:
    """Yield the body as it arrives. Only network errors are caught here: a full disk is no fault of the mirror."""
    begin = time.monotonic()
    received = 0
    while True:
        try:
            block = response.read1(_BLOCK)
        except TimeoutError as error:
            raise SourceDownError(_reason(error)) from error
        except (HTTPException, OSError) as error:
            raise _BrokenOffError(f"broke off ({_reason(error)})") from error
        if not block:
            return
        received += len(block)
        if time.monotonic() - begin > timeout + received / _SLOWEST:
            raise SourceDownError(f"sends less than {_SLOWEST} bytes a second")
        yield block


class _CheckedRedirects(HTTPRedirectHandler):
    """Follows a redirect to where an archive may come from, and never from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        problem = url_problem(newurl.partition("?")[0])  # a redirect may well carry a signature
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
