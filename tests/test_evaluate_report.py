"""report.html: it parses as HTML, its images decode, its charts stay within their frame."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from jobs import png, segments
from jobs.dataset import Duplicates
from jobs.evaluate import curve, report
from jobs.evaluate.metrics import summarize
from jobs.evaluate.results import collect
from jobs.files import write_json
from jobs.metrics import Metrics
from jobs.places import Places
from jobs.run_dir import RunDir
from jobs.segments import SegmentInfo
from tests.support.prepared import bare_manifest

HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    write_json(run.config_file, {"fetch": {"dataset": "dots"}, "train": {"model": HOSTILE}})
    return run


def page_of(
    run: RunDir,
    images: NDArray[Any],
    labels: list[int],
    predicted: list[int],
    classes: int,
    caveats: Sequence[str] = (),
    names: Mapping[str, Any] | None = None,
) -> "Page":
    """Return the report on predictions whose confidence grows with the row; image n has index 100 + n."""
    confidence = np.linspace(0.6, 0.9, len(labels), dtype=np.float32)[:, None]
    chosen = np.eye(classes, dtype=np.float32)[predicted]
    probabilities = chosen * confidence + (1 - chosen) * (1 - confidence) / (classes - 1)
    true = np.array(labels, np.int32)
    duplicates = Duplicates(test_images_in_train=3, examples=())
    manifest = bare_manifest((images.shape[1], images.shape[2], images.shape[3]), classes).model_copy(
        update={"duplicates": duplicates, **(names or {})}
    )
    predictions = collect(true, 100 + np.arange(len(labels)), [probabilities])
    raw: dict[str, Any] = {
        "run_id": HOSTILE,
        "recipe": "tiny",
        "seed": 7,
        "world_size": 2,
        "dataset_id": "0123456789abcdef",
        "test": summarize(predictions, manifest).model_dump(),
        "caveats": [{"kind": "few-images", "text": text, "figures": {}} for text in caveats],
        "validation": {"accuracy": None, "errors": None, "count": 0, "loss": None},
        "train": {"images": 1280, "steps": 40, "images_per_second": 1234.6, "precision": "float32"},
        "seconds": {"fetch": 1.5, "prepare": 2.5, "train": 1204.0, "evaluate": 3.0, "total": 1211.0},
        "versions": {"tensorflow": HOSTILE},
    }
    report.write_report(run, Metrics.model_validate(raw), manifest, predictions, lambda rows: images[rows])
    return Page(run.report_file.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """The parts of an HTML page; fails unless its tags are balanced and it loads nothing."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        assert not attributes.keys() & {"href", "srcset", "action", "onload", "onclick"}
        assert attributes.get("src", "data:").startswith("data:")
        self.tags.append(tag)
        if tag == "img":
            self.images.append(attributes)
        if tag == "td":
            self.cells.append("")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "td":
            self.cells[-1] += data


