"""`idxtrain retrain` as cron runs it: archive pairs are added to one data folder. The tests build on each other."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.registry.tracking import tracking_uri
from jobs.prepare import idx
from jobs.run_dir import Work
from pipelines.retraining.records import Champion, Notification
from pipelines.retraining.retrain_dir import RetrainDir
from tests.conftest import ODD_FOLDER, Idxtrain, MakeArchives
from tests.support.odd_answers import ANSWERS, SECRET, odd_server
from tests.support.open_files import allowed

pytestmark = pytest.mark.long

# One of 200 test images is half a percent, so these images could never show the default delta.
SETTINGS = {"train.batch_size": 32, "train.epochs": 3, "train.learning_rate": 0.003, "gate.delta": 0.05}
NO_REGISTRY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Iterator[Path]:
    """Return a folder, and run without a umask while it is used."""
    folder = tmp_path_factory.mktemp("retrain") / ODD_FOLDER
    make_archives(folder / "data", (12, 20), 3, train=600, test=200)
    umask = os.umask(0)
    yield folder
    os.umask(umask)


def options(folder: Path, *more: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    return ["--data", str(folder / "data"), "--work", str(folder / "work"), *settings, *more]


def retrain(idxtrain: Idxtrain, folder: Path, *more: str, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Return stdout, without its line break, and stderr."""
    done = idxtrain("retrain", *options(folder, *more), env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def models(idxtrain: Idxtrain, folder: Path, *what: str) -> str:
    done = idxtrain("models", *what, "--name", "data", "--work", folder / "work")
    assert done.returncode == 0, done.stderr
    return done.stdout


def aliases(idxtrain: Idxtrain, folder: Path) -> dict[int, str]:
    """Return the aliases of each version, as `models list` shows them."""
    rows = [line.split(maxsplit=5) for line in models(idxtrain, folder, "list").splitlines()[1:]]
    return {int(row[0]): row[5] if len(row) > 5 else "" for row in rows}


def add_pair(folder: Path, make_archives: MakeArchives, tag: str, rows: int, change: str = "") -> None:
    """Add a training pair under a tag. `change`: "labels" to make all incorrect, "inverted" or "mirrored" images."""
    pair = make_archives(folder / f"made-{tag}", (12, 20), 3, train=rows, gz=False, seed=len(tag))
    images, labels = (idx.read(pair[role].path) for role in ("train_images", "train_labels"))
    if change == "labels":
        labels = ((labels + 1) % 3).astype(np.uint8)
    if change == "inverted":
        images = 255 - images
    if change == "mirrored":
        images = images[:, :, ::-1]
    idx.write(folder / f"data/train-images-{tag}-idx3-ubyte", images)
    idx.write(folder / f"data/train-labels-{tag}-idx1-ubyte", labels)


def last_decision(folder: Path) -> dict[str, Any]:
    files = Work(folder / "work").runs.glob("*/decision.json")
    decision: dict[str, Any] = json.loads(max(files, key=lambda file: file.stat().st_mtime_ns).read_text())
    return decision


def failed(decision: dict[str, Any]) -> list[str]:
    return [check["name"] for check in decision["checks"] if check["blocks"] and not check["holds"]]


def test_while_the_registry_is_unreachable_the_run_waits(idxtrain: Idxtrain, folder: Path, tmp_path: Path) -> None:
    received = tmp_path / "received.json"
    command = f"{sys.executable} -c \"import sys; open('{received}', 'w').write(sys.stdin.read())\""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": NO_REGISTRY}
    line, stderr = retrain(idxtrain, folder, "--notify", command, env=environment)
    assert line.startswith("not registered yet: data: the registry is unreachable")
    assert f"the model registry at {NO_REGISTRY}" in stderr
    notification = json.loads(received.read_text())
    assert (notification["event"], notification["name"], notification["version"]) == ("waiting", "data", None)
    assert Path(notification["report"]).read_text().startswith("<!doctype html>")


def test_sync_registers_and_promotes_a_waiting_run(idxtrain: Idxtrain, folder: Path) -> None:
    assert "data: 1 registered, 0 waiting" in models(idxtrain, folder, "sync")
    assert aliases(idxtrain, folder) == {1: "champion"}
    assert "data: 0 registered, 0 waiting" in models(idxtrain, folder, "sync")


def test_mlflow_loads_the_champion_by_its_alias(folder: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(tracking_uri(Work(folder / "work"), {}))
    model = mlflow.pyfunc.load_model("models:/data@champion")
    probabilities = np.asarray(model.predict(np.zeros((2, 12, 20, 1), np.float32)))
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_predict_uses_the_champion(idxtrain: Idxtrain, folder: Path) -> None:
    images, labels = (next((folder / "data").glob(f"t10k-{kind}-*")) for kind in ("images", "labels"))
    model = ("--model", "@champion", "--name", "data", "--work", folder / "work")
    done = idxtrain("predict", images, "--labels", labels, *model)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1 + len(idx.read(labels))), done.stderr
    assert re.search(r"images by data version 1\naccuracy [01]\.\d{4} \(\d+ errors in \d+\)\n$", done.stderr)


def test_a_retraining_without_new_data_ends_without_loading_anything_heavy(idxtrain: Idxtrain, folder: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "retrain", *options(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing new; last outcome: ")
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "pydantic" in loaded
    assert not loaded & {"mlflow", "tensorflow", "pyspark", "horovod", "petastorm"}
    assert list(aliases(idxtrain, folder)) == [1]


def test_a_copy_of_a_pair_does_not_start_a_retraining(idxtrain: Idxtrain, folder: Path) -> None:
    for kind, form in (("images", "idx3"), ("labels", "idx1")):
        name = f"train-{kind}-{{}}{form}-ubyte.gz"
        shutil.copy(folder / "data" / name.format(""), folder / "data" / name.format("copy-"))
    line, stderr = retrain(idxtrain, folder)
    assert line.startswith("nothing new; last outcome: ")
    assert "retrain: pair copy has the same content as the untagged pair; it counts once" in stderr
    for path in (folder / "data").glob("*-copy-*"):
        path.unlink()


def test_only_a_new_pair_is_decoded(idxtrain: Idxtrain, folder: Path, make_archives: MakeArchives) -> None:
    add_pair(folder, make_archives, "monday", 130)
    line, stderr = retrain(idxtrain, folder)
    decoded = [line for line in stderr.splitlines() if "rows decoded" in line]
    assert decoded == ["prepare: pair monday: 130 rows decoded"]
    assert line.startswith("promoted: data version 2; test accuracy ")
    assert aliases(idxtrain, folder) == {2: "champion", 1: "previous"}
    decision = last_decision(folder)
    assert decision["champion"]["version"] == 1
    checks = {check["name"]: check for check in decision["checks"]}
    assert {"accuracy", "recall", "model loads", "same predictions", "not worse", "drift of features"} <= set(checks)
    assert "new pair monday: 50 of its images are at a distance of " in checks["drift of features"]["text"]
    assert checks["drift of features"]["holds"]
    (run,) = [run for run in Work(folder / "work").runs.iterdir() if run.name == decision["run_id"]]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["train"]["images"] == 3 * (600 - 50 + 130 - 10)  # of all pairs, without validation rows


def test_an_odd_webhook_and_a_damaged_copy_cause_no_training(idxtrain: Idxtrain, folder: Path) -> None:
    """The notification is kept, the secret is in no file, and the champion's copy is fetched again."""
    retrain_dir = RetrainDir(Work(folder / "work"), "data")
    retrain_dir.write(Notification(id="r-promoted", event="promoted", name="data", run_id="r", reason="it is better"))
    champion = retrain_dir.read(Champion)
    assert champion is not None
    retrain_dir.copy_of(champion).write_bytes(b"half a file")
    log = folder / "work/retrain/data/odd.log"
    notify = f"printf '\\377' {SECRET}"
    with odd_server() as odd:
        odd.answer = ANSWERS[1]  # another protocol
        environment = {**os.environ, "IDXTRAIN_WEBHOOK": odd.url}
        done = idxtrain("retrain", *options(folder), "--notify", notify, "--log", log, env=environment)
    assert done.returncode == 0, done.stderr
    stderr = log.read_text()
    assert "\nnothing new; last outcome: " in stderr
    assert "fetched it again from the registry" in stderr
    assert "the webhook failed: BadStatusLine" in stderr
    assert retrain_dir.has_copy(champion)
    assert retrain_dir.read(Notification) is not None
    assert [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()] == []
    retrain(idxtrain, folder)
    assert retrain_dir.read(Notification) is None


def test_a_rollback_undoes_a_promotion(idxtrain: Idxtrain, folder: Path) -> None:
    assert "version 1 is the champion again" in models(idxtrain, folder, "rollback")
    assert aliases(idxtrain, folder) == {2: "previous", 1: "champion"}
    models(idxtrain, folder, "promote", "2")
    assert aliases(idxtrain, folder) == {2: "champion", 1: "previous"}


def test_one_of_ten_concurrent_retrainings_works_and_rejects_a_worse_challenger(
    idxtrain: Idxtrain, folder: Path, make_archives: MakeArchives
) -> None:
    add_pair(folder, make_archives, "mislabeled", 1500, "labels")
    leak = folder / "data/train-images-mislabeled-idx3-ubyte"
    images = idx.read(leak)
    images[:60] = idx.read(next((folder / "data").glob("t10k-images-*")))[:60]
    idx.write(leak, images)
    command = [sys.executable, "-m", "pipelines.cli", "retrain", *options(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)]
    lines = [ended(process) for process in started]
    assert len([line for line in lines if line.startswith("nothing done: ")]) == 9, lines
    (worked,) = [line for line in lines if line.startswith("not promoted: data version 3: ")]
    assert "accuracy" in worked
    assert "short by" in worked
    decision = last_decision(folder)
    assert {"accuracy", "recall", "not worse", "test images in training"} <= set(failed(decision))
    assert "60 of 200 test images are also in the training data, expected at most 0" in decision["reason"]
    assert aliases(idxtrain, folder) == {3: "challenger", 2: "champion", 1: "previous"}


def ended(process: "subprocess.Popen[str]") -> str:
    line, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return line.strip()


def remove_pair(folder: Path, tag: str) -> None:
    for kind, form in (("images", "idx3"), ("labels", "idx1")):
        (folder / f"data/train-{kind}-{tag}-{form}-ubyte").unlink()


def test_drifted_pairs_are_reported_and_block_if_configured(
    idxtrain: Idxtrain, folder: Path, make_archives: MakeArchives
) -> None:
    remove_pair(folder, "mislabeled")
    add_pair(folder, make_archives, "inverted", 130, "inverted")
    add_pair(folder, make_archives, "mirrored", 150, "mirrored")  # its mean and spread are the same
    line, _ = retrain(idxtrain, folder, "--set=gate.drift=block")
    assert line.startswith("not promoted: data version 4: ")
    decision = last_decision(folder)
    drifted = [check for check in decision["checks"] if check["name"] == "drift of pixel mean" and not check["holds"]]
    assert "new pair inverted" in drifted[-1]["text"]
    features = {check["text"].partition(":")[0]: check for check in decision["checks"] if "features" in check["name"]}
    assert [(pair, check["holds"]) for pair, check in features.items()] == [
        ("new pair inverted", False), ("new pair mirrored", False),
    ]  # fmt: skip
    assert {"drift of features"} <= set(failed(decision)) <= {
        "drift of features", "drift of pixel mean", "drift of pixel spread",
    }  # fmt: skip
    assert aliases(idxtrain, folder)[2] == "champion"


def test_a_killed_retraining_is_resumed_with_the_same_run(
    idxtrain: Idxtrain, folder: Path, make_archives: MakeArchives
) -> None:
    remove_pair(folder, "inverted")
    remove_pair(folder, "mirrored")
    add_pair(folder, make_archives, "tuesday", 150)
    command = [sys.executable, "-m", "pipelines.cli", "retrain", *options(folder)]
    before = set(aliases(idxtrain, folder))
    for marker in ("pending.json", "run"):
        kill_when(command, folder, marker)
    line, stderr = retrain(idxtrain, folder)
    assert "resuming run" in stderr
    assert line.startswith("promoted: ")
    assert len(set(aliases(idxtrain, folder)) - before) == 1


def kill_when(command: Sequence[str], folder: Path, marker: str) -> None:
    """Start a retraining, and kill -9 its process once pending.json is written or, for "run", training is done."""
    work = folder / "work"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        pending = work / "retrain/data/pending.json"
        if pending.exists():
            run = work / "runs" / json.loads(pending.read_text())["run_id"]
            if marker == "pending.json" or (run / "stages/train.json").exists():
                break
    assert process.poll() is None
    process.kill()
    process.wait()


def test_no_file_of_a_retraining_is_writable_by_everybody(folder: Path) -> None:
    # MLflow leaves this file where it loads a model: above, in this process, which has no umask.
    ours = [line for line in allowed(folder / "work", 0o002) if not line.endswith("/registered_model_meta")]
    assert ours == []
