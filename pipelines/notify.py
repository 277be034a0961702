"""Tell somebody how a retraining went: a command of the user's gets the JSON on stdin, a webhook as its body.

The last outcome is told at least once. Its `id` tells a repetition, as after a kill, from news.
"""

import json
import logging
import shlex
import subprocess
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jobs.errors import InputError
from jobs.run_dir import one_line

WEBHOOK = "IDXTRAIN_WEBHOOK"  # from the environment: its URL is often a secret, which no command line may show
_SECONDS = 60
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

log = logging.getLogger("idxtrain")


def check(command: str | None, environment: Mapping[str, str]) -> None:
    """Raise InputError where nothing could be told this way."""
    try:
        if command is not None and not shlex.split(command):
            raise ValueError("found no command")
    except ValueError as error:
        raise InputError(f"--notify {command!r}: {error}, expected a command such as 'mail-me --urgent'") from error
    url = environment.get(WEBHOOK)
    if url:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise InputError(f"{WEBHOOK}: found no https:// URL (http:// only to this machine); mend the variable")


def notify(news: Mapping[str, Any], command: str | None, environment: Mapping[str, str]) -> bool:
    """Tell the news, and whether everybody has got it; a failure is a warning, as what was done is done."""
    text = json.dumps(news, indent=2)
    told = [_run(text, command)] if command else []
    told += [_post(text, environment[WEBHOOK])] if environment.get(WEBHOOK) else []
    return all(told)


def _run(text: str, command: str) -> bool:
    try:
        argv = shlex.split(command)
        done = subprocess.run(argv, input=text, text=True, timeout=_SECONDS, check=False, capture_output=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("retrain: --notify failed: %s", one_line(error)[:200])
        return False
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        log.warning("retrain: --notify ended with exit code %d: %s", done.returncode, last[:200])
    return not done.returncode


def _post(text: str, url: str) -> bool:
    try:
        request = urllib.request.Request(  # noqa: S310 (checked above)
            url, text.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
            return True
    except (OSError, ValueError) as error:
        log.warning("retrain: the webhook failed: %s", one_line(error)[:200].replace(url, WEBHOOK))
        return False
