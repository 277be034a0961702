"""Notify people of a retraining's outcome: a command gets the JSON on stdin, a webhook gets it as the body.

Each outcome is delivered at least once; a repetition, as after a kill, has the same `id`. Whatever the receiver does or
answers, nothing is raised and delivery takes at most two minutes. No text of the receiver is logged or kept: it could
hold the webhook's address, which is often a secret.
"""

import json
import logging
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from jobs.errors import InputError, printable
from pipelines.retraining.records import Notification

WEBHOOK = "IDXTRAIN_WEBHOOK"  # a variable: its URL is often a secret, which no command line may show
_SECONDS = 60.0  # limit for the command, and again for the webhook
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

log = logging.getLogger("idxtrain")


def check_targets(command: str | None, environment: Mapping[str, str]) -> None:
    """Raise InputError if the command or the webhook's address cannot be used."""
    try:
        if command is not None and not shlex.split(command):
            raise ValueError("found no command")
        if command is not None and "\0" in command:
            raise ValueError("found a NUL character")
    except ValueError as error:
        raise InputError(
            f"--notify {command!r}: {error}, expected a command such as 'mail-me --urgent'; fix: correct it"
        ) from error
    problem = _url_problem(environment.get(WEBHOOK) or "https://example.org/")
    if problem:
        raise InputError(f"{WEBHOOK}: {problem}; fix: correct the variable")


def _url_problem(url: str) -> str | None:
    """Return what is wrong with a webhook's address, without any of its text; None if it can be used."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "found spaces, control or non-ASCII characters, expected them percent-encoded"
    try:
        address = urlsplit(url)
        host, port = address.hostname, address.port
    except ValueError:  # its text quotes the address
        return "found an invalid host or port, expected https://HOST:PORT/…"
    if address.scheme != "https" and not (address.scheme == "http" and host in _LOOPBACK):
        return "found no https:// URL, expected one (http:// only to this machine)"
    if not host or port == 0:
        return "found no host, or port 0, expected https://HOST:PORT/…"
    if "@" in address.netloc:
        return "found a user name or password before the host, expected a token in the path or query"
    return None


def send(notification: Notification, command: str | None, environment: Mapping[str, str]) -> bool:
    """Deliver a notification; return whether every receiver got it. A failure is a warning: the retraining is done."""
    body = json.dumps(notification.to_json(), indent=2).encode()
    delivered = [_run(body, command)] if command else []
    delivered += [_post(body, environment[WEBHOOK])] if environment.get(WEBHOOK) else []
    return all(delivered)


def _run(body: bytes, command: str) -> bool:
    try:
        # A file, as a pipe would block or break if the command does not read it.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(body)
            stdin.seek(0)
            code = _exit_code(shlex.split(command), stdin.fileno())
    except subprocess.TimeoutExpired:
        log.warning("retrain: --notify failed: the command took more than %.0f s", _SECONDS)
    except FileNotFoundError:
        log.warning("retrain: --notify failed: found no program %s", printable(shlex.split(command)[0])[:100])
    except Exception as error:
        log.warning("retrain: --notify failed: %s", _kind(error))
    else:
        if code == 0:
            return True
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        log.warning("retrain: --notify ended with %s; fix: run the command by hand to see its output", how)
    return False


def _exit_code(argv: list[str], stdin: int) -> int:
    """Run a command and return its exit code; if it takes too long, kill its process group and raise TimeoutExpired."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen(argv, stdin=stdin, stdout=silent, stderr=silent, process_group=0)
    try:
        return process.wait(_SECONDS)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treat a redirect as a refusal: it could lead anywhere, and would be a GET without the body."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _post(body: bytes, url: str) -> bool:
    """Post in a thread: a socket's time limit is for each read, so a server that drips bytes would block forever."""
    results: list[Exception | None] = []

    def post() -> None:
        try:
            request = urllib.request.Request(  # noqa: S310 (checked by `check_targets`)
                url, body, {"Content-Type": "application/json"}
            )
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS):
                results.append(None)  # the body of the answer is not read
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    error = results[0] if results else TimeoutError()
    if isinstance(error, urllib.error.HTTPError):
        with suppress(Exception):
            error.close()
        log.warning("retrain: the webhook failed: found HTTP status %d, expected 2xx", error.code)
    elif error is not None:
        log.warning("retrain: the webhook failed: %s", _kind(error))
    return error is None


def _kind(error: Exception) -> str:
    """Return the kind of an error, without any text of the receiver."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    number = getattr(cause, "errno", None)
    words = os.strerror(number) if isinstance(number, int) and number > 0 else ""
    return f"{type(cause).__name__}{f' ({words})' if words else ''}"
