"""The model registry, with MLflow itself: its SQLite file, its server, and serving code as MLflow's users write it."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.registry import tracking
from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError, tracking_uri
from deploy.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Entry, without_password
from jobs.errors import IdxtrainError, InputError
from jobs.files import sha256_file
from jobs.run_dir import RunDir, Work
from pipelines.retraining import register
from tests.support.mlflow_server import QUIET, MlflowServer, free_port
from tests.support.odd_server import odd_server

SHAPE = (6, 5, 1)
# Serving code that is independent of this project: it loads the champion and predicts.
SERVE = """
import numpy, mlflow
images = numpy.load("images.npy")
numpy.save("pyfunc.npy", mlflow.pyfunc.load_model("models:/digits@champion").predict(images))
numpy.save("keras.npy", mlflow.tensorflow.load_model("models:/digits@champion").predict(images, verbose=0))
"""
# The lines of the README, which avoid MLflow's loader.
README = """
import numpy
images = numpy.load("images.npy")

import keras, mlflow

file = mlflow.artifacts.download_artifacts("models:/digits@champion/data/model.keras")
model = keras.models.load_model(file, compile=False, safe_mode=True)
probabilities = model.predict(images, verbose=0)

numpy.save("readme.npy", probabilities)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small Keras file."""
    import keras

    keras.utils.set_random_seed(3)
    images = keras.Input(SHAPE)
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(images))
    path = tmp_path_factory.mktemp("run") / "model.keras"
    keras.Model(images, keras.layers.Softmax()(keras.layers.Dense(4)(x))).save(path)
    return path


@pytest.fixture
def entry(model: Path, tmp_path: Path) -> Entry:
    report = tmp_path / "report.html"
    report.write_text("<p>99 %</p>")
    return Entry(
        run_id="r1",
        model=model,
        model_sha256=sha256_file(model),
        shape=SHAPE,
        labels=(-1, 3, 5, 300),
        class_names=("minus one", "3", "5", "300"),
        parameters={"train.epochs": "3", "seed": "0"},
        metrics={"test_accuracy": 0.97, "test_errors": 30},
        curve=tuple(("train/loss", 1 / step, step) for step in range(1, 1500)),
        dataset_id="0123456789abcdef",
        data={"label_counts": [1, 2, 3, 4], "mean": 0.5},
        code={"code": "abc"},
        files=(report, tmp_path / "missing.html"),
    )


@pytest.fixture
def local(tmp_path: Path) -> Registry:
    return Registry(Work(tmp_path / "work"), "digits", {})


def test_a_run_is_registered_once_with_parameters_metrics_and_files(
    local: Registry, entry: Entry, tmp_path: Path
) -> None:
    from mlflow.models import Model

    assert local.versions() == []
    assert local.by_alias(CHAMPION) is None
    version = local.register(entry)
    assert (version.number, version.run_id, version.accuracy) == (1, "r1", 0.97)
    written = Model.load(next((tmp_path / "work/mlflow").rglob("MLmodel"))).metadata
    assert written == {"labels": [-1, 3, 5, 300], "class_names": ["minus one", "3", "5", "300"]}
    assert local.register(entry).number == 1
    assert [each.number for each in local.versions()] == [1]
    assert local.details(version)["parameters"] == {"train.epochs": "3", "seed": "0"}
    assert local.details(version)["metrics"]["test_accuracy"] == 0.97
    assert local.training_data(version) == entry.data
    copy = local.model_file(version, tmp_path / "copies")
    assert copy.read_bytes() == entry.model.read_bytes()

    import mlflow

    client = mlflow.MlflowClient(local.uri)
    run = client.search_runs([client.get_experiment_by_name("digits").experiment_id])[0]
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 1499
    assert run.inputs.dataset_inputs[0].dataset.name == entry.dataset_id
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "model",
        "report.html",
        "training-data.json",
    }


@pytest.mark.long
def test_serving_code_follows_the_alias(local: Registry, entry: Entry, tmp_path: Path) -> None:
    first, second = local.register(entry), local.register(replace(entry, run_id="r2"))
    local.set_alias(CHAMPION, first.number)
    local.set_alias(CHALLENGER, second.number)
    assert local.find("champion").number == local.find("r1").number == local.find("v1").number == 1
    local.set_alias(PREVIOUS, first.number)
    local.set_alias(CHAMPION, second.number)
    local.drop_alias(CHALLENGER)
    assert [(version.number, version.aliases) for version in local.versions()] == [
        (2, ("champion",)),
        (1, ("previous",)),
    ]
    images = np.random.default_rng(0).random((7, *SHAPE), np.float32)
    np.save(tmp_path / "images.npy", images)
    environment = os.environ | QUIET | {"MLFLOW_TRACKING_URI": local.uri}
    for code in (SERVE, README):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    import keras

    expected = keras.models.load_model(entry.model).predict(images, verbose=0)
    for flavour in ("pyfunc", "keras", "readme"):
        assert np.abs(np.load(tmp_path / f"{flavour}.npy") - expected).max() <= 1e-6


def test_an_unknown_version_and_a_damaged_model_file_are_refused(local: Registry, entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="digits: found no version, alias or run '7', expected one of: none"):
        local.find("7")
    version = local.register(entry)
    (file,) = (tmp_path / "work/mlflow/artifacts").rglob("model.keras")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IdxtrainError, match=r"version 1: found a model of SHA-256 .*fix: promote another"):
        local.model_file(version, tmp_path / "copies")


@pytest.mark.long
def test_after_a_killed_registration_there_is_no_version_and_the_next_attempt_makes_one(
    entry: Entry, tmp_path: Path
) -> None:
    """It is killed while it writes the model. A reader sees no version, and the next attempt leaves one run."""
    work = Work(tmp_path / "work")
    code = (
        "import os, sys; from pathlib import Path\n"
        "from deploy.registry import registry\nfrom tests.test_registry import entry_of\n"
        "def die(*_): os.kill(os.getpid(), 9)\n"
        "registry.write_model = die\n"
        "from jobs.run_dir import Work\n"
        "registry.Registry(Work(Path(sys.argv[1])), 'digits', {}).register(entry_of(Path(sys.argv[2])))"
    )
    done = subprocess.run([sys.executable, "-c", code, work.path, entry.model], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    registry = Registry(work, "digits", {})
    assert registry.versions() == []
    assert registry.orphans(keep=frozenset({"r1"})) == []
    assert registry.orphans() == ["r1"]
    version = registry.register(entry)
    assert (version.number, [each.number for each in registry.versions()]) == (1, [1])
    assert registry.orphans() == []
    assert len(list((work.registry / "artifacts/digits").iterdir())) == 1


class _Pickle:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._path,)


def test_a_pickle_beside_a_registered_model_is_never_read(local: Registry, entry: Entry, tmp_path: Path) -> None:
    import keras

    version = local.register(entry)
    (file,) = (tmp_path / "work/mlflow/artifacts").rglob("model.keras")
    for name in ("custom_objects.cloudpickle", "global_custom_objects.cloudpickle"):
        (file.parent / name).write_bytes(pickle.dumps(_Pickle(tmp_path / "ran")))
    images = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    expected = keras.models.load_model(entry.model).predict(images, verbose=0)
    assert np.abs(local.predict(version, images) - expected).max() <= 1e-6
    assert not (tmp_path / "ran").exists()
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"  # for MLflow's own loaders


def test_a_model_file_that_was_swapped_is_refused(local: Registry, entry: Entry, tmp_path: Path) -> None:
    version = local.register(entry)
    (file,) = (tmp_path / "work/mlflow/artifacts").rglob("model.keras")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(IdxtrainError, match=r"version 1: found a model of SHA-256 .*; fix: promote another version"):
        local.predict(version, np.zeros((1, *SHAPE), np.float32))
    run = RunDir(tmp_path / "work/runs/r1")
    run.path.mkdir(parents=True)
    np.savez(run.sample_file, images=np.zeros((1, *SHAPE), np.float32), probabilities=np.full((1, 4), 0.25))
    assert register._difference(run, local, version) == 1.0  # so that the gate rejects it


def test_another_users_version_tagged_with_a_runs_id_is_not_that_runs_version(
    local: Registry, entry: Entry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = local.register(replace(entry, run_id="r0"))
    own_version = local._client.get_model_version("digits", str(own.number))
    stranger = local._client.create_run(local._experiment())
    tags = {"idxtrain.run_id": "r1", "idxtrain.test_accuracy": "high"}
    complete = {**tags, "idxtrain.model_sha256": entry.model_sha256}
    location = f"{stranger.info.artifact_uri}/model"
    local._client.create_model_version("digits", location, stranger.info.run_id, tags=tags)  # no SHA-256
    local._client.create_model_version("digits", location, stranger.info.run_id, tags=complete)  # no model file
    local._client.create_model_version("digits", location, tags=complete)  # no MLflow run
    local._client.create_model_version("digits", location, own_version.run_id, tags=complete)  # another source
    assert len(local.versions()) == 5
    version = local.register(entry)
    assert version.number == 6
    assert sum("is not the model of run r1" in each.message for each in caplog.records) == 4
    assert local.model_file(version, tmp_path / "copies").read_bytes() == entry.model.read_bytes()
    assert local.register(entry).number == 6


def entry_of(model: Path) -> Entry:
    return Entry(
        run_id="r1",
        model=model,
        model_sha256=sha256_file(model),
        shape=SHAPE,
        labels=(-1, 3, 5, 300),
        class_names=("minus one", "3", "5", "300"),
        parameters={},
        metrics={},
        curve=(),
        dataset_id="0123456789abcdef",
        data={},
        code={},
        files=(),
    )


def test_removing_orphans_leaves_versions_and_other_users_runs(local: Registry, entry: Entry) -> None:
    local.register(entry)
    experiment = local._experiment()
    orphan = local._client.create_run(experiment, tags={"idxtrain.run_id": "r9"})
    stranger = local._client.create_run(experiment)  # another user's, in the same experiment
    assert local.orphans() == ["r9"]
    local.remove_registration("r9")
    remaining = {run.info.run_id for run in local._client.search_runs([experiment])}
    assert orphan.info.run_id not in remaining
    assert stranger.info.run_id in remaining
    assert len(remaining) == 2


def test_deleting_a_version_deletes_its_files_in_a_folder_of_any_name(entry: Entry, tmp_path: Path) -> None:
    folder = tmp_path / "ü (2) a,b#c?d 100%"
    folder.mkdir()
    local = Registry(Work(folder / "work"), "digits", {})
    first = local.register(entry)
    second = local.register(replace(entry, run_id="r2"))
    assert local.model_file(first, folder).read_bytes() == entry.model.read_bytes()
    local.delete(second)
    assert [version.run_id for version in local.versions()] == ["r1"]
    assert len(list((folder / "work/mlflow/artifacts/digits").iterdir())) == 1
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def test_the_password_of_a_url_is_removed() -> None:
    assert without_password("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert tracking_uri(Work(Path("/w")), {"MLFLOW_TRACKING_URI": "http://h"}) == "http://h"
    assert tracking_uri(Work(Path("/w")), {}) == "sqlite:////w/mlflow/mlflow.db"


# --- not a server


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:abc", "port"),
        ("http://127.0.0.1:1/a path", "control characters"),
        ("http://me:secret@127.0.0.1:abc", "port"),
        ("http://[bad", "IPv6"),
        ("http://", "no host"),
        ("http://a..b/", "label"),
        ("HTTP://127.0.0.1:1", "refused"),
        ("nothing://x", "nothing"),
    ],
)
def test_an_address_without_a_server_is_an_error_of_one_line(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryDownError) as error:
        Registry(Work(tmp_path / "work"), "digits", {"MLFLOW_TRACKING_URI": uri})
    message = str(error.value)
    assert message.startswith(f"the model registry at {without_password(uri)}: ")
    assert words in message
    assert "secret" not in message
    assert "\n" not in message


OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"",
        bytes(range(256)) * 40,
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK % (5, b"hello"),
        OK % (3, b"[1]"),
        OK % (38, b'{"registered_model": {"aliases": [7]}}'),
        b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_server_that_is_not_a_registry_counts_as_down(answer: bytes, tmp_path: Path) -> None:
    with odd_server(answer) as uri, pytest.raises(RegistryDownError, match=f"^the model registry at {uri}: [^\n]+$"):
        Registry(Work(tmp_path / "work"), "digits", {"MLFLOW_TRACKING_URI": uri}).versions()


def test_a_server_that_answers_byte_by_byte_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_PROBE_SECONDS", 1.0)
    with odd_server(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000, 0.2) as uri:
        begin = time.monotonic()
        with pytest.raises(RegistryDownError, match="no answer"):
            Registry(Work(tmp_path / "work"), "digits", {"MLFLOW_TRACKING_URI": uri})
    assert time.monotonic() - begin < 60


# --- a server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder, free_port())
    yield server.start()
    server.kill()


@pytest.mark.long
def test_a_server_keeps_versions_and_its_death_is_reported_at_once(
    server: MlflowServer, entry: Entry, tmp_path: Path
) -> None:
    registry = Registry(Work(tmp_path / "work"), "digits", server.environment)
    version = registry.register(entry)
    registry.set_alias(CHAMPION, version.number)
    assert registry.model_file(version, tmp_path / "copies").read_bytes() == entry.model.read_bytes()
    assert registry.training_data(version) == entry.data
    server.kill()
    with pytest.raises(RegistryDownError, match=f"the model registry at {server.uri}: "):
        registry.set_alias(PREVIOUS, version.number)
    begin = time.monotonic()
    with pytest.raises(RegistryDownError, match="refused"):
        Registry(Work(tmp_path / "work"), "digits", server.environment)
    assert time.monotonic() - begin < 5
    server.start()
    again = Registry(Work(tmp_path / "work"), "digits", server.environment).by_alias(CHAMPION)
    assert again is not None
    assert again.number == 1
    assert not (tmp_path / "work/mlflow").exists()
