"""`idxtrain serve` in one process, without TensorFlow: what it answers, what it refuses, batches, the token."""

import asyncio
import gzip
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from deploy.serving.batches import QueueFullError
from deploy.serving.limits import Limits
from deploy.serving.served import sizes
from deploy.serving.token import read_token, require_token
from jobs.errors import InputError
from jobs.prepare.idx_header import encode, header_of
from tests.support.served_models import SHAPE, NamedModel, all_of, batches, images, serving_here

RAW, IDX, PNG = "application/octet-stream", "application/x-idx", "image/png"
LIMITS = Limits(batch=8, queue=40, requests=4, body=20_000, pixels=10_000, images=20, seconds=1.0)
PIXELS = np.arange(30, dtype=np.uint8).reshape(SHAPE)
TOKEN = "0123456789abcdef-of-a-test"  # noqa: S105


def png(pixels: Any, mode: str | None = None, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(np.squeeze(pixels))
    (picture.convert(mode) if mode else picture).save(file, form)
    return file.getvalue()


def archive(shape: tuple[int, ...], dtype: str = "uint8", value: int = 0) -> bytes:
    """Return an IDX archive whose values are all the same."""
    array = np.full(shape, value, np.dtype(dtype).newbyteorder(">"))
    return encode(header_of(array)) + array.tobytes()


@pytest.fixture(scope="module")
def model() -> NamedModel:
    return NamedModel(1)


@pytest.fixture(scope="module")
def client(model: NamedModel) -> Iterator[httpx.Client]:
    with serving_here(model, LIMITS) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


def post(client: httpx.Client, body: bytes, kind: str = RAW, query: str = "") -> httpx.Response:
    return client.post(f"/predict{query}", content=body, headers={"Content-Type": kind})


# --- what is answered


@pytest.mark.parametrize("kind", [PNG, "image/jpeg", RAW, IDX])
def test_every_form_of_one_image_reaches_the_model_as_the_same_values(
    kind: str, client: httpx.Client, model: NamedModel
) -> None:
    flat = np.full(SHAPE, 100, np.uint8)  # survives JPEG
    bodies = {PNG: png(flat), "image/jpeg": png(flat, form="JPEG"), RAW: flat.tobytes()}
    body = bodies.get(kind) or archive((1, *SHAPE), value=100)
    answer = post(client, body, kind)
    assert answer.status_code == 200, answer.text
    assert model.batches[-1].dtype == np.float32
    assert np.array_equal(model.batches[-1], (flat[None] / 255).astype(np.float32))


def test_an_answer_has_label_name_probability_and_the_model_for_each_image_in_order(client: httpx.Client) -> None:
    answer = post(client, PIXELS.tobytes() * 3, query="?top=2").json()
    assert answer["model"] == {"title": "model 1", "version": 1, "run": "r1", "sha256": "1" * 64}
    first, second = {"label": 3, "name": "three", "probability": 0.7}, {"label": -1, "name": "minus one"}
    assert answer["predictions"] == [{**first, "top": [first, second | {"probability": 0.1}]}] * 3


def test_top_lists_at_most_the_classes_and_by_default_one(client: httpx.Client) -> None:
    for query, count in (("", 1), ("?top=4", 4), ("?top=1000", 4)):
        (prediction,) = post(client, PIXELS.tobytes(), query=query).json()["predictions"]
        assert len(prediction["top"]) == count


def test_an_idx_archive_may_be_compressed_and_have_a_dimension_of_channels_or_not(
    client: httpx.Client,
) -> None:
    for plain in (archive((7, 6, 5)), archive((7, *SHAPE))):
        for body in (plain, gzip.compress(plain)):
            assert len(post(client, body, IDX).json()["predictions"]) == 7


def test_a_picture_of_another_size_is_resampled_only_on_request(client: httpx.Client, model: NamedModel) -> None:
    picture = png(np.full((60, 50), 90, np.uint8))
    refused = post(client, picture, PNG)
    assert refused.status_code == 422
    assert "?resize=true" in refused.json()["error"]
    assert post(client, picture, PNG, "?resize=true").status_code == 200
    assert model.batches[-1].shape == (1, *SHAPE)


def test_raw_pixels_are_as_in_archives_that_lie_on_their_side_and_pictures_are_upright() -> None:
    model = NamedModel(shape=(5, 6, 1), orientation="transpose")
    with serving_here(model, LIMITS) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert post(client, PIXELS.tobytes()).status_code == 200
        assert np.allclose(model.batches[-1][0, :, :, 0] * 255, PIXELS[..., 0].T)
        assert post(client, png(PIXELS[..., 0].T), PNG).status_code == 200
        assert np.allclose(model.batches[-1][0, :, :, 0] * 255, PIXELS[..., 0].T)


def test_the_openapi_description_is_local_and_lists_every_body(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/health", "/ready", "/metrics"}
    assert set(described["paths"]["/predict"]["post"]["requestBody"]["content"]) == {PNG, "image/jpeg", RAW, IDX}
    assert {client.get(path).status_code for path in ("/docs", "/redoc")} == {404}


def test_metrics_count_requests_batches_and_name_the_model(client: httpx.Client) -> None:
    def count(name: str) -> float:
        line = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(line[1]) if line else 0.0

    good, bad = (f'idxtrain_requests_total{{path="/predict",status="{status}"}}' for status in (200, 415))
    counters = (good, bad, "idxtrain_batch_images_sum", "idxtrain_request_seconds_count")
    before = [count(name) for name in counters]
    post(client, PIXELS.tobytes() * 5)
    post(client, b"", "text/html")
    assert [count(name) - earlier for name, earlier in zip(counters, before, strict=True)] == [1, 1, 5, 2]
    assert count("idxtrain_queue_images") == 0
    assert count("idxtrain_model_version") == 1
    assert 'title="model 1"' in client.get("/metrics").text


# --- what is refused

NOISE = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
# Of each fault: status, body, content type, query, and part of the message.
FAULTS: Mapping[str, tuple[int, bytes, str, str, str]] = {
    "no content type": (415, PIXELS.tobytes(), "", "", "Content-Type: found ''"),
    "another content type": (415, b"x", "image/gif", "", "expected one of image/png"),
    "empty": (422, b"", RAW, "", "found 0 bytes, expected n x 6 x 5 x 1"),
    "not a whole image": (422, b"x" * 31, RAW, "", "found 31 bytes"),
    "too long": (413, b"x" * 30_000, RAW, "", "at most 20,000"),
    "too many images": (413, b"x" * 30 * 21, RAW, "", "found 21 images, expected 1 to 20"),
    "a PNG that is none": (422, b"x" * 30, PNG, "", "found no PNG"),
    "a JPEG called PNG": (422, png(PIXELS, form="JPEG"), PNG, "", "found no PNG"),
    "a cut PNG": (422, png(NOISE)[:2000], PNG, "?resize=1", "damaged"),
    "a decompression bomb": (413, png(np.zeros((200, 200), np.uint8)), PNG, "?resize=1", "found a picture of 40,000"),
    "no IDX": (422, b"x" * 30, IDX, "", "body: byte 0: found the bytes 78 78"),
    "IDX of another shape": (422, archive((2, 5, 5)), IDX, "", "expected n x 6 x 5"),
    "IDX of another type": (422, archive((2, 6, 5), "int16"), IDX, "", "found int16 values, expected uint8"),
    "IDX of no images": (422, archive((0, 6, 5)), IDX, "", "found 0 images"),
    "IDX that inflates to too much": (413, gzip.compress(archive((600, 6, 5))), IDX, "", "found 600 images"),
    "a top that is no number": (422, PIXELS.tobytes(), RAW, "?top=x", "query top: found 'x'"),
    "a top of 0": (422, PIXELS.tobytes(), RAW, "?top=0", "query top: found '0'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_cannot_be_answered_is_refused_in_one_line(fault: str, client: httpx.Client) -> None:
    status, body, kind, query, part = FAULTS[fault]
    answer = post(client, body, kind, query)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert part in answer.json()["error"]
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/none", 404), ("GET", "/predict", 405), ("POST", "/health", 405)]
)
def test_unknown_paths_and_methods_are_refused_in_the_same_form(
    method: str, path: str, status: int, client: httpx.Client
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_compressed_body_is_refused_before_it_is_inflated(client: httpx.Client) -> None:
    headers = {"Content-Type": RAW, "Content-Encoding": "gzip"}
    assert client.post("/predict", content=gzip.compress(PIXELS.tobytes()), headers=headers).status_code == 415


def test_values_that_are_not_numbers_are_refused() -> None:
    floats = {"rule": "train-range", "offset": 0.0, "scale": 1.0}
    body = bytearray(archive((1, 6, 5), "float32"))
    model = NamedModel(normalization=floats)
    with serving_here(model, LIMITS) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert post(client, bytes(body), IDX).status_code == 200
        body[-4:] = b"\x7f\xc0\0\0"  # NaN
        assert "found NaN" in post(client, bytes(body), IDX).json()["error"]


def test_without_a_model_the_server_is_healthy_but_not_ready() -> None:
    with serving_here(None, LIMITS) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), post(client, PIXELS.tobytes())):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "it is being loaded" in answer.json()["error"]


def test_a_fault_of_the_model_is_answered_without_a_traceback_and_the_next_request_is_served(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = NamedModel(share=float("nan"))
    with serving_here(model, LIMITS) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        answer = post(client, PIXELS.tobytes())
        assert (answer.status_code, answer.json()) == (500, {"error": "the server failed; its log has the reason"})
        model.share = 0.7
        assert post(client, PIXELS.tobytes()).status_code == 200
    assert "Traceback" not in "".join(capfd.readouterr())


# --- the token


def test_with_a_token_only_the_probes_answer_without_it(model: NamedModel) -> None:
    with serving_here(model, LIMITS, TOKEN) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for value in (None, f"Bearer {TOKEN}x", TOKEN, "Bearer"):
            header = {"Authorization": value} if value else {}
            statuses = [client.get(path, headers=header).status_code for path in ("/health", "/ready", "/metrics")]
            assert statuses == [200, 200, 401]
            refused = client.post("/predict", content=PIXELS.tobytes(), headers={"Content-Type": RAW, **header})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        client.headers["Authorization"] = f"bearer {TOKEN}"
        assert post(client, PIXELS.tobytes()).status_code == 200
        assert client.get("/metrics").status_code == 200


def test_beyond_loopback_a_token_is_demanded() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        require_token(host, None)
    everywhere = ("0.0.0.0", "::")  # noqa: S104
    for host in everywhere:
        require_token(host, TOKEN)
        with pytest.raises(InputError, match="found no token, expected one beyond loopback"):
            require_token(host, None)


def test_a_token_comes_from_a_private_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with pytest.raises(InputError, match="found mode 0644, expected 0600"):
        read_token(file, {})
    file.chmod(0o600)
    assert read_token(file, {"IDXTRAIN_TOKEN": "another-token-of-a-test"}) == TOKEN
    assert read_token(None, {"IDXTRAIN_TOKEN": TOKEN}) == TOKEN
    assert read_token(None, {}) is None


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "x" * 2000, "ümlaut-ümlaut-ümlaut"])
def test_a_weak_token_is_refused_and_never_shown(token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    for where, environment in ((file, {}), (None, {"IDXTRAIN_TOKEN": token})):
        with pytest.raises(InputError, match="expected 16 to 1,000 visible ASCII characters") as error:
            read_token(where, environment)
        assert not token or token not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "none", {})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="found no regular file"):
        read_token(tmp_path / "pipe", {})


