"""python -m tests.support.demo_picture WORK RUN [FOLDER]: the demo's pictures on its page of documentation.

Draws a 7 on a run of MNIST in Debian's chromium, in both color schemes, and writes demo-light.png and demo-dark.png.
"""

import io
import sys
from pathlib import Path

from PIL import Image

from jobs.run_dir import Work
from tests.support.demo_page import DemoPage, chromium
from tests.support.demo_server import of_run

FOLDER = Path("jobs/demo/images")
SIZE = (1440, 1000)
COLORS = 160  # enough for the scale; a palette makes the file half as large


def main(work: Path, run_id: str, folder: Path = FOLDER) -> None:
    """Write both pictures."""
    folder.mkdir(exist_ok=True)
    with of_run(Work(work), run_id) as demo, chromium() as browser:
        for scheme in ("light", "dark"):
            page = DemoPage(browser, demo.address, SIZE, scheme)
            page.draw("7")
            page.open_layer("conv1")
            page.click_unit(0.73, 0.35)
            picture = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB").quantize(COLORS)
            picture.save(folder / f"demo-{scheme}.png", optimize=True)
            page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if sys.argv[3:] else FOLDER)
