"""The demo's page: what it shows is what the model computes, and a keyboard, a phone and a screen reader can use it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from playwright.sync_api import Browser

from jobs.run_dir import Work
from tests.conftest import idxtrain_in
from tests.support.demo_page import FRAMES, LAPTOP, PHONE, STROKES, WALL, DemoPage, chromium
from tests.support.demo_server import Demo, of_run, serving

pytestmark = pytest.mark.long  # a browser, and networks to compile

TOLERANCE = 1e-5  # of the largest number of a layer
POINTS = [(0.31, 0.47), (0.52, 0.55), (0.73, 0.12)]  # to click at, in shares of the large layer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> Iterator[Demo]:
    """The network of `fast`, trained on MNIST for one epoch: 98 % correct, and some errors to browse."""
    folder = tmp_path_factory.mktemp("demo")
    trained = idxtrain_in(folder)("run", "--data", mnist_dir, "--run-id", "fast", "--set", "train.epochs=1")
    assert trained.returncode == 0, trained.stderr
    with of_run(Work(folder / "work"), "fast") as demo:
        yield demo


@pytest.fixture(scope="module")
def odd() -> Iterator[Demo]:
    """Two untrained networks for 50 × 50 gray pixels in 16 classes: a line of layers, and a graph with shortcuts."""
    with serving(["compact", "residual"], (50, 50, 1), 16) as demo:
        yield demo


@pytest.fixture(scope="module")
def color() -> Iterator[Demo]:
    """An untrained network for 32 × 32 pixels in color, whose graph has branches."""
    with serving(["whitened"], (32, 32, 3), 16) as demo:
        yield demo


def outputs(demo: Demo, image: NDArray[Any], model: int = 0) -> dict[str, NDArray[Any]]:
    """Return the output of each layer as Keras computes it."""
    import keras

    network = demo.models[model]
    every = keras.Model(network.inputs, [layer.output for layer in network.layers])
    computed = every(image[None], training=False)
    values = computed if isinstance(computed, list | tuple) else [computed]
    return {layer.name: np.asarray(value)[0] for layer, value in zip(network.layers, values, strict=True)}


def check_layers(
    page: DemoPage,
    expected: dict[str, NDArray[Any]],
    model: int = 0,
    layers: Sequence[str] | None = None,
    points: Sequence[tuple[float, float]] = POINTS,
) -> Counter[str]:
    """Open layers, by default all, click units, and compare every number on the page.

    Returns how many units of each kind were compared.
    """
    seen: Counter[str] = Counter()
    assert page.layers(model) == list(expected)
    for name in layers or expected:
        values = expected[name]
        page.open_layer(name, model)
        most = max(float(np.abs(values).max()), 1e-6)
        lowest, highest = (float(page.text(f"#layer-{end}").replace("−", "-")) for end in ("min", "max"))
        assert lowest == pytest.approx(float(values.min()), abs=TOLERANCE * most)
        assert highest == pytest.approx(float(values.max()), abs=TOLERANCE * most)
        for point in points:
            at = page.click_unit(*point)
            if at is None:
                continue
            assert page.value() == pytest.approx(float(values[at]), abs=TOLERANCE * most), (name, at)
            check_ledger(page, float(values[at]), most)
            seen[page.text("#focus-facts").split(" ")[0]] += 1
    return seen


def check_ledger(page: DemoPage, value: float, most: float) -> None:
    """Check that the parts on the page add up to the sum, and lead to the model's own output."""
    rows = page.ledger()
    if not rows:
        return  # a pixel of the image
    by_kind = {kind: number for kind, _, number in rows}
    parts = [number for kind, _, number in rows if kind == "part"]
    scale = max(most, *map(abs, parts), 1e-6)
    if "sum" in by_kind:
        assert sum(parts) == pytest.approx(by_kind["sum"], abs=TOLERANCE * scale)
    assert by_kind["output"] == pytest.approx(value, abs=TOLERANCE * most)
    assert by_kind.get("value", by_kind.get("sum")) == pytest.approx(value, abs=TOLERANCE * scale)