# --- batches


def test_batch_sizes_are_powers_of_two_and_the_largest() -> None:
    assert sizes(1) == (1,)
    assert sizes(64) == (1, 2, 4, 8, 16, 32, 64)
    assert sizes(48) == (1, 2, 4, 8, 16, 32, 48)


def test_a_batch_is_what_waits_when_the_model_is_free() -> None:
    async def main() -> None:
        model, queue = NamedModel(), batches(4)
        model.may_compute.clear()
        first = queue.submit(model, images(0))  # type: ignore[arg-type]
        assert await asyncio.to_thread(model.begun.wait, 10)
        others = [queue.submit(model, images(number)) for number in range(1, 7)]  # type: ignore[arg-type]
        assert queue.waiting == 6
        model.may_compute.set()
        results = await all_of(first, *others)
        assert [batch[:, 0, 0, 0].tolist() for batch in model.batches] == [[0], [1, 2, 3, 4], [5, 6]]
        assert [len(result) for result in results] == [1] * 7
        assert queue.waiting == 0
        queue.stop(10)

    asyncio.run(main())


def test_a_large_request_lets_others_pass_between_its_batches_and_keeps_its_order() -> None:
    async def main() -> None:
        model, queue = NamedModel(), batches(4)
        model.may_compute.clear()
        large = queue.submit(model, images(*range(10)))  # type: ignore[arg-type]
        assert await asyncio.to_thread(model.begun.wait, 10)
        small = queue.submit(model, images(99))  # type: ignore[arg-type]
        model.may_compute.set()
        assert [len(result) for result in await all_of(large, small)] == [10, 1]
        assert [batch[:, 0, 0, 0].tolist() for batch in model.batches] == [[0, 1, 2, 3], [99, 4, 5, 6], [7, 8, 9]]
        queue.stop(10)

    asyncio.run(main())


