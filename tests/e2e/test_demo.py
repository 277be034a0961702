"""The demo of a trained network: drawn digits are recognized, and test images get the class of `evaluate`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from jobs.dataset import read_manifest, read_split
from jobs.demo.app import app
from jobs.demo.guard import QUERY
from jobs.demo.shown import Shown
from jobs.evaluate.predictions import read_predictions
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from pipelines.demo import shown_models
from tests.conftest import idxtrain_in
from tests.support.demo_server import TOKEN
from tests.support.redrawn import PLACES, WIDTHS, drawn, middle_line

pytestmark = pytest.mark.long

DRAWN = 120  # digits
RESIZED = {"polarity": "as-is", "center": "none", "scale": 0, "thicken": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> RunDir:
    """Return a run of `fast` on all of MNIST."""
    folder = tmp_path_factory.mktemp("demo")
    done = idxtrain_in(folder)("run", "--data", mnist_dir, "--dataset", "mnist", "--run-id", "fast-demo")
    assert done.returncode == 0, done.stderr
    return RunDir(folder / "work/runs/fast-demo")


@pytest.fixture(scope="module")
def model(run: RunDir) -> Shown:
    (shown,) = shown_models([None], "mnist", run.work.path)
    return shown


@pytest.fixture(scope="module")
def client(model: Shown) -> Iterator[TestClient]:
    with TestClient(app([model], TOKEN), base_url="http://localhost") as made:
        made.get("/", params={QUERY: TOKEN})
        yield made


@pytest.fixture(scope="module")
def test_images(run: RunDir) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images [n, 28, 28, 1] and labels [n] of the test split."""
    dataset = dataset_of(run)
    images, labels, _ = read_split(dataset, read_manifest(dataset), "test")
    return images, labels


def guess(client: TestClient, sheet: NDArray[np.uint8], **steps: Any) -> int:
    """Return the class that the demo shows first for a drawing."""
    headers = {"X-Size": str(len(sheet))}
    fit = client.post("/api/fit", params={"model": 0, **steps}, content=sheet.tobytes(), headers=headers).content
    frame = client.post("/api/look", params={"model": 0}, content=fit).content
    header = json.loads(frame[4 : 4 + int.from_bytes(frame[:4], "little")])
    return int(np.argmax(header["probabilities"]))


def test_digits_drawn_anywhere_with_any_pen_on_any_paper_are_recognized(
    client: TestClient, test_images: tuple[NDArray[Any], NDArray[Any]]
) -> None:
    images, labels = test_images
    variants = cycle(product(PLACES, WIDTHS, (False, True)))
    fitted, resized = 0, 0
    for image, label, (place, width, is_dark) in zip(images[:DRAWN], labels, variants, strict=False):
        ink = drawn(middle_line(image[..., 0]), width, place)
        sheet = np.subtract(255, ink, dtype=np.uint8) if is_dark else ink
        fitted += guess(client, sheet) == label
        resized += guess(client, sheet, **RESIZED) == label
    assert fitted >= 0.97 * DRAWN
    assert resized < 0.5 * DRAWN  # what the fitting is for


def test_1000_test_images_on_the_sheet_get_the_class_of_evaluate(
    client: TestClient, run: RunDir, test_images: tuple[NDArray[Any], NDArray[Any]]
) -> None:
    predicted = read_predictions(run.predictions_file, ["predicted"])["predicted"].to_pylist()
    for number, image in enumerate(test_images[0][:1000]):
        sheet = np.rint(image[..., 0] * 255).astype(np.uint8).repeat(10, axis=0).repeat(10, axis=1)
        steps = RESIZED if number % 2 else {}
        assert guess(client, sheet, **steps) == predicted[number]


def test_the_model_is_described_by_its_run(client: TestClient, run: RunDir) -> None:
    (facts,) = client.get("/api/models").json()["models"]
    metrics = json.loads(run.metrics_file.read_text())
    assert (facts["title"], facts["recipe"]) == ("run fast-demo", "fast")
    assert facts["accuracy"] == metrics["test"]["accuracy"]
    errors = client.get("/api/images?model=0&which=errors&count=200").json()
    assert len(errors) == min(200, metrics["test"]["errors"])
    assert all(each["label"] != each["predicted"] for each in errors)


def test_without_the_dataset_the_demo_shows_the_network_and_reports_what_is_gone(run: RunDir, tmp_path: Path) -> None:
    shutil.copytree(run.work.path, tmp_path / "work")
    (model,) = shown_models([run.run_id], "mnist", tmp_path / "work")
    shutil.rmtree(tmp_path / "work/datasets")
    with TestClient(app([model], TOKEN), base_url="http://localhost") as client:
        client.get("/", params={QUERY: TOKEN})
        answer = client.get("/api/images?model=0")
        assert (answer.status_code, len(answer.text.splitlines())) == (404, 1)
        assert "found no such folder, expected the dataset of the model; fix: prepare the data again" in answer.text
        sheet = np.zeros((280, 280), np.uint8)
        sheet[60:220, 135:150] = 255
        assert guess(client, sheet) == 1


def test_the_command_prints_its_address_answers_there_and_ends_with_ctrl_c(run: RunDir) -> None:
    program = str(Path(sys.executable).with_name("idxtrain"))
    command = [program, "demo", run.run_id, "--no-open", "--work", str(run.work.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
    ) as demo:
        assert demo.stdout is not None
        line = demo.stdout.readline()
        assert line.startswith("the demo is at http://127.0.0.1:")
        address = line.split()[4]
        models = urljoin(address, "/api/models")
        assert httpx.get(models).status_code == 403
        with httpx.Client() as client:
            assert client.get(address, headers={"Host": "evil.example"}).status_code == 403
            assert client.get(address).status_code == 200
            assert client.get(models).json()["models"][0]["title"] == "run fast-demo"
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=60)
    assert (demo.returncode, out, err) == (75, "", "idxtrain: interrupted\n")


def test_a_run_that_is_not_there_is_refused(run: RunDir) -> None:
    done = idxtrain_in(run.work.path.parent)("demo", "nothing", "--no-open")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--run-id nothing: found no such run" in done.stderr
