"""The pages for people, on the screen of a phone: a table that goes on to the right shows that it does."""

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support.report_picture import require_chromium, screenshot

ROOT = Path(__file__).parent.parent / "jobs"
TEMPLATES = ["evaluate/report.html.j2", "inspect/page.html.j2", "prepare/findings/data.html.j2"]
CELLS = (30, 2)
PAGE_COLOR = {"light": (255, 255, 255), "dark": (17, 21, 27)}
CELL_COLOR = (0, 128, 0)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("scheme", PAGE_COLOR)
def test_a_table_wider_than_a_phone_fades_at_the_edge_and_another_one_does_not(
    template: str, scheme: str, tmp_path: Path
) -> None:
    require_chromium()
    text = (ROOT / template).read_text()
    text = re.sub(r'{% include "([^"]+)" %}', lambda found: (ROOT / template).with_name(found[1]).read_text(), text)
    style = text[text.index("<style>") : text.index("</style>")]
    cell = "<td style='background:#008000; min-width: 40px'>&nbsp;</td>"
    tables = [f'<div class="scroll"><table><tr>{cell * count}</tr></table></div>' for count in CELLS]
    head = '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{head}{style}</style><body>{''.join(tables)}")
    picture = tmp_path / "page.png"
    command = screenshot(tmp_path / "page.html", picture, int(scheme == "light"), "390,200")
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(picture) as page:
        pixels = page.convert("RGB")
    rows = [y for y in range(pixels.height) if pixels.getpixel((50, y)) == CELL_COLOR]
    wide, narrow = ([pixels.getpixel((x, y)) for x in range(390)] for y in (rows[2], rows[-3]))
    assert wide[200] == CELL_COLOR
    edge = 390 - 20  # the body's padding
    faded = [color for color in wide[edge - 40 : edge] if color not in (CELL_COLOR, PAGE_COLOR[scheme])]
    assert len(faded) > 20
    assert set(narrow) <= {CELL_COLOR, PAGE_COLOR[scheme]}
    assert narrow[50] == CELL_COLOR
