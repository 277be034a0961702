"""python -m tests.support.lecture_picture WORK FOLDER: the pictures of pipelines/LECTURE.md, two from TensorBoard.

WORK has the runs `softmax`, `lecture` and `fast`, of these recipes. 64 colors keep a picture small.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page

from jobs.first_layer import colored, first_layer, mosaic
from jobs.run_dir import RunDir, Work
from pipelines.tensorboard import log_folder, start
from tests.support.demo_page import LAPTOP, chromium

_WAIT = 60_000  # ms for TensorBoard to read the runs and to draw
_MARGIN = 8  # pixels
_ENLARGED = 4  # times


def main(work: Path, folder: Path) -> None:
    """Write lecture-softmax.png, lecture-filters.png and lecture-graph.png."""
    weights(Work(work).runs / "softmax", folder / "lecture-softmax.png")
    with chromium() as browser, tempfile.TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.png"
        for run, name, tab, selector in (
            ("fast", "filters", "images", "tf-image-loader:has-text('first layer')"),
            ("lecture", "graph", "graphs", "tf-graph-scene #svg"),
        ):
            with shown(browser, Work(work), run, tab) as page:
                page.locator(selector).first.wait_for(timeout=_WAIT)
                page.wait_for_timeout(4000)  # for the picture itself, and the movement of the graph
                page.locator(selector).first.screenshot(path=full)
            with Image.open(full) as picture:
                cut(picture.convert("RGB")).quantize(64).save(folder / f"lecture-{name}.png", optimize=True)


def weights(run: Path, target: Path) -> None:
    """Write the weights of a run's first layer, a tile per class, enlarged."""
    import keras

    first = first_layer(keras.models.load_model(run / "model.keras", compile=False))
    assert first is not None
    tiles = mosaic(np.array([colored(kernel) for kernel in first.kernels]))
    picture = Image.fromarray((255 * tiles).round().astype(np.uint8))
    large = picture.resize((_ENLARGED * picture.width, _ENLARGED * picture.height), Image.Resampling.NEAREST)
    large.quantize(64).save(target, optimize=True)


@contextmanager
def shown(browser: Browser, work: Work, run: str, tab: str) -> Iterator[Page]:
    """Yield a tab of TensorBoard on one run. It serves until this process ends."""
    with log_folder(work, [RunDir(work.runs / run)]) as logs:
        page = browser.new_page(viewport={"width": LAPTOP[0], "height": LAPTOP[1]})
        page.goto(f"{start(logs, None)}#{tab}")
        yield page
        page.close()


def cut(picture: Image.Image) -> Image.Image:
    """Return a picture without its empty border, but for a margin."""
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, picture.getpixel((0, 0)))).getbbox()
    if box is None:
        return picture
    left, top, right, bottom = box
    width, height = picture.size
    return picture.crop(
        (max(0, left - _MARGIN), max(0, top - _MARGIN), min(width, right + _MARGIN), min(height, bottom + _MARGIN))
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
