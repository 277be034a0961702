"""Early stopping and the best epoch: the same after a kill and a stop as without."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
from safetensors.numpy import load_file

from tests.conftest import Idxtrain, MakeArchives

pytestmark = pytest.mark.long

EPOCH = 10  # steps
OPTIONS = (
    "--recipe=softmax", "--set=train.batch_size=16", "--set=train.max_steps=80", "--set=train.log_every=5",
    "--set=train.keep=best", "--set=train.keep_checkpoints=1", "--set=train.early_stopping=3",
    "--set=prepare.validation_rows=40", "--set=train.checkpoint_min_seconds=0",
)  # fmt: skip

# Rank 0 of a training whose validations are scripted. It gets a signal as it measures a step.
SCRIPTED = """
import os, signal, sys
from pathlib import Path
from jobs.tensorflow_import import import_tensorflow
import_tensorflow(Path(os.devnull))
from jobs.train import worker
errors, number, at = [9, 2, 4, 3, 2, 0, 0, 0], int(sys.argv.pop()), int(sys.argv.pop())
measure, validate = worker.Training._measure, worker.Training._validate
def signalled(training, step, rows):
    if step == at:
        signal.raise_signal(number)
    return measure(training, step, rows)
def scripted(training, step):
    wrong = errors[step // training.order.steps - 1]
    return {"accuracy": 1 - wrong / 40, "errors": wrong, "loss": 0.5, "count": 40}
worker.Training._measure, worker.Training._validate = signalled, scripted
from jobs.train.__main__ import main
from jobs.stage import run_as_process
run_as_process("train", main)
"""


def scripted(run: Path, at: int = -1, number: int = 0) -> int:
    """Train a run with scripted validations and return the exit code; send it a signal at a step."""
    command = [sys.executable, "-c", SCRIPTED, str(run), str(at), str(number)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def outputs(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "stages/train.json").read_text())["outputs"]
    return record


def test_a_killed_and_stopped_training_keeps_the_best_epoch_and_stops_early_as_a_whole_one_does(
    idxtrain: Idxtrain, make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", (8, 8), 3, train=200, test=20)
    whole, broken, rare = (tmp_path / "work/runs" / name for name in ("whole", "broken", "rare"))
    prepared = idxtrain("prepare", "--data", tmp_path / "data", "--work", tmp_path / "work", "--run-id=whole", *OPTIONS)
    assert prepared.returncode == 0, prepared.stderr
    for run in (broken, rare):
        shutil.copytree(whole, run)
    config = json.loads((rare / "config.json").read_text())
    config["train"]["checkpoint_min_seconds"] = 1000
    (rare / "config.json").write_text(json.dumps(config))
    assert scripted(whole) == 0
    # Where validations come too often for checkpoints, the one of a stop takes the best state along.
    assert scripted(rare, 4 * EPOCH + 5, signal.SIGTERM) == 75
    assert {path.name for path in (rare / "checkpoints").glob("*.safetensors")} == {
        "step-00000020.safetensors", "step-00000045.safetensors"
    }  # fmt: skip
    assert scripted(rare) == 0
    # Killed in the third epoch, whose best is the second; stopped in the fifth, when only the file has that state.
    assert scripted(broken, 2 * EPOCH + 5, signal.SIGKILL) == -signal.SIGKILL
    assert scripted(broken, 4 * EPOCH + 5, signal.SIGTERM) == 75
    assert scripted(broken) == 0
    for run in (whole, broken, rare):
        result = outputs(run)
        # No better validation in epochs 3 to 5: an equal one, in the fifth, is not better.
        assert (result["steps"], result["ended_by"], result["kept_step"]) == (5 * EPOCH, "early-stopping", 2 * EPOCH)
        assert result["validation"]["errors"] == 2
        state = load_file(run / "checkpoints/step-00000020.safetensors")
        saved = keras.models.load_model(run / "model.keras").get_weights()
        assert [array.tobytes() for array in saved] == [state[f"weight.{n}"].tobytes() for n in range(len(saved))]
    assert outputs(whole)["weights_sha256"] == outputs(broken)["weights_sha256"] == outputs(rare)["weights_sha256"]
