"""What TensorBoard shows of a training, and `idxtrain tensorboard`."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from jobs.errors import InputError
from jobs.first_layer import colored, first_layer, mosaic
from jobs.run_dir import RunDir, Work
from jobs.train.telemetry.confusion_picture import confusion_picture
from jobs.train.telemetry.diagram import diagram
from pipelines.tensorboard import log_folder

WRITE = """
import sys
from pathlib import Path
import keras, numpy as np
from jobs.run_dir import RunDir
from jobs.train.telemetry.tensorboard import TensorBoardWriter
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.Flatten()])
writer = TensorBoardWriter(RunDir(Path(sys.argv[1])), 0)
writer.graph(model)
writer.measure("train", 1, loss=0.5)
writer.weights(model, 1)
writer.confusion(np.eye(2, dtype=int), ["a", "b"], 1)
writer.close()
"""


class Layer:
    """What is used of a Keras layer."""

    def __init__(self, *shape: int) -> None:
        self.name = "layer"
        self.weights = [np.arange(np.prod(shape), dtype=np.float32).reshape(shape)] if shape else []


class Model:
    """What is used of a Keras model for images of 4 × 5 × 1."""

    def __init__(self, *layers: Layer) -> None:
        self.input_shape = (None, 4, 5, 1)
        self.layers = [Layer(), *layers]


def test_the_graph_is_a_box_for_each_layer_with_its_weights_and_the_sizes_of_what_flows() -> None:
    import keras

    keras.utils.clear_session()  # Keras numbers the names of layers through all models of a process
    graph = diagram(models.build("residual", (28, 28, 1), 10))
    nodes = {node.name: node for node in graph.node}
    assert nodes["image"].op == "InputLayer"
    assert list(nodes["stem/Conv2D"].input) == ["image", "stem/kernel"]
    assert list(nodes["add"].input) == ["re_lu", "stage1_block1_second_norm/BatchNormalization"]  # x + f(x)
    assert {each for node in graph.node for each in node.input} <= set(nodes)
    (shape,) = nodes["stem/Conv2D"].attr["_output_shapes"].list.shape
    assert [dim.size for dim in shape.dim] == [-1, 28, 28, 16]
    unread = set(nodes) - {each for node in graph.node for each in node.input}
    assert unread == {"logits/Dense"}


def test_the_first_layer_is_a_tile_per_filter_or_per_output() -> None:
    convolution = first_layer(Model(Layer(3, 2, 1, 7)))
    assert convolution is not None
    assert convolution.is_convolution
    assert convolution.kernels.shape == (7, 3, 2, 1)
    assert convolution.kernels[3, 1, 1, 0] == Layer(3, 2, 1, 7).weights[0][1, 1, 0, 3]
    dense = first_layer(Model(Layer(20, 10)))
    assert dense is not None
    assert not dense.is_convolution
    assert dense.kernels.shape == (10, 4, 5, 1)
    for other in (Model(), Model(Layer(8)), Model(Layer(7, 10))):
        assert first_layer(other) is None


def test_a_kernel_is_orange_above_0_and_blue_below() -> None:
    image = colored(np.array([[-2.0, 0.0, 2.0]])[..., None])
    red, blue = image[0, :, 0], image[0, :, 2]
    assert (image[0, 1] == 1).all()
    assert blue[0] > red[0]
    assert red[2] > blue[2]
    assert colored(np.zeros((2, 2, 3))).tolist() == np.full((2, 2, 3), 0.5).tolist()
    assert (colored(np.random.default_rng(0).normal(size=(2, 2, 3))) >= 0).all()


def test_a_mosaic_has_a_frame_around_each_tile() -> None:
    assert mosaic(np.ones((5, 2, 3, 3))).shape == (2 * 4, 3 * 5, 3)


@pytest.mark.parametrize("classes", [2, 30, 31])
def test_the_confusion_matrix_is_blue_on_the_diagonal_and_orange_beside_it(classes: int) -> None:
    counts = np.diag(np.full(classes, 50_000))
    counts[0, 1] = 3
    picture = confusion_picture(counts, [f"a very long name {n}" for n in range(classes)]).astype(int)
    blue = picture[..., 2] - picture[..., 0]
    assert (blue > 50).sum() > 20 * classes
    assert (blue < -20).any()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Return a work folder with two runs, a and b, that wrote a measurement."""
    work = Work(tmp_path / "my runs")
    for name in ("a", "b"):
        run = RunDir(work.runs / name)
        run.path.mkdir(parents=True)
        run.config_file.write_text("{}")
        subprocess.run([sys.executable, "-c", WRITE, str(run.path)], check=True, capture_output=True)
    return work


@pytest.mark.long
@pytest.mark.parametrize(("arguments", "expected"), [(["b"], ["b"]), ([], ["a/tensorboard", "b/tensorboard"])])
def test_tensorboard_serves_the_runs_until_it_is_asked_to_end(
    work: Work, arguments: list[str], expected: list[str]
) -> None:
    program = Path(sys.executable).with_name("idxtrain")
    argv: list[Any] = [program, "tensorboard", *arguments, "--work", work.path]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        runs: list[str] = []
        for _ in range(300):
            with urllib.request.urlopen(f"{url}data/runs", timeout=10) as answer:  # noqa: S310 (checked above)
                runs = json.load(answer)
            if len(runs) == len(expected):
                break
            time.sleep(0.1)
        assert sorted(runs) == expected
        shown = {
            "scalars": ["train/loss"],
            "images": ["confusion matrix", "first layer"],
            "histograms": ["weights/sequential/conv/bias", "weights/sequential/conv/kernel"],
        }
        for plugin, tags in shown.items():
            with urllib.request.urlopen(f"{url}data/plugin/{plugin}/tags", timeout=10) as answer:  # noqa: S310
                assert sorted(json.load(answer)[expected[0]]) == tags
        taken = subprocess.run(
            [*argv, "--port", url.split(":")[-1].strip("/")], check=False, capture_output=True, text=True
        )
        assert taken.returncode == 2
        assert "found another program on it, expected a free port" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "press Ctrl-C to end\n")


def test_without_a_training_there_is_nothing_to_show(tmp_path: Path) -> None:
    work = Work(tmp_path)
    with pytest.raises(InputError, match="found no run that trained"), log_folder(work, []):
        pass
    with pytest.raises(InputError, match="expected that of a training"), log_folder(work, [RunDir(work.runs / "r")]):
        pass
