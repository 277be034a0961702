"""`idxtrain retrain` as cron runs it: one data folder to which pairs are added, one work directory, in this order."""

import json
import os
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
from pipelines.retraining.retrain_dir import RetrainDir
from tests.conftest import ODD_FOLDER, Idxtrain, MakeArchives
from tests.support.odd_answers import ANSWERS, SECRET, odd_server
from tests.support.open_files import allowed

# Of 200 test images one is half a percent, so that the default delta could never be shown.
SETTINGS = {"train.batch_size": 32, "train.epochs": 3, "train.learning_rate": 0.003, "gate.delta": 0.05}
NOBODY = "http://127.0.0.1:1"  # no registry answers there


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Iterator[Path]:
    """Return a folder; without a umask for as long as it is used."""
    folder = tmp_path_factory.mktemp("retrain") / ODD_FOLDER
    make_archives(folder / "data", (12, 20), 3, train=600, test=200)
    umask = os.umask(0)
    yield folder
    os.umask(umask)


def options(place: Path, *more: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    return ["--data", str(place / "data"), "--work", str(place / "work"), *settings, *more]


def retrain(idxtrain: Idxtrain, place: Path, *more: str, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Return the line on stdout, and stderr."""
    done = idxtrain("retrain", *options(place, *more), env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def models(idxtrain: Idxtrain, place: Path, *what: str) -> str:
    done = idxtrain("models", *what, "--name", "data", "--work", place / "work")
    assert done.returncode == 0, done.stderr
    return done.stdout


def aliases(idxtrain: Idxtrain, place: Path) -> dict[int, str]:
    """Return the aliases of each version, as `models list` shows them."""
    rows = [line.split(maxsplit=5) for line in models(idxtrain, place, "list").splitlines()[1:]]
    return {int(row[0]): row[5] if len(row) > 5 else "" for row in rows}


def add_pair(place: Path, make_archives: MakeArchives, tag: str, rows: int, change: str = "") -> None:
    """Add a training pair under a tag. `change`: "labels" are all wrong, or pixels "inverted"."""
    made = make_archives(place / f"made-{tag}", (12, 20), 3, train=rows, gz=False, seed=len(tag))
    images, labels = (idx.read(made[role].path) for role in ("train_images", "train_labels"))
    if change == "labels":
        labels = ((labels + 1) % 3).astype(np.uint8)
    if change == "inverted":
        images = 255 - images
    idx.write(place / f"data/train-images-{tag}-idx3-ubyte", images)
    idx.write(place / f"data/train-labels-{tag}-idx1-ubyte", labels)


def last_decision(place: Path) -> dict[str, Any]:
    files = Work(place / "work").runs.glob("*/decision.json")
    decision: dict[str, Any] = json.loads(max(files, key=lambda file: file.stat().st_mtime_ns).read_text())
    return decision


def failed(decision: dict[str, Any]) -> list[str]:
    return [check["name"] for check in decision["checks"] if check["blocks"] and not check["holds"]]


def test_without_its_registry_the_run_is_kept(idxtrain: Idxtrain, place: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    teller = f"{sys.executable} -c \"import sys; open('{told}', 'w').write(sys.stdin.read())\""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": NOBODY}
    line, said = retrain(idxtrain, place, "--notify", teller, env=environment)
    assert line.startswith("not registered yet: data: the registry is away")
    assert f"the model registry at {NOBODY}" in said
    news = json.loads(told.read_text())
    assert (news["event"], news["name"], news["version"]) == ("waiting", "data", None)
    assert Path(news["report"]).read_text().startswith("<!doctype html>")


def test_sync_registers_it_and_it_is_promoted(idxtrain: Idxtrain, place: Path) -> None:
    assert "data: 1 registered, 0 waiting" in models(idxtrain, place, "sync")
    assert aliases(idxtrain, place) == {1: "champion"}
    assert "data: 0 registered, 0 waiting" in models(idxtrain, place, "sync")


def test_serving_code_loads_the_champion_as_mlflows_users_expect(place: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(tracking_uri(Work(place / "work"), {}))
    model = mlflow.pyfunc.load_model("models:/data@champion")
    probabilities = np.asarray(model.predict(np.zeros((2, 12, 20, 1), np.float32)))
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_nothing_new_is_said_and_nothing_heavy_loaded(idxtrain: Idxtrain, place: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "retrain", *options(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing new: ")
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "pydantic" in loaded
    assert not loaded & {"mlflow", "tensorflow", "pyspark", "horovod", "petastorm"}
    assert list(aliases(idxtrain, place)) == [1]


def test_of_a_new_pair_only_it_is_decoded(idxtrain: Idxtrain, place: Path, make_archives: MakeArchives) -> None:
    add_pair(place, make_archives, "monday", 130)
    line, said = retrain(idxtrain, place)
    assert [line for line in said.splitlines() if "rows decoded" in line] == ["prepare: pair monday: 130 rows decoded"]
    assert line.startswith("promoted: data version 2; test accuracy ")
    assert aliases(idxtrain, place) == {2: "champion", 1: "previous"}
    decision = last_decision(place)
    assert decision["champion"]["version"] == 1
    assert {"accuracy", "recall", "model loads", "same predictions", "not worse"} <= {
        c["name"] for c in decision["checks"]
    }
    (run,) = [run for run in Work(place / "work").runs.iterdir() if run.name == decision["run_id"]]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["train"]["images"] == 3 * (600 - 50 + 130 - 10)  # of all pairs, validation rows left out


def test_odd_answers_and_a_damaged_copy_cost_no_training(idxtrain: Idxtrain, place: Path) -> None:
    """The news that were not told stay, the secret stays out of all files, and the champion's copy is fetched again."""
    memory = RetrainDir(Work(place / "work"), "data")
    memory.write("news", {"id": "r-promoted", "event": "promoted"})
    champion = memory.read("champion")
    assert champion is not None
    memory.champion_file(champion).write_bytes(b"half a file")
    log = place / "work/retrain/data/odd.log"
    notify = f"printf '\\377' {SECRET}"
    with odd_server() as odd:
        odd.answer = ANSWERS[1]  # another protocol
        environment = {**os.environ, "IDXTRAIN_WEBHOOK": odd.url}
        done = idxtrain("retrain", *options(place), "--notify", notify, "--log", log, env=environment)
    assert done.returncode == 0, done.stderr
    said = log.read_text()
    assert "\nnothing new: " in said
    assert "fetched it again from the registry" in said
    assert "the webhook failed: BadStatusLine" in said
    assert memory.has_copy(champion)
    assert memory.read("news") is not None
    assert [file for file in place.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()] == []
    retrain(idxtrain, place)
    assert memory.read("news") is None


def test_a_promotion_is_undone_with_one_command(idxtrain: Idxtrain, place: Path) -> None:
    assert "version 1 is the champion again" in models(idxtrain, place, "rollback")
    assert aliases(idxtrain, place) == {2: "previous", 1: "champion"}
    models(idxtrain, place, "promote", "2")
    assert aliases(idxtrain, place) == {2: "champion", 1: "previous"}


def test_of_ten_at_once_one_works_and_a_worse_challenger_stays_out(
    idxtrain: Idxtrain, place: Path, make_archives: MakeArchives
) -> None:
    add_pair(place, make_archives, "wrong", 1500, "labels")
    leak = place / "data/train-images-wrong-idx3-ubyte"
    images = idx.read(leak)
    images[:60] = idx.read(next((place / "data").glob("t10k-images-*")))[:60]
    idx.write(leak, images)
    command = [sys.executable, "-m", "pipelines.cli", "retrain", *options(place)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)]
    lines = [ended(process) for process in started]
    assert len([line for line in lines if line.startswith("nothing done: ")]) == 9, lines
    (worked,) = [line for line in lines if line.startswith("not promoted: data version 3: ")]
    assert "accuracy" in worked
    assert "short by" in worked
    decision = last_decision(place)
    assert {"accuracy", "recall", "not worse", "test images in training"} <= set(failed(decision))
    assert "60 of 200 test images are in the training data, too, at most 0 allowed" in decision["reason"]
    assert aliases(idxtrain, place) == {3: "challenger", 2: "champion", 1: "previous"}


def ended(process: "subprocess.Popen[str]") -> str:
    line, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return line.strip()


def remove_pair(place: Path, tag: str) -> None:
    for kind, form in (("images", "idx3"), ("labels", "idx1")):
        (place / f"data/train-{kind}-{tag}-{form}-ubyte").unlink()


def test_a_drifted_pair_is_reported_and_blocked_when_asked(
    idxtrain: Idxtrain, place: Path, make_archives: MakeArchives
) -> None:
    remove_pair(place, "wrong")
    add_pair(place, make_archives, "inverted", 130, "inverted")
    line, _ = retrain(idxtrain, place, "--set=gate.drift=block")
    assert line.startswith("not promoted: data version 4: ")
    decision = last_decision(place)
    drifted = [check for check in decision["checks"] if check["name"] == "drift of pixel mean" and not check["holds"]]
    assert "new pair inverted" in drifted[-1]["text"]
    assert set(failed(decision)) <= {"drift of pixel mean", "drift of pixel spread"}
    assert aliases(idxtrain, place)[2] == "champion"


def test_a_killed_retraining_is_gone_on_with(idxtrain: Idxtrain, place: Path, make_archives: MakeArchives) -> None:
    remove_pair(place, "inverted")
    add_pair(place, make_archives, "tuesday", 150)
    command = [sys.executable, "-m", "pipelines.cli", "retrain", *options(place)]
    before = set(aliases(idxtrain, place))
    for marker in ("pending.json", "run"):
        kill_when(command, place, marker)
    line, said = retrain(idxtrain, place)
    assert "going on with run" in said
    assert line.startswith("promoted: ")
    assert len(set(aliases(idxtrain, place)) - before) == 1


def kill_when(command: Sequence[str], place: Path, marker: str) -> None:
    """Start a retraining, and kill -9 its process once it has written down what is under way, or has trained."""
    work = place / "work"
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


def test_nothing_of_all_that_may_be_written_by_everybody(place: Path) -> None:
    # MLflow leaves this where it loads a model: above, in this very process, which has no umask.
    ours = [line for line in allowed(place / "work", 0o002) if not line.endswith("/registered_model_meta")]
    assert ours == []
