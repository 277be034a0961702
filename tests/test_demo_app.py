"""The demo's server: what it answers, and whom and what it refuses, always in one line."""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from jobs.demo.app import app
from jobs.demo.browser import open_address
from jobs.demo.guard import QUERY
from jobs.demo.shown import Shown
from jobs.errors import InputError
from tests.support.demo_models import shown
from tests.support.demo_server import TOKEN
from tests.support.pictures import png_file
from tests.support.prepared import Made

SHAPE = (12, 12, 1)
IMAGE = np.random.default_rng(0).random(SHAPE, np.float32).astype("<f4").tobytes()
ADDRESS = "http://127.0.0.1:8000"
ENTRY = f"/?{QUERY}={TOKEN}"


def network() -> Any:
    """Return a small model, compiled in a moment."""
    from keras import Input, Model
    from keras.layers import Conv2D, Dense, Flatten

    images = Input(SHAPE, name="image")
    x = Flatten(name="flat")(Conv2D(2, 3, activation="relu", name="conv")(images))
    return Model(images, Dense(3, activation="softmax", name="answer")(x))


@pytest.fixture(scope="module")
def models() -> list[Shown]:
    return shown([network(), network()])


@pytest.fixture(scope="module")
def client(models: list[Shown]) -> Iterator[TestClient]:
    with TestClient(app(models, TOKEN), base_url=ADDRESS) as made:
        made.get(ENTRY)
        yield made


def test_models_are_listed_in_the_order_of_the_command_line(client: TestClient) -> None:
    one, other = client.get("/api/models").json()["models"]
    assert (one["id"], one["title"], other["id"], other["title"]) == ("0", "run test-0", "1", "run test-1")
    assert one["shape"] == [12, 12, 1]
    assert one["accuracy"] is None
    assert one["classes"][2] == {"label": "2", "name": "2"}
    assert [(layer["name"], layer["kind"], layer["explains"]) for layer in one["layers"]] == [
        ("image", "InputLayer", False),
        ("conv", "Conv2D", True),
        ("flat", "Flatten", True),
        ("answer", "Dense", True),
    ]
    assert one["layers"][1] == one["layers"][1] | {"shape": [10, 10, 2], "parameters": 20, "inputs": ["image"]}
    assert one["parameters"] == 20 + 603


