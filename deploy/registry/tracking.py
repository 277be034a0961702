"""Where MLflow's store is, and the error when it does not answer. Imports no MLflow."""

import re
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from deploy.registry.versions import without_password
from jobs.errors import IdxtrainError, one_line
from jobs.run_dir import Work

TRACKING_URI = "MLFLOW_TRACKING_URI"

_PROBE_SECONDS = 10.0

# Packages whose exceptions mean a failing store. Protobuf (google) parses what a server answers.
_STORE_PACKAGES = frozenset({"mlflow", "requests", "sqlalchemy", "urllib3", "sqlite3", "google", "json"})

# Defaults for MLflow: no telemetry, and no minutes of retries when a server is down.
MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


# Makes MLflow's loaders refuse pickles, here and in serving code that inherits this environment.
MLFLOW_NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


class RegistryDownError(IdxtrainError):
    """The registry does not answer, or answers with an error. What waits for registration is kept."""


def tracking_uri(work: Work, environment: Mapping[str, str]) -> str:
    """Return the registry's URI: MLFLOW_TRACKING_URI if set, else a SQLite file in the work folder."""
    return environment.get(TRACKING_URI) or sqlite_uri(work.registry / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """Return the URI of a SQLite file, given by its absolute path."""
    path = str(database).replace("%", "%25").replace("?", "%3F")
    # MLflow takes the text after "sqlite:///" for a path, escapes included, and makes that folder. It does not do so
    # when the URI names the driver.
    return f"sqlite:///{path}" if path == str(database) else f"sqlite+pysqlite:///{path}"


@contextmanager
def naming_registry(uri: str) -> Iterator[None]:
    """Turn an exception of MLflow or its store into a RegistryDownError: one line that names the store."""
    try:
        yield
    except IdxtrainError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _STORE_PACKAGES and not isinstance(error, OSError):
            raise
        # requests and urllib3 may spell the URL differently, with the host in lower case: remove any password.
        reason = re.sub(r"://[^/\s]*@", "://", one_line(error).replace(uri, without_password(uri)))[:300]
        raise RegistryDownError(f"the model registry at {without_password(uri)}: {reason}") from error


@contextmanager
def scratch(work: Work) -> Iterator[Path]:
    """Yield a folder for temporary files, MLflow's included. `idxtrain prune` removes what a killed process leaves."""
    work.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def require_answer(uri: str) -> None:
    """Raise RegistryDownError unless a server answers HTTP at once: MLflow itself would retry for minutes."""
    if not is_server(uri):
        return
    faults: list[str] = ["no answer"]
    # A thread bounds the total time: a socket's timeout restarts with each byte received.
    probe = threading.Thread(target=_probe, args=(without_password(uri), faults), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS + 1)
    if faults:
        raise RegistryDownError(f"the model registry at {without_password(uri)}: {faults[-1]}")


def is_server(uri: str) -> bool:
    """Return whether a store is reached over HTTP."""
    return uri.lower().startswith(("http://", "https://"))


def _probe(uri: str, faults: list[str]) -> None:
    """Clear `faults` if the server answers; else append the reason."""
    try:
        request = urllib.request.Request(uri.rstrip("/") + "/health")  # noqa: S310 (http, https)
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310
            faults.clear()
    except urllib.error.HTTPError:
        faults.clear()  # it answers; MLflow's own request shows what it wants
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an invalid URL or host name
        faults.append(one_line(error)[:300] or type(error).__name__)
