"""`idxtrain predict` on a real run: the very predictions of `evaluate`, from every form of its test images.

The run's labels are negative and sparse, its classes have names, and its archives lie transposed.
"""

import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from jobs.archive import Role
from jobs.evaluate.predictions import read_predictions
from jobs.files import unfinished
from jobs.metrics import read_metrics
from jobs.prepare import idx
from jobs.run_dir import RunDir
from tests.conftest import Idxtrain, MakeArchives, idxtrain_in, put_archive
from tests.test_api import PAGE, python

pytestmark = pytest.mark.long

PROGRAM = Path(sys.executable).with_name("idxtrain")
LABELS = np.array([-3, 7, 300], np.int16)
NAMES = ("dot, left", "dot", "the other")
DESCRIPTION = f"""
orientation = "transpose"
class_names = {{ "-3" = "{NAMES[0]}", 7 = "{NAMES[1]}", 300 = "{NAMES[2]}" }}
"""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run. `images`, `labels`: its test archives. `expected`: what `evaluate` predicted for each row."""

    folder: Path
    run: RunDir
    images: Path
    labels: Path
    expected: pd.DataFrame

    @property
    def accuracy(self) -> str:
        test = read_metrics(self.run).test
        return f"accuracy {test.accuracy:.4f} ({test.errors} errors in {test.count})\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Trained:
    folder = tmp_path_factory.mktemp("predict")
    archives = make_archives(folder / "letters", (12, 20), train=600, test=1203)
    images_of: tuple[Role, Role] = ("train_images", "test_images")
    labels_of: tuple[Role, Role] = ("train_labels", "test_labels")
    for role in images_of:
        images = idx.read(archives[role].path)
        archives[role].path.unlink()
        archives[role] = put_archive(folder / "letters", role, images.swapaxes(1, 2), gz=True)
    for role in labels_of:
        labels = LABELS[idx.read(archives[role].path)]
        archives[role] = put_archive(folder / "letters", role, labels, gz=True)
    (folder / "letters/data.toml").write_text(DESCRIPTION, encoding="utf-8")
    done = idxtrain_in(folder)("run", "--data", "letters", "--run-id", "r1", "--set", "train.max_steps=12")
    assert done.returncode == 0, done.stderr
    run = RunDir(folder / "work/runs/r1")
    expected = read_predictions(run.predictions_file).to_pandas(use_threads=False)
    return Trained(
        folder=folder,
        run=run,
        images=archives["test_images"].path,
        labels=archives["test_labels"].path,
        expected=expected,
    )


@pytest.fixture(scope="module")
def predict(trained: Trained) -> Idxtrain:
    return idxtrain_in(trained.folder, (str(PROGRAM), "predict"))


def table(path: Path) -> pd.DataFrame:
    return pq.read_table(path, use_threads=False).to_pandas(use_threads=False)


def test_an_archive_gets_the_predictions_of_evaluate_bit_for_bit(trained: Trained, predict: Idxtrain) -> None:
    out = trained.folder / "rows.parquet"
    done = predict(trained.images, "--labels", trained.labels, "--out", out, "--top", 2)
    assert (done.returncode, done.stdout) == (0, f"1,203 images by run r1\n{trained.accuracy}"), done.stderr
    rows = table(out)
    assert rows.row.tolist() == trained.expected["index"].tolist() == list(range(1203))
    assert rows.label.tolist() == trained.expected.predicted.tolist()
    assert rows.probability.to_numpy().tobytes() == trained.expected.probability.to_numpy().tobytes()
    both = np.stack(trained.expected.probabilities.tolist())
    assert rows.probability_2.to_numpy().tobytes() == np.sort(both, axis=1)[:, 1].tobytes()
    assert dict(zip(rows.label, rows.name, strict=True)) == dict(zip(LABELS.tolist(), NAMES, strict=True))


def test_exported_pictures_and_arrays_get_the_same_predictions(trained: Trained, predict: Idxtrain) -> None:
    """The pictures are upright and in folders by class; a .npz has the arrays as archives store them."""
    images = idx.read(trained.images)
    np.savez(trained.folder / "a.npz", x_test=images, y_test=idx.read(trained.labels))
    (trained.folder / "upright").mkdir()
    from PIL import Image

    for row, image in enumerate(images[:60]):
        Image.fromarray(image.T).save(trained.folder / f"upright/{row:04}.png")
    done = predict("a.npz", "--out", "a.csv")
    assert done.stdout.endswith(trained.accuracy), done.stderr
    assert pd.read_csv(trained.folder / "a.csv").label.tolist() == trained.expected.predicted.tolist()
    done = predict("upright", "--top", 3)
    assert (done.returncode, done.stderr) == (0, "60 images by run r1\n")
    first, *lines = done.stdout.splitlines()
    assert first.startswith("picture,label,name,probability,label_2,name_2,probability_2,label_3,")
    assert [line.partition(",")[0] for line in lines] == [f"upright/{row:04}.png" for row in range(60)]
    assert [int(line.split(",")[1]) for line in lines] == trained.expected.predicted[:60].tolist()


def test_the_reader_of_a_pipe_may_leave_early(trained: Trained) -> None:
    command = f"{PROGRAM} predict {trained.images} --batch-size 50 | head -n 2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=trained.folder, capture_output=True, text=True, check=True)
    header, row, status = done.stdout.splitlines()
    assert (header, row[:2]) == ("row,label,name,probability", "0,")
    assert int(status) in (0, 128 + signal.SIGPIPE)  # 0: the pipe took all rows before head left
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def large(trained: Trained) -> Path:
    """Return an archive that takes minutes."""
    images = idx.read(trained.images)
    header = idx.Header(np.dtype("u1"), (1000 * len(images), *images.shape[1:]))
    path = trained.folder / "large.idx3"
    idx.write_blocks(path, header, (images for _ in range(1000)))
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 75), (signal.SIGKILL, -9)])
def test_a_prediction_that_is_stopped_leaves_no_file_under_its_name(
    trained: Trained, large: Path, number: signal.Signals, code: int
) -> None:
    folder = trained.folder / f"stopped-{number}"
    folder.mkdir()
    command = [str(each) for each in (PROGRAM, "predict", large, "--out", folder / "rows.csv")]
    with subprocess.Popen(command, cwd=trained.folder, stderr=subprocess.PIPE, text=True) as process:
        while not any(path.stat().st_size for path in unfinished(folder)):  # the first rows are written
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == code
    assert not (folder / "rows.csv").exists()
    if number != signal.SIGKILL:
        assert list(folder.iterdir()) == []
        assert messages.splitlines()[-1] == "idxtrain: interrupted"


def test_unusable_input_is_refused_before_the_model_is_loaded(trained: Trained, predict: Idxtrain) -> None:
    (trained.folder / "bad").mkdir(exist_ok=True)
    (trained.folder / "bad/cut.png").write_bytes(b"\x89PNG")
    begin = {path.name for path in trained.folder.iterdir()}
    for arguments, message in (
        (("missing.png",), "missing.png: found no such file or folder; fix: correct the path"),
        ((trained.images, "--top", 4), "--top: found 4, expected at most 3 classes of run r1; fix: ask for fewer"),
        ((trained.images, "--run-id", "r2"), "found no such run in"),
        ((trained.labels,), "found an archive of 1203 of int16, expected images of 20 x 12 x 1"),
        ((trained.images, "--out", "p.xls"), "--out p.xls: found no known suffix"),
        (("bad", "--out", "p.csv"), "bad: found 1 unusable picture, the first bad/cut.png: "),
    ):
        done = predict(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert {path.name for path in trained.folder.iterdir()} == begin


def test_the_lines_of_the_page_predict_as_evaluate_did(trained: Trained) -> None:
    (lines,) = re.findall(r"```python\n(from pipelines\.api import load_run\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(lines.strip().splitlines()) == 5
    code = f"""
import numpy as np
from pathlib import Path
from jobs.errors import InputError
from jobs.prepare import idx
images = idx.read(Path({str(trained.images)!r}))
{lines}
expected = trained.predictions()
assert list(rows.columns) == ["label", "name", "probability"]
assert rows.label.tolist() == expected.predicted.tolist()
assert (probabilities == np.stack(expected.probabilities)).all()
upright = (images.swapaxes(1, 2) / 255).astype(np.float32)
assert (trained.probabilities(upright) == probabilities).all()
assert np.allclose(trained.probabilities(upright[:7]), probabilities[:7])
assert list(trained.predict(images[:2], top=2).columns)[3:] == ["label_2", "name_2", "probability_2"]
assert trained.predict(images[:0]).empty
for wrong in (images[0], images * 1.0, upright - 1):
    try:
        trained.predict(wrong)
    except InputError as error:
        continue
    raise AssertionError(wrong.dtype)
"""
    done = python(code, trained.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