def test_a_look_holds_every_layers_numbers_at_its_offset(client: TestClient, models: list[Shown]) -> None:
    frame = client.post("/api/look", params={"model": "1"}, content=IMAGE).content
    length = int.from_bytes(frame[:4], "little")
    header = json.loads(frame[4 : 4 + length])
    start = -(-(4 + length) // 8) * 8
    expected = models[1].network.outputs(np.frombuffer(IMAGE, "<f4").reshape(SHAPE))
    assert [layer["name"] for layer in header["layers"]] == list(expected)
    for layer in header["layers"]:
        values = np.frombuffer(frame, "<f4", int(np.prod(layer["shape"])), start + layer["offset"])
        np.testing.assert_array_equal(values.reshape(layer["shape"]), expected[layer["name"]])
        assert (layer["min"], layer["max"]) == (values.min(), values.max())
    assert header["probabilities"] == pytest.approx(expected["answer"].tolist())
    assert start + sum(values.nbytes for values in expected.values()) == len(frame)


def test_a_unit_is_explained_over_http(client: TestClient) -> None:
    unit = client.post("/api/unit", params={"model": 0, "layer": "conv", "at": "9,0,1"}, content=IMAGE).json()
    assert unit["reads"] == [{"layer": "image", "from": [9, 0], "size": [3, 3], "channel": None}]
    assert unit["shape"] == [3, 3, 1]
    assert unit["output"] == pytest.approx(max(0, unit["sum"]), abs=1e-5)


def test_attention_has_a_number_for_each_pixel(client: TestClient) -> None:
    answer = client.post("/api/attention", params={"model": 0, "class": 2}, content=IMAGE)
    assert len(np.frombuffer(answer.content, "<f4")) == 144


def test_drawings_and_pictures_are_fitted(client: TestClient) -> None:
    sheet = np.zeros((60, 60), np.uint8)
    sheet[10:30, 20:24] = 255
    raw = client.post("/api/fit", params={"model": 0}, content=sheet.tobytes(), headers={"X-Size": "60"})
    ink = np.frombuffer(raw.content, "<f4").reshape(SHAPE)
    assert ink.sum() == pytest.approx(20 * 4 * (12 * 5 / 7 / 20) ** 2, rel=0.02)  # the stroke, 5/7 of the image high
    picture = client.post(
        "/api/fit", params={"model": 0}, content=png_file(sheet[..., None]), headers={"Content-Type": "image/png"}
    )
    assert picture.content == raw.content
    both = client.post("/api/draw", params={"model": 0}, content=sheet.tobytes(), headers={"X-Size": "60"})
    assert both.content == client.post("/api/look", params={"model": 0}, content=raw.content).content


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "message"),
    [
        ("POST", "/api/look?model=0", {"content": IMAGE[:-4]}, 422, "body: found 572 bytes, expected 576"),
        ("POST", "/api/look?model=7", {"content": IMAGE}, 422, "model: found '7', expected 0 or 1"),
        ("POST", "/api/look", {"content": IMAGE}, 422, "query.model"),
        ("POST", "/api/look?model=0", {"content": b"\xff" * 576}, 422, "body: found numbers outside 0 to 1"),
        ("POST", "/api/unit?model=0&layer=x&at=0", {"content": IMAGE}, 422, "layer: found 'x', expected one of image"),
        ("POST", "/api/unit?model=0&layer=conv&at=0,0,9", {"content": IMAGE}, 422, "at: found 0,0,9"),
        ("POST", "/api/unit?model=0&layer=conv&at=-1", {"content": IMAGE}, 422, "query.at"),
        ("POST", "/api/unit?model=0&layer=image&at=0,0,0", {"content": IMAGE}, 422, "layer: found image"),
        ("POST", "/api/attention?model=0&class=3", {"content": IMAGE}, 422, "class: found 3, expected 0 to 2"),
        ("POST", "/api/fit?model=0", {"content": b"ab", "headers": {"X-Size": "9"}}, 422, "body: found 2 bytes"),
        ("POST", "/api/fit?model=0", {"content": b"ab"}, 422, "X-Size: found ''"),
        ("POST", "/api/fit?model=0", {"content": b"ab", "headers": {"X-Size": "99999"}}, 422, "X-Size: found '99999'"),
        ("POST", "/api/fit?model=0&center=up", {"content": b"a"}, 422, "query.center"),
        ("POST", "/api/fit?model=0", {"content": b"no", "headers": {"Content-Type": "image/png"}}, 422, "picture: not"),
        ("POST", "/api/fit?model=0", {"content": bytes(33 << 20)}, 413, "body: found 34603008 bytes"),
        ("GET", "/api/images?model=0&count=999", {}, 422, "query.count"),
        ("GET", "/api/images?model=0&which=train", {}, 422, "query.which"),
        ("GET", "/api/images?model=0", {}, 404, "nowhere: found no such folder"),
        ("GET", "/api/image?model=0&index=0", {}, 404, "nowhere: found no such folder"),
        ("GET", "/api/look?model=0", {}, 404, "Not Found"),
        ("GET", "/api/nothing", {}, 404, "Not Found"),
        ("GET", "/%2e%2e/app.py", {}, 404, "Not Found"),
        ("GET", "/..%2f..%2fdemo/app.py", {}, 404, "Not Found"),
        ("GET", "/page/%00", {}, 404, "Not Found"),
        ("GET", "/api/models", {"headers": {"Host": "evil.example:8000"}}, 403, "Host: found 'evil.example:8000'"),
        ("GET", "/api/models", {"headers": {"Host": "127.0.0.1.evil.example"}}, 403, "Host: found"),
        ("GET", "/api/models", {"headers": {"Host": "[::1"}}, 403, "Host: found"),
        ("GET", "/api/models", {"headers": {"Origin": "http://evil.example"}}, 403, "Origin: found"),
        ("GET", "/api/models", {"headers": {"Origin": "http://127.0.0.1:9"}}, 403, "Origin: found"),
        ("GET", "/api/models", {"headers": {"Sec-Fetch-Site": "cross-site"}}, 403, "Sec-Fetch-Site: found"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_one_line(
    client: TestClient, method: str, path: str, options: dict[str, Any], status: int, message: str
) -> None:
    answer = client.request(method, path, **options)
    assert (answer.status_code, answer.text[: len(message)]) == (status, message)
    assert len(answer.text.splitlines()) == 1


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/api/models", "/?token=", "/?token=another", f"/main.js?{QUERY}={TOKEN}"]
)
@pytest.mark.parametrize("cookie", ["", "another", "\xe9"])
def test_without_the_token_everything_is_refused_with_where_it_is(models: list[Shown], path: str, cookie: str) -> None:
    with TestClient(app(models, TOKEN), base_url=ADDRESS) as stranger:
        answer = stranger.get(path, headers=[(b"Cookie", f"idxtrain-demo-8000={cookie}".encode("latin-1"))])
    assert (answer.status_code, len(answer.text.splitlines())) == (403, 1)
    assert answer.text.endswith("fix: open the whole address that `idxtrain demo` printed")
    assert "Set-Cookie" not in answer.headers


def test_the_printed_address_admits_a_browser_from_anywhere_by_a_cookie_of_this_site_alone(models: list[Shown]) -> None:
    with TestClient(app(models, TOKEN), base_url=ADDRESS) as browser:
        opened = browser.get(ENTRY, headers={"Sec-Fetch-Site": "cross-site"})
        assert opened.status_code == 200
        assert opened.headers["Set-Cookie"] == f"idxtrain-demo-8000={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
        assert opened.headers["Referrer-Policy"] == "no-referrer"
        assert browser.get("/api/models").status_code == 200
        assert browser.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        cookie = browser.cookies["idxtrain-demo-8000"]
        browser.cookies.clear()
        others = f'of[another]="program{{; idxtrain-demo-8000={cookie}'
        assert browser.get("/api/models", headers={"Cookie": others}).status_code == 200
        with pytest.raises(WebSocketDisconnect), browser.websocket_connect("/"):
            pass


def test_the_address_is_opened_without_its_token_on_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, is_closed = queue.Queue[str](), threading.Event()

    def open_text_browser(address: str) -> None:
        opened.put(address)
        is_closed.wait(30)

    monkeypatch.setattr("webbrowser.open", open_text_browser)
    open_address(ADDRESS + ENTRY, tmp_path)  # does not wait until the browser is closed
    (page,) = tmp_path.iterdir()
    assert opened.get(timeout=10) == page.as_uri()
    is_closed.set()
    assert page.stat().st_mode & 0o077 == 0
    assert f"url={ADDRESS}{ENTRY}" in page.read_text()


def test_a_body_without_a_length_is_cut_off_at_the_limit(client: TestClient) -> None:
    answer = client.post("/api/fit?model=0", content=(bytes(1 << 20) for _ in range(40)))
    assert answer.status_code == 413


def test_answers_may_not_load_from_or_be_read_by_other_pages(client: TestClient) -> None:
    for headers in (client.get("/api/models").headers, client.get("/", headers={"Host": "x"}).headers):
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


def test_test_images_come_with_labels_and_predictions(small: Made, tmp_path: Path) -> None:
    """Classes are numbers, as in the list of classes; without predictions, the model makes them."""
    from jobs.dataset import read_split
    from jobs.demo.gallery import Gallery
    from jobs.demo.network import Network
    from jobs.evaluate.predictions import write_predictions
    from jobs.evaluate.results import collect
    from tests.support.demo_models import untrained

    manifest = small.manifest
    images, labels, indices = read_split(small.directory, manifest, "test")
    model = Network(untrained("softmax", manifest.shape, manifest.classes))
    probabilities = model.probabilities(images)
    file = tmp_path / "predictions.parquet"
    facts: dict[str, Any] = {"title": "t", "recipe": "r", "accuracy": 0.5, "manifest": manifest, "network": model}
    write_predictions(file, collect(labels, indices, [probabilities]), manifest)
    ways = [Shown(gallery=Gallery(small.directory, manifest, each), **facts) for each in (file, None)]
    with TestClient(app(ways, TOKEN), base_url=ADDRESS) as client:
        client.get(ENTRY)
        guesses = probabilities.argmax(axis=1)
        for number in (0, 1):
            found = client.get(f"/api/images?model={number}&from=5&count=7&class=1").json()
            rows = np.flatnonzero(labels == 1)[5:12]
            assert [each["index"] for each in found] == indices[rows].tolist()
            assert [each["label"] for each in found] == [1] * 7
            assert [each["predicted"] for each in found] == guesses[rows].tolist()
            chosen = probabilities.max(axis=1)[rows]
            assert [each["probability"] for each in found] == pytest.approx(chosen.tolist())
        errors = client.get("/api/images?model=0&which=errors&count=200").json()
        assert [each["index"] for each in errors] == indices[guesses != labels].tolist()
        for row in (0, 63, 64, len(images) - 1):
            answer = client.get(f"/api/image?model=0&index={indices[row]}")
            np.testing.assert_array_equal(np.frombuffer(answer.content, "<f4").reshape(manifest.shape), images[row])
        assert client.get("/api/image?model=0&index=123456").status_code == 404
        assert "not found; fix: evaluate" in client.get("/api/images?model=1&which=errors").text


def test_small_answers_are_not_held_back_by_the_kernel() -> None:
    """asyncio sets TCP_NODELAY only on sockets that name their protocol; without it, each takes 40 ms more."""
    from jobs.demo.server import listen

    with listen(0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_refused() -> None:
    from jobs.demo.server import listen

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"--port: found \d+, which cannot be used .*; fix: choose another"):
            listen(taken.getsockname()[1])
