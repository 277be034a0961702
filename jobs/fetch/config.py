"""The config section of `fetch`: which data set, and where its archives may come from."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from jobs.config import Section

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def url_problem(url: str) -> str | None:
    """Return why archives are not fetched from this URL, or None: https, or http from this very machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError as error:
        return str(error)
    if not host or any(character.isspace() or not character.isprintable() for character in url):
        return "is not a URL such as https://example.org/mnist/"
    if parts.username is not None or parts.password is not None:
        return "carries a user name or password, which would be stored and logged"
    if parts.query or parts.fragment:
        return "has a query or a fragment; expected a base URL that file names are put behind"
    if parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK):
        return None
    return "is not https:// (http:// only from 127.0.0.1 or localhost)"


def _mirror(url: str) -> str:
    problem = url_problem(url)
    if problem:
        raise ValueError(f"{url!r} {problem}")
    return url


def _folder(data: str) -> str:
    if data and ("\0" in data or not Path(data).is_absolute()):
        raise ValueError(f"{data!r} is not an absolute path")
    return data


class FetchConfig(Section):
    """Which archives to use.

    `dataset`: a name of the catalog, or with `data` any name for data of one's own. `data`: absolute path of a folder
    with the archives; "" for none. `mirrors`: base URLs asked before the catalog's. `timeout_seconds`: how long a
    connection or a read may take. `offline`: ask no mirror. `parts`: make the dataset of parts, one each training pair,
    even where there is one pair, so that a pair that comes later is all that is decoded then; of several it always is.
    """

    dataset: str = Field(default="mnist", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    data: Annotated[str, AfterValidator(_folder)] = ""
    mirrors: tuple[Annotated[str, AfterValidator(_mirror)], ...] = ()
    timeout_seconds: float = Field(default=20, gt=0, le=600)
    offline: bool = False
    parts: bool = False
