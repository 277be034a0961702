"""The connections of `idxtrain serve`: slow, damaged and too many; and the end. In one process, without TensorFlow."""

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from deploy.serving.limits import Limits
from deploy.serving.service import Service
from tests.support.hostile_http import hostile_request
from tests.support.served_models import SHAPE, NamedModel, serving_here
from tests.support.serving import Connection, exchange, post

LIMITS = Limits(batch=8, queue=40, requests=4, body=20_000, pixels=10_000, images=400, seconds=0.5)
IMAGE = bytes(30)


@pytest.fixture(scope="module")
def model() -> NamedModel:
    return NamedModel(1)


@pytest.fixture(scope="module")
def server(model: NamedModel) -> Iterator[tuple[int, Service]]:
    with serving_here(model, LIMITS) as here:
        yield here


@pytest.fixture
def port(server: tuple[int, Service]) -> int:
    return server[0]


def talk(port: int, *parts: bytes, pause: float = 0.0, seconds: float = 10) -> bytes:
    """Send parts with pauses; return all that comes back until the server ends the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(OSError):  # the server may end it in the middle
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        while block := connection.recv(1 << 16):
            received += block
    return received


def status_of(answer: bytes) -> int:
    """Return the status of an answer that has an error in one JSON line, and no traceback."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert list(json.loads(body)) == ["error"], answer
    assert b"Traceback" not in answer
    return int(head.split()[1])


def test_headers_that_arrive_too_slowly_end_the_connection_although_some_arrive(port: int) -> None:
    begin = time.monotonic()
    answer = talk(port, b"POST /predict HTTP/1.1\r\n", *[b"X-Y: z\r\n"] * 8, pause=0.1)
    assert status_of(answer) == 408
    assert time.monotonic() - begin < 5


def test_a_connection_without_a_request_ends_without_an_answer(port: int) -> None:
    assert talk(port) == b""


def test_a_body_that_arrives_too_slowly_is_refused_although_some_arrives(port: int) -> None:
    head = post(bytes(3000)).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert status_of(talk(port, head, *[b"x"] * 8, pause=0.1)) == 408


@pytest.mark.parametrize("request_", [b"NONSENSE\r\n", b"GET /ready HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01"])
def test_what_is_not_http_is_refused_as_json(request_: bytes, port: int) -> None:
    assert status_of(talk(port, request_ + b"\r\n\r\n")) == 400


def test_headers_without_end_are_refused(port: int) -> None:
    assert status_of(talk(port, b"GET /ready HTTP/1.1\r\nX: " + b"y" * 200_000)) == 400


