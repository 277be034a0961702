"""Where MLflow's store is, and what is said when it is away. No MLflow here."""

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

# Whose exceptions tell of the store: google's protobuf reads what a server answers.
_SPEAKERS = frozenset({"mlflow", "requests", "sqlalchemy", "urllib3", "sqlite3", "google", "json"})

# MLflow's own settings: no telemetry, no minutes of retries where a server is gone.
CALM = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


# Its loaders read no pickle: not ours, nor those of serving code that inherits this environment.
SAFE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


class RegistryDownError(IdxtrainError):
    """The registry does not answer, or not as it should; what was to be registered is kept."""


def tracking_uri(work: Work, environment: Mapping[str, str]) -> str:
    """Return where the registry is: what the environment says, else a SQLite file in the work directory."""
    return environment.get(TRACKING_URI) or sqlite_uri(work.registry / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """Return the URI of a SQLite file, given by its absolute path."""
    path = str(database).replace("%", "%25").replace("?", "%3F")
    # MLflow makes folders of what follows "sqlite:///" as it stands: with the driver named, it leaves that alone.
    return f"sqlite:///{path}" if path == str(database) else f"sqlite+pysqlite:///{path}"


@contextmanager
def naming_registry(uri: str) -> Iterator[None]:
    """Turn what MLflow raises where its store is away or refuses into one line that names the store."""
    try:
        yield
    except IdxtrainError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _SPEAKERS and not isinstance(error, OSError):
            raise
        # Also as requests and urllib3 spell it: with a host in lower case, say.
        said = re.sub(r"://[^/\s]*@", "://", one_line(error).replace(uri, without_password(uri)))[:300]
        raise RegistryDownError(f"the model registry at {without_password(uri)}: {said}") from error


@contextmanager
def scratch(work: Work) -> Iterator[Path]:
    """Give a folder for temporary files, MLflow's own as well: what a kill leaves in it, `idxtrain prune` removes."""
    work.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def require_answer(uri: str) -> None:
    """Raise RegistryDownError where a server does not answer HTTP at once: MLflow itself would try for long."""
    if not is_server(uri):
        return
    faults: list[str] = ["no answer"]
    # A thread, as a time-out of a socket restarts with each byte that comes.
    probe = threading.Thread(target=_probe, args=(without_password(uri), faults), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS + 1)
    if faults:
        raise RegistryDownError(f"the model registry at {without_password(uri)}: {faults[-1]}")


def is_server(uri: str) -> bool:
    """Tell whether a store is reached over the network."""
    return uri.lower().startswith(("http://", "https://"))


def _probe(uri: str, faults: list[str]) -> None:
    """Take away the fault where the server answers; else append what was wrong."""
    try:
        request = urllib.request.Request(uri.rstrip("/") + "/health")  # noqa: S310 (http, https)
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310
            faults.clear()
    except urllib.error.HTTPError:
        faults.clear()  # it answers; what it wants, MLflow knows
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a URL, or a host name, that is none
        faults.append(one_line(error)[:300] or type(error).__name__)
