"""The token that clients must send: read from a private file or the environment, never from the command line."""

import hmac
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from jobs.errors import InputError

VARIABLE = "IDXTRAIN_TOKEN"
_TOKEN = re.compile(r"[!-~]{16,1000}")  # visible ASCII, as a header can carry it
_FIX = "fix: write one with `(umask 077; openssl rand -hex 32 > FILE)`"
_MOST_BYTES = 2000


def read_token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the token of `--token-file`, or else of IDXTRAIN_TOKEN; None without either.

    Raises InputError for a file that others can read, and for anything but 16 or more visible ASCII characters.
    """
    if file is not None:
        return _checked(_content(file).strip(), f"--token-file {file}")
    return _checked(environment[VARIABLE], VARIABLE) if VARIABLE in environment else None


def _content(file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"--token-file {file}: found no regular file, expected a token; {_FIX}")
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise InputError(
                    f"--token-file {file}: found mode {mode:04o}, expected 0600; fix: chmod 600, and change the token"
                )
            return opened.read(_MOST_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise InputError(f"--token-file {file}: cannot be read ({error.strerror}); {_FIX}") from error


def _checked(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        found = f"{len(token)} characters" if token.isascii() and token.isprintable() else "others"
        raise InputError(f"{where}: found {found}, expected 16 to 1,000 visible ASCII characters; {_FIX}")
    return token


def require_token(host: str, token: str | None) -> None:
    """Raise InputError if a server would listen beyond this machine without a token, or if the host has no address."""
    try:
        addresses = {str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: found no such address, expected one of this machine's") from error
    if token is None and not all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in addresses):
        raise InputError(f"--host {host}: found no token, expected one beyond loopback; fix: give --token-file FILE")


class Bearer:
    """The check of the header `Authorization: Bearer TOKEN`."""

    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    def admits(self, header: bytes) -> bool:
        """Return whether a header's value has the token; takes the same time wherever it differs."""
        scheme, _, given = header.partition(b" ")
        return hmac.compare_digest(given.strip(), self._expected) and scheme.lower() == b"bearer"