def test_a_batch_never_mixes_two_models() -> None:
    async def main() -> None:
        old, new, queue = NamedModel(0), NamedModel(1), batches(8)
        old.may_compute.clear()
        jobs = [queue.submit(old, images(0))]  # type: ignore[arg-type]
        assert await asyncio.to_thread(old.begun.wait, 10)
        for number, model in enumerate((old, old, new, old, new, new), 1):
            jobs.append(queue.submit(model, images(number)))  # type: ignore[arg-type]
        old.may_compute.set()
        results = await all_of(*jobs)
        assert [int(result.argmax()) for result in results] == [0, 0, 0, 1, 0, 1, 1]
        assert [batch[:, 0, 0, 0].tolist() for batch in old.batches] == [[0], [1, 2], [4]]
        assert [batch[:, 0, 0, 0].tolist() for batch in new.batches] == [[3], [5, 6]]
        queue.stop(10)

    asyncio.run(main())


def test_a_full_queue_refuses_and_an_abandoned_request_makes_room() -> None:
    async def main() -> None:
        model, queue = NamedModel(), batches(4, most_waiting=5)
        model.may_compute.clear()
        first = queue.submit(model, images(0))  # type: ignore[arg-type]
        assert await asyncio.to_thread(model.begun.wait, 10)
        large = queue.submit(model, images(*range(50)))  # type: ignore[arg-type]  # nothing waits: it is accepted
        with pytest.raises(QueueFullError, match="found 50 images waiting, expected at most 5"):
            queue.submit(model, images(1))  # type: ignore[arg-type]
        large.cancel()
        model.may_compute.set()
        await first
        while queue.waiting:
            await asyncio.sleep(0.01)
        assert len(await queue.submit(model, images(2))) == 1  # type: ignore[arg-type]
        queue.stop(10)

    asyncio.run(main())


def test_a_batch_that_fails_fails_its_requests_alone() -> None:
    async def main() -> None:
        bad, good, queue = NamedModel(share=float("nan")), NamedModel(), batches(4)
        bad.may_compute.clear()
        doomed = queue.submit(bad, images(*range(10)))  # type: ignore[arg-type]
        other = queue.submit(good, images(0))  # type: ignore[arg-type]
        bad.may_compute.set()
        assert len(await other) == 1
        with pytest.raises(Exception, match="found an output that is not a number"):
            await doomed
        assert queue.waiting == 0
        queue.stop(10)

    asyncio.run(main())
