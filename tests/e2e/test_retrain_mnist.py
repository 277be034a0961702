"""The README's retraining on the real MNIST: 55,000 images, and another 5,000 a week later."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from jobs.dataset import read_manifest
from jobs.prepare import idx
from jobs.run_dir import RunDir, Work
from jobs.stage import read_record
from tests.conftest import Idxtrain

pytestmark = pytest.mark.long


@pytest.mark.slow
def test_only_the_new_images_of_a_week_are_decoded(idxtrain: Idxtrain, mnist_dir: Path, tmp_path: Path) -> None:
    data, work = tmp_path / "data", Work(tmp_path / "work")
    data.mkdir()
    for path in mnist_dir.glob("t10k-*"):
        shutil.copy(path, data)
    week = {}
    for kind, form in (("images", "idx3"), ("labels", "idx1")):
        array = idx.read(mnist_dir / f"train-{kind}-{form}-ubyte.gz")
        idx.write(data / f"train-{kind}-{form}-ubyte", array[:55_000])
        week[data / f"train-{kind}-week2-{form}-ubyte"] = array[55_000:]
    options = ("retrain", "--data", data, "--work", work.path, "--set=train.max_steps=200")
    first = idxtrain(*options)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("promoted: data version 1; test accuracy 0.9")
    begin = time.monotonic()
    assert idxtrain(*options).stdout.startswith("nothing new; last outcome: ")
    assert time.monotonic() - begin < 2
    for path, array in week.items():
        idx.write(path, array)
    second = idxtrain(*options)
    assert second.returncode == 0, second.stderr
    assert re.findall(r"prepare: (.*) rows decoded", second.stderr) == ["pair week2: 5,000"]
    run = max((RunDir(folder) for folder in work.runs.iterdir()), key=lambda run: run.run_id)
    splits = read_manifest(Path(read_record(run, "prepare").outputs["dataset"])).splits
    assert splits["train"].rows + splits["validation"].rows == 60_000
    decision = json.loads(run.decision_file.read_text())
    assert decision["champion"]["version"] == 1
    assert decision["promote"] == second.stdout.startswith("promoted: data version 2; ")
    assert {"not worse", "drift of labels", "drift of pixel mean"} <= {check["name"] for check in decision["checks"]}