def test_digits_drawn_with_the_mouse_are_the_first_guess(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    for digit in STROKES:
        page.draw(digit)
        assert page.guesses() == [digit]
        assert digit in page.text("#spoken")
    assert page.faults == []
    page.close()


def test_the_numbers_of_every_layer_are_those_of_keras_and_a_unit_is_the_sum_of_its_parts(
    browser: Browser, fast: Demo
) -> None:
    page = DemoPage(browser, fast.address)
    seen = check_layers(page, outputs(fast, page.image(fast.shape)))
    assert {"Conv2D", "MaxPooling2D", "ReLU", "Flatten", "Dense", "Softmax"} <= set(seen)
    page.close()


def test_the_drawn_maps_of_a_layer_are_its_activations(browser: Browser, fast: Demo) -> None:
    """Each pixel's color is a step of the scale from the most negative number, by zero, to the most positive one."""
    page = DemoPage(browser, fast.address)
    page.draw("7")
    expected = outputs(fast, page.image(fast.shape))
    scale = page.scale()
    assert scale[0][2] > scale[0][0]  # blue
    assert scale[-1][0] > scale[-1][2]  # orange
    step_of = {tuple(color): step for step, color in enumerate(scale)}
    assert len(step_of) > 0.9 * len(scale)
    for name in ("conv1", "conv2", "dense"):
        values = expected[name]
        steps = (values / np.abs(values).max() + 1) / 2 * (len(scale) - 1)
        page.open_layer(name)
        for canvas in ("#focus-canvas", f"[data-layer='{name}'] canvas"):
            colors = drawn_maps(page.pixels(canvas), values.shape)
            drawn = np.array([step_of[tuple(color)] for color in colors.reshape(-1, 4).tolist()]).reshape(values.shape)
            assert np.abs(drawn - steps).max() < 2, (name, canvas)
    page.close()


def drawn_maps(pixels: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Return the colors of a layer's values, [*shape, 4], from a canvas of tiles with a pixel between them."""
    height, width, maps = shape if len(shape) == 3 else (1, 1, shape[0])
    gap = 1 if len(shape) == 3 else 0
    columns = (pixels.shape[1] + gap) // (width + gap)
    corners = [divmod(each, columns) for each in range(maps)]
    tiles = [
        pixels[row * (height + gap) : row * (height + gap) + height, column * (width + gap) :][:, :width]
        for row, column in corners
    ]
    return np.stack(tiles, axis=2).reshape(*shape, 4)


def one_of_each_kind(demo: Demo, model: int = 0) -> list[str]:
    """Return the names of the last layer of each kind."""
    return list({type(layer).__name__: layer.name for layer in demo.models[model].layers}.values())


def test_large_gray_images_in_16_classes_and_two_models_are_shown_exactly(browser: Browser, odd: Demo) -> None:
    page = DemoPage(browser, odd.address, WALL)
    assert len(page.guesses()) == 2
    page.draw("7")
    image = page.image(odd.shape)
    for model in (0, 1):
        expected = outputs(odd, image, model)
        assert check_layers(page, expected, model, one_of_each_kind(odd, model), POINTS[:1])
    assert page.faults == []
    page.close()


def test_color_images_are_shown_exactly_and_drawn_in_color(browser: Browser, color: Demo) -> None:
    page = DemoPage(browser, color.address)
    page.page.fill("#ink", "#ff0000")
    page.draw("1")
    image = page.image(color.shape)
    assert image[..., 0].max() > 0.9
    assert image[..., 1:].max() < 0.1
    check_layers(page, outputs(color, image), layers=one_of_each_kind(color))
    assert page.faults == []
    page.close()


def test_no_request_leaves_the_origin(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    page.draw("0")
    page.open_layer(page.layers()[2])
    page.page.click("#attention-on")
    page.settle()
    assert len(page.requests) > 20
    origin = urljoin(fast.address, "/")
    assert [url for url in page.requests if not url.startswith(origin)] == []
    assert page.page.url == origin  # the token is out of the address bar
    page.page.reload()
    page.page.wait_for_selector("body[data-ready]")
    assert page.guesses()
    page.close()


def test_the_keyboard_alone_reaches_images_layers_and_units(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    layers = page.layers()
    first = page.text("#focus-name")
    page.press("ArrowRight")
    assert page.text("#focus-name") == layers[layers.index(first) + 1]
    page.press("ArrowLeft")
    tab_to(page, f"[data-layer='{first}']")
    page.press("End", "Home", "ArrowRight", "ArrowRight")
    assert page.text("#focus-name") == layers[2]
    tab_to(page, "#focus-units")
    before = page.text("#unit-name")
    page.press("ArrowDown", "ArrowRight", "PageDown", "PageUp", "PageDown")
    assert page.text("#unit-name") != before
    assert page.text("#readout-place") in page.text("#unit-name")
    assert page.text("#readout-place") in page.text("#spoken")
    tab_to(page, "#gallery-grid button")
    page.press("ArrowRight", "ArrowRight", "Enter")
    assert page.text("#source").startswith("test image 2:")
    page.close()


def tab_to(page: DemoPage, selector: str) -> None:
    """Press Tab until an element has the focus, and check that the focus is visible."""
    for _ in range(80):
        page.page.keyboard.press("Tab")
        if page.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            width = page.page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
            assert width >= 2
            return
    pytest.fail(f"Tab does not reach {selector}")


@pytest.mark.parametrize(
    ("size", "scheme"), [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark"), (WALL, "dark")]
)
def test_axe_finds_no_serious_fault_and_the_page_is_as_wide_as_the_screen(
    browser: Browser, fast: Demo, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    page = DemoPage(browser, fast.address, size, scheme)
    page.page.click("#attention-on")
    page.settle()
    faults = Axe().run(page.page).response["violations"]
    assert [each["id"] for each in faults if each["impact"] in ("serious", "critical")] == []
    assert page.page.evaluate("document.documentElement.scrollWidth") == size[0]
    page.close()


def test_one_request_is_under_way_at_a_time_and_the_newest_drawing_wins(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    under_way = {"now": 0, "most": 0}

    def is_frame(request: Any) -> bool:
        return any(path in request.url for path in FRAMES)

    def started(request: Any) -> None:
        if is_frame(request):
            under_way["now"] += 1
            under_way["most"] = max(under_way.values())

    def ended(request: Any) -> None:
        under_way["now"] -= is_frame(request)

    page.page.on("request", started)
    page.page.on("requestfinished", ended)
    for digit in ("7", "0", "1", "0"):
        page.draw(digit)
    assert under_way["most"] == 1
    assert page.guesses() == ["0"]
    page.close()


def test_the_first_stroke_takes_the_place_of_the_example(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    assert page.text("#source").startswith("test image ")
    page.page.locator("#drawing").click(position={"x": 30, "y": 30})
    page.settle()
    assert 0 < ink(page) < 2000  # one dot
    assert page.page.is_checked("#step-scale")
    page.page.locator("#gallery-grid button").nth(1).click()  # chosen by the visitor: to be drawn on
    page.settle()
    chosen = ink(page)
    page.page.locator("#drawing").click(position={"x": 20, "y": 20})
    assert ink(page) > chosen
    assert not page.page.is_checked("#step-scale")
    page.page.click("#clear")
    assert page.page.is_checked("#step-scale")
    page.close()


def test_undo_and_clear_take_back_strokes(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    page.draw("1")
    drawn = ink(page)
    box = page.page.locator("#drawing").bounding_box()
    assert box is not None
    page.page.mouse.click(box["x"] + 30, box["y"] + 30)
    assert ink(page) > drawn
    page.page.keyboard.press("Control+z")
    assert ink(page) == drawn
    page.page.click("#clear")
    assert ink(page) == 0
    page.close()


def ink(page: DemoPage) -> int:
    script = """() => {
      const sheet = document.getElementById("drawing");
      const { data } = sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height);
      return data.filter((value, i) => i % 4 === 0 && value > 127).length;
    }"""
    return int(page.page.evaluate(script))


def test_errors_can_be_browsed_by_class_and_put_into_the_network(browser: Browser, fast: Demo) -> None:
    page = DemoPage(browser, fast.address)
    page.page.select_option("#gallery-which", "errors")
    page.settle()
    shown = page.page.locator("#gallery-grid button").all()
    assert shown
    assert all("→" in button.inner_text() for button in shown)
    true, predicted = shown[0].inner_text().split(" → ")
    shown[0].click()
    page.settle()
    assert page.guesses() == [predicted]
    page.page.select_option("#gallery-class", label=true)
    page.settle()
    of_class = page.page.locator("#gallery-grid button").all()
    assert {button.inner_text().split(" → ")[0] for button in of_class} == {true}
    page.close()


def test_of_1000_classes_the_ten_most_probable_are_listed(browser: Browser) -> None:
    with serving(["compact"], (28, 28, 1), 1000) as demo:
        page = DemoPage(browser, demo.address)
        page.draw("7")
        image = page.image(demo.shape)
        order = np.argsort(-demo.probabilities(image), kind="stable")[:10]
        names = page.page.locator(".classes .name").all_inner_texts()
        assert names == [demo.names[at] for at in order]
        assert page.faults == []
        page.close()