def decode_png(uri: str) -> NDArray[Any]:
    """Return the pixels of a PNG, uint8 [height, width, 1 or 3]."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels.reshape(*pixels.shape[:2], -1)


def write_curve(run: RunDir) -> None:
    """Write a curve as a killed training leaves it: the last line is torn."""
    points: list[dict[str, Any]] = [
        {"kind": "train", "step": s, "loss": 2 / s, "accuracy": 1 - 1 / s} for s in range(1, 41)
    ]
    points.append({"kind": "validation", "step": 40, "accuracy": 0.5, "loss": float("nan")})
    run.logs.mkdir()
    run.curve_file.write_text("".join(json.dumps(p) + "\n" for p in points) + '{"kind": "tra', encoding="utf-8")


def test_the_report_shows_what_was_measured(run: RunDir) -> None:
    write_curve(run)
    images = np.linspace(0, 1, 6 * 20, dtype=np.float32).reshape(6, 4, 5, 1)
    page = page_of(run, images, [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 2], 3)
    for text in ("66.67 %", "30.00 % to 90.32 %", "2 errors in 6 images", "1,235 images/s", "4 × 5 × 1, 3 classes"):
        assert text in page.text
    assert {"1,204.0", "1,211.0", "tiny", "dots", "50.00 %", "100.00 %"} <= {*page.cells}
    matrix = page.cells.index("1", page.cells.index("1,211.0"))
    assert page.cells[matrix : matrix + 9] == ["1", "1", "·", "·", "2", "·", "·", "1", "1"]
    assert page.tags.count("circle") == 2 * 40 + 1  # training loss and accuracy, one validation accuracy
    assert [image["alt"] for image in page.images] == [
        "test 104 of class 2, predicted as 1",
        "test 101 of class 0, predicted as 1",
    ]
    assert (decode_png(page.images[0]["src"]) == np.round(images[4] * 255)).all()
    assert run.report_file.stat().st_mode & 0o777 == 0o600


def test_the_report_shows_labels_names_caveats_and_unseen_classes(run: RunDir) -> None:
    images = np.linspace(0, 1, 6 * 20, dtype=np.float32).reshape(6, 4, 5, 1)
    names = {"labels": (5, -7, 300), "class_names": ("T-shirt/top", HOSTILE, "Zebra")}
    page = page_of(run, images, [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 0], 2, ["six test images"], names)
    assert page.text.count("six test images") == 1
    matrix = page.cells.index("1", page.cells.index("1,211.0"))
    assert page.cells[matrix : matrix + 6] == ["1", "1", "·", "2", "1", "1"]  # the last row is an unseen class
    assert [image["alt"] for image in page.images][:2] == [
        "test 105 of class Zebra, predicted as T-shirt/top",
        f"test 104 of class Zebra, predicted as {HOSTILE}",
    ]
    assert "The model does not know the classes of the last row." in page.text
    assert "Each of their 2 test images counts as an error. Without them the accuracy is 75.00 %." in page.text
    classes = page.cells.index("5", matrix)
    assert page.cells[classes : classes + 4] == ["5", "2", "50.00 %", "50.00 %"]  # a Zebra was taken for one
    assert page.cells[page.cells.index("300") + 1] == "2"


def test_the_report_escapes_every_text(run: RunDir) -> None:
    page = page_of(run, np.zeros((1, 2, 2, 1), np.float32), [0], [0], 2)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) == 4  # the title, the heading, the model, a version
    assert "No training curve was recorded." in page.text
    assert "every test image was predicted correctly" in page.text


def test_an_error_has_the_pair_the_row_and_the_picture_that_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = SegmentInfo(tag="monday", segment_id="7" * 16, rows=20, label_counts=(), mean=0, std=0)
    monkeypatch.setattr(segments, "read_segments", lambda _: [info])
    manifest = bare_manifest((1, 1, 1), 2).model_copy(update={"options": {"test_from": "each training archive"}})
    indices = np.array([segments.first_index(info.segment_id) + 17])
    predictions = collect(np.array([1], np.int32), indices, [np.array([[0.9, 0.1]], np.float32)])

    def images_of(rows: Sequence[int]) -> NDArray[Any]:
        return np.zeros((len(rows), 1, 1, 1), np.float32)

    def place(places: Places | None) -> str:
        (mistake,) = report.most_confident_mistakes(predictions, images_of, ["cat", "dog"], 1, places)
        return mistake.place

    places = Places(tmp_path, manifest)
    assert (place(None), place(places)) == ("test 17", "train monday 17")
    monkeypatch.setattr(places.pictures, "of", lambda *_: "dog/x.png")
    assert place(places) == "train monday 17 · dog/x.png"


def test_the_report_of_many_classes_lists_confusions_and_bounds_the_gallery(run: RunDir) -> None:
    labels = [*range(40), *range(40)]
    images = np.random.default_rng(0).random((80, 200, 300, 3), np.float32)
    page = page_of(run, images, labels, [(label + 1) % 40 for label in labels], 40)
    assert "Confusion matrix" not in page.text
    first = page.cells.index(HOSTILE, page.cells.index("1,211.0")) + 1
    assert page.cells[first : first + 6] == ["0", "1", "2", "1", "2", "2"]  # 0 predicted as 1 twice, 1 as 2 twice
    assert len(page.images) == 40
    reduced = decode_png(page.images[0]["src"])
    assert reduced.shape == (67, 100, 3)  # no side over 128
    blocks = images[79, :198].reshape(66, 3, 100, 3, 3).mean(axis=(1, 3))
    assert np.abs(reduced[:66] - 255 * blocks).max() <= 1


def test_the_report_of_thousands_of_classes_stays_small_and_shows_the_worst(run: RunDir) -> None:
    labels = [*range(1500), 4999]
    page = page_of(run, np.zeros((1501, 1, 1, 1), np.float32), labels, [*range(1500), 7], 5000)
    assert "Shown are the 1,000 of 5,000 classes with the lowest recall; metrics.json has all." in page.text
    first = page.cells.index(HOSTILE, page.cells.index("1,211.0")) + 1
    assert page.cells[first : first + 3] == ["4999", "7", "1"]  # the errors
    assert page.cells[first + 3 : first + 6] == ["1", "–", "0.00 %"]  # of class 4999, which has the lowest recall
    assert page.tags.count("tr") < 1100
    assert run.report_file.stat().st_size < 300_000


def test_png_of_colors_and_of_many_channels() -> None:
    image = np.linspace(0, 1, 2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    assert (decode_png(png.data_uri(image)) == np.round(image * 255)).all()
    assert decode_png(png.data_uri(np.ones((2, 3, 5), np.float32))).tolist() == np.full((2, 3, 1), 255).tolist()


def test_a_torn_curve_is_read_without_its_invalid_lines(run: RunDir) -> None:
    assert curve.read_curve(run.curve_file) == []
    write_curve(run)
    with run.curve_file.open("ab") as file:
        file.write(b'\n[1]\n{"step": "x"}\n\xff')
    points = curve.read_curve(run.curve_file)
    assert [point["step"] for point in points] == [*range(1, 41), 40]
    loss, accuracy = curve.charts(points)
    assert [line.kind for line in loss.lines] == ["train"]  # the validation loss was not a number
    assert [len(line.dots) for line in accuracy.lines] == [40, 1]
    assert accuracy.lines[1].dots[0].label == "step 40: 50 %"


@pytest.mark.parametrize(
    ("ticks", "expected"),
    [
        (curve.linear_ticks(0, 430), [0, 100, 200, 300, 400, 500]),
        (curve.linear_ticks(0, 1, smallest=1), [0, 1]),
        (curve.linear_ticks(0.913, 1), [0.9, 0.92, 0.94, 0.96, 0.98, 1]),
        (curve.log_ticks(0.03, 0.4), [0.02, 0.05, 0.1, 0.2, 0.5]),
        (curve.log_ticks(0.002, 2.3), [0.001, 0.01, 0.1, 1, 10]),
        (curve.log_ticks(1, 1), [1, 2]),
    ],
)
def test_ticks_are_round_numbers(ticks: list[float], expected: list[float]) -> None:
    assert ticks == pytest.approx(expected)


@settings(deadline=None)  # a busy machine is not an error
@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=400), step=st.integers(1, 10**7))
def test_charts_stay_within_their_frame(values: list[float], step: int) -> None:
    points = [
        {"kind": "train", "step": n * step, "loss": v, "accuracy": v / (1 + v)} for n, v in enumerate(values, start=1)
    ]
    for chart in curve.charts(points):
        assert len(chart.x_ticks) >= 2
        assert 2 <= len(chart.y_ticks) <= 15
        for pair in chart.lines[0].points.split():
            x, y = map(float, pair.split(","))
            assert curve.LEFT <= x <= curve.WIDTH - curve.RIGHT
            assert curve.TOP <= y <= curve.HEIGHT - curve.BOTTOM
