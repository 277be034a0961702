"""Where MLflow's store is, and what is said when it is away. No MLflow here."""

import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from deploy.versions import without_password
from jobs.errors import IdxtrainError, printable
from jobs.run_dir import Work, one_line

TRACKING_URI = "MLFLOW_TRACKING_URI"

_PROBE_SECONDS = 10.0

# MLflow's own settings: no telemetry, no minutes of retries where a server is gone.
CALM = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


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
        module = type(error).__module__.split(".")[0]
        if module not in ("mlflow", "requests", "sqlalchemy", "urllib3", "sqlite3") and not isinstance(error, OSError):
            raise
        said = printable(one_line(error))[:300].replace(uri, without_password(uri))
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
    """Raise OSError where a server does not answer at once: MLflow itself would try for long."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    request = urllib.request.Request(without_password(uri).rstrip("/") + "/health")  # noqa: S310 (http, https)
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # it answers; what it wants, MLflow knows
