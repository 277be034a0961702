"""The Python API as a notebook uses it: in a process of its own, by the lines that the page shows."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.metrics import read_metrics
from jobs.prepare import idx
from jobs.run_dir import RunDir
from tests.conftest import Idxtrain, MakeArchives

PAGE = Path(__file__).parent.parent / "pipelines/README.md"


def python(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def lines_of_the_page() -> str:
    code, *_ = re.findall(r"```python\n(from pipelines\.api.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    return str(code)


@pytest.mark.long
def test_the_lines_of_the_page_train_and_read_the_result(
    tmp_path: Path, make_archives: MakeArchives, idxtrain: Idxtrain
) -> None:
    archives = make_archives(tmp_path / "letters")
    other = tmp_path / "other-letters"
    other.mkdir()
    idx.write(other / "X.idx3", idx.read(archives["test_images"].path)[:50])
    labels = idx.read(archives["test_labels"].path)[:50].astype(np.int16)
    labels[:7] = -3  # a label that the model does not know
    idx.write(other / "y.idx1", labels)
    check = """
test = other.metrics.test
assert (test.count, test.unseen.count, test.unseen.classes[0].label) == (50, 7, -3)
expected = trained.predictions()[:50]
assert (other.predictions().predicted == expected.predicted).all()
assert test.errors == 7 + (expected.label != expected.predicted)[7:].sum()
assert other.metrics.run_id == trained.run_id and other.metrics.data.images.name == "X.idx3"
assert not (other.directory.path / "dataset").exists()
assert earlier.metrics == trained.metrics and earlier.config == trained.config
assert load_run().run_id == trained.run_id
assert run(config, run_id=trained.run_id).metrics == trained.metrics  # every stage is done
rows = trained.predictions()
assert len(rows) == trained.metrics.test.count and len(mistakes) == trained.metrics.test.errors
assert list(rows.columns) == ["index", "label", "predicted", "probability", "probabilities"]
"""
    done = python(lines_of_the_page() + check, tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "work/runs").iterdir()
    metrics = read_metrics(RunDir(folder))
    accuracy, caveats, *_ = done.stdout.splitlines()
    assert accuracy == str(metrics.test.accuracy)
    assert "100 test images are few" in caveats
    assert "evaluate: test accuracy" in done.stderr
    again = idxtrain("evaluate", "--data", "other-letters", "--set", "prepare.unseen_classes=ignore")
    assert again.returncode == 0, again.stderr
    evaluated = read_metrics(RunDir(folder / "evaluations/other-letters"))
    assert again.stdout == f"test accuracy {evaluated.test.accuracy:.4f} ({evaluated.test.errors} errors in 43)\n"
    assert "left-out-images" in [each.kind for each in evaluated.caveats]
    refused = idxtrain("evaluate", "--data", "other-letters", "--set", "train.epochs=9")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--set train.epochs: cannot differ from the run's, expected one of evaluate.batch_size" in refused.stderr
    assert read_metrics(RunDir(folder)) == metrics


def test_errors_are_exceptions_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """Also where stderr is no file, as in some notebooks, and in another thread than the main one."""
    (tmp_path / "empty").mkdir()
    code = """
import io, logging, signal, sys, threading
from jobs.errors import InputError
from pipelines.api import load_config, load_run, run

def refused(work):
    try:
        work()
    except InputError as error:
        return str(error)

handlers = [signal.getsignal(each) for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)]
assert "train.epocs" in refused(lambda: load_config(settings={"train.epocs": 1}))
assert "found no run" in refused(load_run)
config = load_config(data="empty", settings={"spark.properties": {"a.b": "c"}, "train.dropout": None})
assert config.spark.properties == {"a.b": "c"}
assert "empty" in refused(lambda: run(config))
sys.stderr = io.StringIO()
threads = []
thread = threading.Thread(target=lambda: threads.append(refused(lambda: run(config))))
thread.start()
thread.join()
assert "empty" in threads[0], threads
assert handlers == [signal.getsignal(each) for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)]
assert not logging.getLogger("idxtrain").handlers
assert not {"tensorflow", "pyspark", "pandas", "typer"} & set(sys.modules)
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.long
def test_an_interrupt_is_a_resumable_error(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "letters")
    code = """
import os, signal, threading, time
from pathlib import Path
from jobs.errors import ResumableError
from pipelines.api import load_config, run

def interrupt():
    while not Path("work/runs/r1/logs/prepare.log").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    run(load_config(data="letters"), run_id="r1")
except ResumableError as error:
    print(error)
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "prepare: stopped on request; `idxtrain run --run-id r1` resumes it\n"
