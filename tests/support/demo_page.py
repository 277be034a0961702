"""The demo's page in Debian's chromium, as a reader uses it: by mouse, by keyboard, by what is written on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from time import monotonic
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Request, Response, sync_playwright

from tests.support.report_picture import require_chromium

# Strokes from the top left, in shares of the sheet: polylines of [x, y].
_RING = [(0.5, 0.18), (0.33, 0.3), (0.28, 0.5), (0.33, 0.7), (0.5, 0.82), (0.67, 0.7), (0.72, 0.5), (0.67, 0.3)]
STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "0": [[*_RING, _RING[0]]],
    "1": [[(0.54, 0.18), (0.5, 0.5), (0.46, 0.82)]],
    "7": [[(0.3, 0.24), (0.52, 0.22), (0.72, 0.22), (0.58, 0.52), (0.46, 0.82)]],
}
FRAMES = ("/api/draw", "/api/look")  # what answers with every layer's output
_QUIET = 0.25  # seconds; the page asks for a unit 0.15 s after the last redraw
PHONE, LAPTOP, WALL = (390, 844), (1280, 900), (1920, 1080)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser without a window. Without chromium, skip the test; with CI=true, fail."""
    program = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class DemoPage:
    """An open page, and every request that it made."""

    def __init__(
        self,
        browser: Browser,
        address: str,
        size: tuple[int, int] = LAPTOP,
        scheme: Literal["light", "dark"] = "light",
    ) -> None:
        """Open the page in a window of that size, and wait until it shows a network."""
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page: Page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.faults: list[str] = []
        self._frames: dict[str, Response] = {}
        self._under_way: set[Request] = set()
        self.page.on("request", self._record)
        self.page.on("response", self._keep)
        for ended in ("requestfinished", "requestfailed"):
            self.page.on(ended, lambda request: self._under_way.discard(request))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda line: self._complain(line.text) if line.type == "error" else None)
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]")
        self.settle()

    def _record(self, request: Request) -> None:
        self.requests.append(request.url)
        self._under_way.add(request)

    def _keep(self, response: Response) -> None:
        address = urlsplit(response.url)
        if address.path in FRAMES:
            self._frames[parse_qs(address.query)["model"][0]] = response

    def _complain(self, line: str) -> None:
        if "Failed to load resource" not in line:  # the page says so itself
            self.faults.append(line)

    def image(self, shape: Sequence[int], model: int = 0) -> NDArray[np.float32]:
        """Return the image that the network was last shown, float32 [height, width, channels]."""
        frame = self._frames[str(model)].body()
        start = 4 + int.from_bytes(frame[:4], "little")  # the image is the output of the first layer
        return np.frombuffer(frame[start + -start % 8 :], "<f4", prod(shape)).reshape(shape)

    def pixels(self, selector: str) -> NDArray[np.uint8]:
        """Return what is drawn on a canvas, RGBA [height, width, 4], before the browser enlarges it."""
        script = """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return { height: canvas.height, data: [...data] };
        }"""
        drawn: Any = self.page.locator(selector).first.evaluate(script)
        return np.array(drawn["data"], np.uint8).reshape(drawn["height"], -1, 4)

    def scale(self) -> list[list[int]]:
        """Return the colors of signed numbers, RGBA, from the most negative to the most positive one."""
        script = """async () => {
          const { signedShades } = await import("/colors.js");
          return [...new Uint8Array(signedShades().buffer)];
        }"""
        colors: Any = self.page.evaluate(script)
        return [list(colors[i : i + 4]) for i in range(0, len(colors), 4)]

    def settle(self) -> None:
        """Wait until nothing is under way: no request for longer than the page waits after the last stroke."""
        quiet_since = monotonic()
        while monotonic() - quiet_since < _QUIET:
            self.page.wait_for_timeout(20)
            if self._under_way:
                quiet_since = monotonic()

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def draw(self, digit: str, steps: int = 6, pause: float = 0) -> None:
        """Draw a digit with the mouse on a clean sheet. `steps`: movements a segment; `pause`: ms between them."""
        self.page.click("#clear")
        box = self.page.locator("#drawing").bounding_box()
        assert box is not None
        mouse = self.page.mouse
        for stroke in STROKES[digit]:
            points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            mouse.move(*points[0])
            mouse.down()
            for (x0, y0), (x1, y1) in pairwise(points):
                for step in range(1, steps + 1):
                    mouse.move(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps)
                    if pause:
                        self.page.wait_for_timeout(pause)
            mouse.up()
        self.settle()

    def guesses(self) -> list[str]:
        """Return the first guess of each model."""
        return self.page.locator(".guess").all_inner_texts()

    def layers(self, model: int = 0) -> list[str]:
        tabs = self.page.locator(f".network[data-model='{model}'] [role=tab]")
        return [str(tab.get_attribute("data-layer")) for tab in tabs.all()]

    def open_layer(self, name: str, model: int = 0) -> None:
        self.page.locator(f".network[data-model='{model}'] [data-layer='{name}']").click()
        assert self.text("#focus-name") == name
        self.settle()

    def click_unit(self, x: float, y: float) -> tuple[int, ...] | None:
        """Click into the large layer, in shares of its size. Return the unit's place, or None between the maps."""
        before = self.text("#readout-place")
        box = self.page.locator("#focus-canvas").bounding_box()
        assert box is not None
        self.page.locator("#focus-canvas").scroll_into_view_if_needed()
        self.page.locator("#focus-units").click(position={"x": x * box["width"], "y": y * box["height"]})
        after = self.text("#readout-place")
        if before == after:
            return None
        is_explained = "(place) => document.getElementById('unit-name').textContent.endsWith(place)"
        self.page.wait_for_function(is_explained, arg=after)
        return place(after)

    def value(self) -> float:
        """Return the number of the chosen unit, as it is written under the layer."""
        return number(self.text("#readout-value"))

    def ledger(self) -> list[tuple[str, str, float]]:
        """Return the rows of the chosen unit's calculation: kind, name and number."""
        rows = self.page.locator("#unit-ledger .row").all()
        return [
            (
                str(row.get_attribute("class")).removeprefix("row").strip(),
                row.locator("dt").inner_text(),
                number(row.locator("dd").inner_text()),
            )
            for row in rows
        ]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def measured(self) -> Sequence[float]:
        """Return the times from a stroke to its redraw, in ms."""
        script = "performance.getEntriesByName('stroke to redraw').map(({ duration }) => duration)"
        result: Any = self.page.evaluate(script)
        return [float(each) for each in result]

    def close(self) -> None:
        self.page.context.close()


def place(words: str) -> tuple[int, ...]:
    """Return (row, column, map) or (unit,) from the words for it on the page."""
    numbers = dict(part.rsplit(" ", 1) for part in words.split(", "))
    if "unit" in numbers:
        return (int(numbers["unit"]),)
    return (int(numbers["row"]), int(numbers["column"]), int(numbers["map"]))


def number(text: str) -> float:
    """Return a number that is written with a true minus sign."""
    return float(text.replace("−", "-"))
