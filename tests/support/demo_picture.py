"""python -m tests.support.demo_picture RUN FOLDER [WORK]: the README's pictures of the demo, light and dark.

Chromium draws a 7 on the page of a run on MNIST and opens its second convolution. 96 colors keep a picture below
150 kB.
"""

import sys
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image

from jobs.run_dir import Work
from tests.support.demo_page import DemoPage, chromium
from tests.support.demo_server import of_run

SIZE = (1280, 860)
LAYER = "conv2"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main(run_id: str, folder: Path, work: Path) -> None:
    """Write FOLDER/demo-light.png and FOLDER/demo-dark.png."""
    with of_run(Work(work.resolve()), run_id) as demo, chromium() as browser, tempfile.TemporaryDirectory() as scratch:
        for scheme in SCHEMES:
            page = DemoPage(browser, demo.address, SIZE, scheme)
            page.draw("7", steps=24)
            page.open_layer(LAYER)
            page.page.evaluate("scrollTo(0, 0)")
            full = Path(scratch) / f"{scheme}.png"
            page.page.screenshot(path=full)
            page.close()
            with Image.open(full) as picture:
                picture.convert("RGB").quantize(96).save(folder / f"demo-{scheme}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else "work"))
