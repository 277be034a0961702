"""python -m tests.support.report_picture REPORT.html FOLDER: the README's pictures of a report, light and dark.

Chromium renders the page; 64 colours keep a picture below 150 kB.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

_SIZE = "1120,2330"  # down to the end of the confusion matrix
_SCHEMES = {"dark": 0, "light": 1}  # Blink's preferredColorScheme


def main(report: Path, folder: Path) -> None:
    """Write FOLDER/report-light.png and FOLDER/report-dark.png."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, scheme in _SCHEMES.items():
            full = Path(scratch) / f"{name}.png"
            subprocess.run(screenshot(report, full, scheme), check=True, capture_output=True)
            with Image.open(full) as picture:
                picture.convert("RGB").quantize(64).save(folder / f"report-{name}.png", optimize=True)


def screenshot(report: Path, target: Path, scheme: int, size: str = _SIZE) -> list[str]:
    """Return the argv that renders a page in one colour scheme. `size`: of the window, "WIDTH,HEIGHT" in pixels."""
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size}"]
    options += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={target}"]
    return ["chromium", *options, report.resolve().as_uri()]


def require_chromium() -> str:
    """Return the path of Chromium. Without it, skip the test; with CI=true, fail."""
    program = shutil.which("chromium")
    why = "" if program else "found no chromium: apt-get install chromium"
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    return program or pytest.skip(why)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
