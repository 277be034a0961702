"""`idxtrain inspect`: counts, statistics and pictures of archives, as text and as a page."""

import gzip
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from jobs.errors import InputError
from jobs.inspect.archives import archives
from jobs.inspect.html import render
from jobs.inspect.survey import LONGEST_SIDE, MOST_CLASSES, Surveyed, survey
from jobs.inspect.terminal import WIDEST, Screen, pictures
from jobs.prepare import idx
from pipelines.cli import app
from tests.conftest import Idxtrain
from tests.support.real_data import fashion
from tests.support.report_picture import screenshot

PLAIN = Screen(80, "none", False)


def write(folder: Path, split: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    folder.mkdir(exist_ok=True)
    words = {"u1": "ubyte", "i2": "short", "i4": "int", "f4": "float"}
    kind = f"{images.dtype.kind}{images.itemsize}"
    idx.write(folder / f"{split}-images-idx{images.ndim}-{words[kind]}.gz", images)
    idx.write(folder / f"{split}-labels-idx1-ubyte.gz", labels.astype(np.uint8))


def digits(folder: Path, rows: int = 3000) -> tuple[NDArray[Any], NDArray[Any]]:
    """Write 28 x 28 images whose class is the row of a bright line; return them with their labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 7, rows)
    images = random.integers(0, 40, (rows, 28, 28)).astype(np.uint8)
    images[np.arange(rows), 4 * labels] = 250
    write(folder, "train", images, labels)
    write(folder, "t10k", images[:100], labels[:100])
    return images, labels


def surveyed(path: Path) -> Sequence[Surveyed]:
    return survey(archives(path))


def test_counts_and_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    images, labels = digits(tmp_path / "data")
    training, test = surveyed(tmp_path / "data")
    assert (training.name, test.name) == ("training", "test")
    seen = training.images
    assert seen
    assert (seen.low, seen.high, seen.not_finite, seen.constant) == (images.min(), images.max(), 0, 0)
    np.testing.assert_allclose([seen.mean, seen.std], [images.mean(), images.std()])
    np.testing.assert_allclose(seen.mean_image[..., 0], images.mean(axis=0) / 255)
    assert training.labels
    assert dict(training.labels.counts) == {label: int((labels == label).sum()) for label in range(7)}
    for label in range(7):
        np.testing.assert_allclose(seen.class_means[label][..., 0], images[labels == label].mean(axis=0) / 255)
    assert test.images
    assert test.images.header.rows == 100


def test_samples_are_the_rows_and_labels_that_they_claim(tmp_path: Path) -> None:
    images, labels = digits(tmp_path / "data")
    seen = surveyed(tmp_path / "data")[0].images
    assert seen
    assert len(seen.samples) == 7 * 8
    for sample in seen.samples:
        assert sample.label == labels[sample.row]
        np.testing.assert_allclose(sample.pixels[..., 0], images[sample.row] / 255)


def test_of_many_classes_the_most_frequent_have_pictures(tmp_path: Path) -> None:
    labels = np.concatenate([np.arange(100), np.arange(40, 80)])
    write(tmp_path / "data", "train", np.ones((140, 3, 3), np.uint8), labels)
    (part,) = surveyed(tmp_path / "data")
    assert part.images
    assert sorted(part.images.class_means) == [*range(40, 80)]
    assert MOST_CLASSES == 40


def test_large_images_are_shown_by_every_nth_pixel(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 300, 200, 3)).astype(np.uint8)
    write(tmp_path / "data", "train", images, np.arange(3))
    (part,) = surveyed(tmp_path / "data")
    assert part.images
    assert part.images.mean_image.shape == (100, 67, 3)
    assert max(part.images.mean_image.shape) <= LONGEST_SIDE


def test_other_types_are_shown_by_their_range_and_odd_values_are_counted(tmp_path: Path) -> None:
    images = np.linspace(-5, 5, 4 * 9, dtype=np.float32).reshape(4, 3, 3)
    images[1] = 2
    images[2, 0, 0] = np.nan
    write(tmp_path / "data", "train", images, np.arange(4))
    (part,) = surveyed(tmp_path / "data")
    assert part.images
    assert (part.images.low, part.images.high) == (-5, 5)
    assert (part.images.not_finite, part.images.constant) == (1, 1)
    assert part.images.samples[0].pixels[0, 0, 0] == 0
    assert part.images.samples[3].pixels[2, 2, 0] == 1


def test_a_lone_file_of_images_or_labels_is_shown(idxtrain: Idxtrain, tmp_path: Path) -> None:
    digits(tmp_path / "data")
    done = idxtrain("inspect", "data/t10k-images-idx3-ubyte.gz")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("t10k-images-idx3-ubyte.gz: 100 x 28 x 28 of uint8\n  pixels 0 to 250, mean ")
    assert "row 0" in done.stdout
    done = idxtrain("inspect", "data/t10k-labels-idx1-ubyte.gz")
    assert done.stdout.startswith("t10k-labels-idx1-ubyte.gz: 100 of uint8; 7 classes\n\nclass ")


def test_labels_of_several_columns_are_counted_by_one(idxtrain: Idxtrain, tmp_path: Path) -> None:
    idx.write(tmp_path / "qmnist-labels-idx2-int", np.array([[3, 500, 8], [3, 501, 8], [4, 500, 8]], np.int32))
    done = idxtrain("inspect", "qmnist-labels-idx2-int")
    assert "3 x 3 of int32; 2 classes, counted by column 0" in done.stdout
    assert re.search(r"^3 +2 ", done.stdout, re.MULTILINE)


def test_a_folder_shows_class_names_and_both_splits_without_colors_in_a_pipe(
    idxtrain: Idxtrain, tmp_path: Path
) -> None:
    digits(tmp_path / "data")
    (tmp_path / "data" / "data.toml").write_text('[class_names]\n0 = "T-shirt"\n3 = "coat"\n')
    done = idxtrain("inspect", "data", env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert re.search(r"^3 coat +\d+ +\d+  #+$", done.stdout, re.MULTILINE)
    assert re.search(r"^all +3,000 +100$", done.stdout, re.MULTILINE)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    """Run `idxtrain` with a terminal as its stdout; return what it printed."""
    controller, terminal = pty.openpty()
    program = str(Path(sys.executable).with_name("idxtrain"))
    with subprocess.Popen([program, *arguments], stdout=terminal, stderr=subprocess.PIPE, env=environment) as process:
        os.close(terminal)
        output = b""
        while True:
            try:
                data = os.read(controller, 1 << 16)
            except OSError:  # the terminal is closed at its other end
                break
            if not data:
                break
            output += data
    os.close(controller)
    assert process.returncode == 0
    return output.decode()


def test_a_terminal_gets_half_blocks_in_color_unless_it_wants_none(tmp_path: Path) -> None:
    digits(tmp_path / "data", 100)
    base = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color"}
    arguments = ["inspect", str(tmp_path / "data")]
    shown = on_a_terminal(arguments, base)
    assert "\x1b[38;5;" in shown
    assert "\u2580" in shown
    assert "\x1b[38;2;" in on_a_terminal(arguments, base | {"COLORTERM": "truecolor"})
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}):
        assert "\x1b[38" not in on_a_terminal(arguments, base | plain)


def names_of(path: Path) -> list[tuple[str, str | None, str | None]]:
    return [
        (part.name, part.images.name if part.images else None, part.labels.name if part.labels else None)
        for part in archives(path).parts
    ]


def test_archives_without_a_role_are_paired_by_their_rows_and_the_refusal_is_shown(
    idxtrain: Idxtrain, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for name, rows in (("first_test", 9), ("second_test", 8)):
        idx.write(tmp_path / "data" / f"X_{name}-idx3-ubyte", np.full((rows, 3, 3), 9, np.uint8))
        idx.write(tmp_path / "data" / f"y_{name}-idx1-ubyte", np.arange(rows, dtype=np.uint8))
    first, second = "X_first_test-idx3-ubyte", "X_second_test-idx3-ubyte"
    assert names_of(tmp_path / "data") == [
        (first, first, "y_first_test-idx1-ubyte"),
        (second, second, "y_second_test-idx1-ubyte"),
    ]
    done = idxtrain("inspect", "data")
    assert done.returncode == 0
    assert done.stderr.startswith("a training would refuse this folder: ")


def test_tagged_pairs_are_parts_of_their_own(tmp_path: Path) -> None:
    digits(tmp_path / "data", 100)
    for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
        shutil.copy(
            tmp_path / "data" / f"train-{kind}", tmp_path / "data" / f"train-{kind.replace('-', '-monday-', 1)}"
        )
    assert [name for name, _, _ in names_of(tmp_path / "data")] == ["training", "test", "training monday"]


def test_a_plain_file_beside_its_gz_is_shown_once(tmp_path: Path) -> None:
    digits(tmp_path / "data", 100)
    shutil.copy(tmp_path / "data" / "train-images-idx3-ubyte.gz", tmp_path / "data" / "more.idx.gz")
    for path in sorted((tmp_path / "data").iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    assert [name for name, _, _ in names_of(tmp_path / "data")] == ["training", "test", "more.idx"]


def test_values_that_are_neither_images_nor_labels_are_refused(tmp_path: Path) -> None:
    idx.write(tmp_path / "a.idx", np.zeros(9, np.float32))
    with pytest.raises(InputError, match=r"a\.idx: found 9 of float32, expected images or integer labels; fix: "):
        surveyed(tmp_path / "a.idx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["data", "--labels", "--html", "a.html"], "--html: found with --labels, expected one of them"),
        (["data", "--folds", "3"], "--folds: found without --labels, expected both"),
        (["data", "--set", "train.epochs=1"], "--set: found without --labels"),
        (["data", "--run-id", "r"], "--run-id: found without --labels"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path, options: list[str], words: str) -> None:
    done = CliRunner().invoke(app.app, ["inspect", *options, "--work", str(tmp_path / "work")])
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "work").exists()


def test_images_are_shown_upright(tmp_path: Path) -> None:
    images, _ = digits(tmp_path / "data", 100)
    (tmp_path / "data" / "data.toml").write_text('orientation = "transpose"\n')
    seen = surveyed(tmp_path / "data")[0].images
    assert seen
    np.testing.assert_allclose(seen.mean_image[..., 0], images.mean(axis=0).T / 255)


def test_a_known_data_set_has_its_class_names() -> None:
    assert archives(fashion()).description.class_names[9] == "Ankle boot"


def test_a_picture_in_characters_has_its_shape() -> None:
    image = np.zeros((8, 6, 1))
    image[:4, 3:] = 1
    (caption, *drawn, end) = pictures([image], ["square"], PLAIN)
    assert (caption, end) == ("square", "")
    assert drawn == ["   @@@", "   @@@", "", ""]


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (96, 96, 3), (5, 200, 1), (200, 5, 3), (7, 9, 2)])
@pytest.mark.parametrize("colors", ["none", "256", "millions"])
def test_pictures_of_any_shape_fit_the_screen(shape: tuple[int, ...], colors: Any) -> None:
    images = [np.random.default_rng(0).random(shape)] * 9
    for line in pictures(images, ["a long class name"] * 9, Screen(40, colors, True)):
        assert len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 40
    assert WIDEST < 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "found no IDX archive"),
        (lambda folder: folder.write_text("text"), "byte 0: found the bytes 74 65, expected 00 00"),
        (lambda folder: None, "no readable file"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        surveyed(tmp_path / "data")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    digits(tmp_path / "data")
    path = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="damaged gzip stream"):
        surveyed(tmp_path / "data")


def test_an_archive_without_rows_is_shown(idxtrain: Idxtrain, tmp_path: Path) -> None:
    idx.write(tmp_path / "images-idx3-ubyte", np.empty((0, 5, 5), np.uint8))
    done = idxtrain("inspect", "images-idx3-ubyte", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "images-idx3-ubyte: 0 x 5 x 5 of uint8\n  pixels 0 to 0, mean 0, std 0\n"


class Page(HTMLParser):
    """What a page has: its tags, and the addresses in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_self_contained_escaped_and_private(idxtrain: Idxtrain, tmp_path: Path) -> None:
    digits(tmp_path / "data")
    (tmp_path / "data" / "data.toml").write_text('[class_names]\n3 = "<script>alert(1)</script>"\n')
    done = idxtrain("inspect", "data", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    page = Page(html)
    assert "default-src 'none'; img-src data:" in html
    assert "script" not in page.tags
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    assert len(page.addresses) == 2 * (1 + 7 * 9)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o600


def test_the_page_of_one_archive_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    digits(tmp_path / "data")
    found = archives(tmp_path / "data")
    assert render(found, survey(found)) == render(found, survey(found))


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_chromium_shows_the_page_in_light_and_dark(idxtrain: Idxtrain, tmp_path: Path) -> None:
    from PIL import Image

    digits(tmp_path / "data")
    idxtrain("inspect", "data", "--html", "page.html")
    corners = []
    for scheme in (0, 1):
        subprocess.run(screenshot(tmp_path / "page.html", tmp_path / "p.png", scheme), check=True, capture_output=True)
        with Image.open(tmp_path / "p.png") as picture:
            corners.append(picture.convert("RGB").getpixel((2, 2)))
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 100
    assert corners == [(0x11, 0x15, 0x1B), (255, 255, 255)]