def test_a_body_of_any_length_is_refused_without_reading_it_whole(port: int) -> None:
    endless = post(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
    assert status_of(talk(port, endless, *[bytes(10_000)] * 3)) == 413
    chunked = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert status_of(talk(port, chunked, *[b"2000\r\n" + bytes(0x2000) + b"\r\n"] * 4)) == 413


def test_a_client_that_asks_before_it_sends_is_refused_before_it_sends(port: int) -> None:
    asking = post(bytes(30_000), headers=["Expect: 100-continue"]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    answer = talk(port, asking)
    assert status_of(answer) == 413
    assert b"100 Continue" not in answer


def test_requests_that_are_sent_at_once_are_answered_in_order(port: int) -> None:
    closing = post(IMAGE * 3, headers=["Connection: close"])
    answer = talk(port, post(IMAGE) + post(b"x") + closing)
    assert [len(json.loads(line).get("predictions", ())) for line in answer.split(b"\n") if b"{" in line] == [1, 0, 3]


def test_of_too_many_connections_some_are_refused_and_the_rest_reset_at_once(model: NamedModel) -> None:
    limits = Limits(requests=1, seconds=20.0)
    with serving_here(model, limits) as (port, _), ExitStack() as stack:
        address = ("127.0.0.1", port)
        opened = [
            stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(limits.connections + 68)
        ]
        kept, refused, reset = opened[: limits.connections], opened[limits.connections : -8], opened[-8:]
        assert [status_of(b"".join(iter(lambda: each.recv(1 << 16), b""))) for each in refused] == [503] * 60  # noqa: B023
        for each in reset:
            with suppress(ConnectionResetError):
                assert each.recv(1) == b""
        kept[0].sendall(post(IMAGE))
        assert kept[0].recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_too_many_requests_at_a_time_are_refused_and_the_others_answered(
    server: tuple[int, Service], model: NamedModel
) -> None:
    async def main() -> list[int]:
        model.may_compute.clear()
        tasks = [asyncio.create_task(Connection(server[0]).send(post(IMAGE))) for _ in range(10)]
        while sum(task.done() for task in tasks) < 6:
            await asyncio.sleep(0.01)
        model.may_compute.set()
        return sorted(status for status, _ in await asyncio.gather(*tasks))

    try:
        assert asyncio.run(main()) == [200] * 4 + [503] * 6
    finally:
        model.may_compute.set()


def test_a_model_that_takes_too_long_is_reported_and_the_queue_is_emptied(
    server: tuple[int, Service], model: NamedModel
) -> None:
    async def main() -> None:
        model.may_compute.clear()
        answers = await asyncio.gather(*(Connection(server[0]).send(post(IMAGE)) for _ in range(4)))
        assert [status for status, _ in answers] == [503] * 4
        assert b"found no result after 0.5 s" in answers[0][1]
        model.may_compute.set()
        assert (await Connection(server[0]).send(post(IMAGE)))[0] == 200

    try:
        asyncio.run(main())
    finally:
        model.may_compute.set()


def test_too_many_connections_are_refused(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(LIMITS.connections)]
    try:
        time.sleep(0.1)
        assert status_of(talk(port)) == 503
    finally:
        for each in idle:
            each.close()
    time.sleep(0.1)
    assert talk(port, post(IMAGE, headers=["Connection: close"])).startswith(b"HTTP/1.1 200")


def test_a_client_that_takes_no_answer_loses_its_connection(port: int) -> None:
    request = post(IMAGE * 400, query="?top=4")  # its answer has 130 kB

    def send_and_read_nothing() -> None:
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.settimeout(5)
            lazy.connect(("127.0.0.1", port))
            for _ in range(5000):
                lazy.sendall(request)

    with pytest.raises(ConnectionError):
        send_and_read_nothing()


def test_a_draining_server_is_not_ready_and_answers_what_arrives_and_what_waits() -> None:
    model = NamedModel()
    with serving_here(model, LIMITS) as (port, service):

        async def main() -> None:
            model.may_compute.clear()
            waiting = asyncio.create_task(Connection(port).send(post(IMAGE)))
            assert await asyncio.to_thread(model.begun.wait, 10)
            service.is_stopping = True
            status, body = await Connection(port).send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (status, json.loads(body)) == (503, {"error": "the server stops"})
            late = asyncio.create_task(Connection(port).send(post(IMAGE)))
            await asyncio.sleep(0.05)
            model.may_compute.set()
            assert [(await each)[0] for each in (waiting, late)] == [200, 200]

        asyncio.run(main())


def test_a_request_in_the_queue_is_answered_although_the_server_has_stopped_listening() -> None:
    model = NamedModel()
    model.may_compute.clear()
    answers: list[bytes] = []
    with serving_here(model, LIMITS) as (port, _):
        client = threading.Thread(target=lambda: answers.append(talk(port, post(IMAGE * 20))))
        client.start()
        assert model.begun.wait(10)
        threading.Timer(0.2, model.may_compute.set).start()
    client.join(10)
    assert len(json.loads(answers[0].partition(b"\r\n\r\n")[2])["predictions"]) == 20


def test_hostile_requests_get_no_server_error_and_the_next_good_one_is_answered(port: int) -> None:
    randomness = random.Random(18)  # noqa: S311
    for number in range(120):
        request = hostile_request(randomness, SHAPE)
        answer = exchange(port, request)
        status = int(answer.split()[1]) if answer else 0
        assert status < 500, (number, request[:300], answer[:300])
        assert b"Traceback" not in answer
    assert talk(port, post(IMAGE, headers=["Connection: close"])).startswith(b"HTTP/1.1 200")
