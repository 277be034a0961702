"""`idxtrain serve` as a process: a registry's champion under load, promotions, faults, signals, hostile requests."""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.registry.registry import Registry
from deploy.registry.versions import CHAMPION
from tests.conftest import Idxtrain
from tests.support.hostile_http import hostile_request
from tests.support.served_models import LABELS, NAME, SHAPE, registered
from tests.support.serving import Answers, Connection, Serving, as_fast_as_possible, at_a_rate, exchange, post

pytestmark = pytest.mark.long

IMAGE = bytes(30)
BROKEN = 4  # a version whose file is not the one that was registered
DEADLINE = 5.0  # seconds from a promotion to the first answer of the new version


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a registry of four versions; version N is sure of class N − 1, and 4 is damaged."""
    registry = registered(tmp_path_factory.mktemp("registry"), BROKEN)
    files = sorted(registry._work.registry.rglob("*.keras"), key=lambda path: path.stat().st_mtime)
    with files[-1].open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    return registry


@pytest.fixture(scope="module")
def shared(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("shared")
    with Serving(folder, "@champion", "--name", NAME, "--work", registry._work.path) as server:
        yield server.ready()


@pytest.fixture
def server(registry: Registry, shared: Serving) -> Serving:
    """Return the server that tests share, serving version 1."""
    registry.set_alias(CHAMPION, 1)
    wait_until(1, shared, 30)
    return shared


@pytest.fixture(scope="module")
def lonely(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Return a server with a registry of its own, a copy."""
    folder = tmp_path_factory.mktemp("lonely")
    shutil.copytree(registry._work.path, folder / "work")
    with Serving(folder, "@champion", "--name", NAME, "--work", folder / "work") as server:
        yield server.ready()


def version_of(answer: dict[str, object]) -> int:
    """Return the version that computed an answer; fail if a prediction is not of the model that the answer names."""
    model, predictions = answer["model"], answer["predictions"]
    assert isinstance(model, dict)
    assert isinstance(predictions, list)
    version = int(model["version"])
    assert (model["title"], model["run"]) == (f"{NAME} version {version}", f"r{version}")
    assert {each["label"] for each in predictions} == {LABELS[version - 1]}
    return version


def predict(server: Serving) -> int:
    status, body = asyncio.run(Connection(server.port).send(post(IMAGE)))
    assert status == 200
    return version_of(json.loads(body))


def wait_until(version: int, server: Serving, seconds: float) -> float:
    """Return the seconds until this version answers."""
    begin = time.monotonic()
    while predict(server) != version:
        assert time.monotonic() - begin < seconds, server.log
        time.sleep(0.02)
    return time.monotonic() - begin


def test_two_promotions_under_load_lose_and_mix_no_request(server: Serving, registry: Registry) -> None:
    requests = [*[post(IMAGE)] * 24, post(IMAGE * 150)]  # one of them larger than a batch

    async def main() -> Answers:
        load = asyncio.create_task(at_a_rate(server.port, requests, rate=100, seconds=14))
        for wait, number in ((3, 2), (5, 3)):
            await asyncio.sleep(wait)
            await asyncio.to_thread(registry.set_alias, CHAMPION, number)
        return await load

    answers = asyncio.run(main())
    assert answers.errors == []
    assert answers.statuses == [200] * 1400
    assert {version_of(body) for body in answers.bodies} == {1, 2, 3}
    assert predict(server) == 3


def test_a_promotion_and_a_rollback_are_served_within_five_seconds(server: Serving, registry: Registry) -> None:
    for number in (2, 1, 3):
        registry.set_alias(CHAMPION, number)
        assert wait_until(number, server, DEADLINE) < DEADLINE


def test_a_damaged_champion_is_not_served_and_its_successor_is(server: Serving, registry: Registry) -> None:
    registry.set_alias(CHAMPION, BROKEN)
    server.wait_for("still serving digits version 1")
    assert f"{NAME} version {BROKEN}: found a model of SHA-256" in server.log
    assert predict(server) == 1
    registry.set_alias(CHAMPION, 2)
    wait_until(2, server, DEADLINE)
    assert "Traceback" not in server.log


def test_while_the_registry_is_away_the_last_model_is_served(lonely: Serving) -> None:
    before, database = predict(lonely), lonely.folder / "work/mlflow/mlflow.db"
    content = database.read_bytes()
    database.write_bytes(b"no database" * 1000)
    lonely.wait_for("still serving digits version")
    assert predict(lonely) == before
    assert b"idxtrain_registry_up 0.0" in exchange(lonely.port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    database.write_bytes(content)
    lonely.wait_for("the model registry answers again")
    assert b"idxtrain_registry_up 1.0" in exchange(lonely.port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")


def test_the_process_that_follows_the_registry_is_replaced_and_ends_with_the_server(lonely: Serving) -> None:
    (follower,) = lonely.children()
    follower.kill()
    lonely.wait_for("another one starts")
    while not (children := lonely.children()):
        time.sleep(0.1)
    lonely.process.kill()
    lonely.process.wait()
    assert psutil.wait_procs(children, 20)[1] == []


def test_a_second_signal_ends_the_server_at_once(registry: Registry, tmp_path: Path) -> None:
    options = ("@2", "--name", NAME, "--work", registry._work.path, "--drain", 60)
    with Serving(tmp_path, *options) as server:
        server.ready()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        time.sleep(1.1)  # signals within a second are one request to stop
        assert server.end() == 75


def test_a_run_is_not_followed_and_a_version_neither(registry: Registry, tmp_path: Path) -> None:
    with Serving(tmp_path, "@2", "--name", NAME, "--work", registry._work.path) as server:
        server.ready()
        assert predict(server) == 2
        assert server.children() == []
        assert server.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("@nothing",), 2, "digits: found no version, alias or run 'nothing', expected one of: 4, 3, 2, 1"),
        ((f"@{BROKEN}",), 1, f"digits version {BROKEN}: found a model of SHA-256"),
        (("none",), 2, "found no such run"),
        (("@champion", "--host", "0.0.0.0"), 2, "--host 0.0.0.0: found no token"),  # noqa: S104
        (("@champion", "--host", "203.0.113.7", "--token-file", "TOKEN"), 2, "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: tuple[str, ...], code: int, message: str, registry: Registry, idxtrain: Idxtrain, tmp_path: Path
) -> None:
    token = tmp_path / "TOKEN"
    token.touch(0o600)
    token.write_text("0123456789abcdef-of-a-test")
    done = idxtrain("serve", *arguments, "--port", 0, "--name", NAME, "--work", registry._work.path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("listening on")]
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert message in lines[0]


def test_ten_thousand_hostile_requests_get_no_server_error_and_take_no_memory(server: Serving) -> None:
    randomness = random.Random(18)  # noqa: S311
    log = server.log

    def attack(count: int) -> None:
        statuses: dict[int, int] = {}
        for _ in range(count):
            answer = exchange(server.port, hostile_request(randomness, SHAPE), seconds=0.2)
            status = int(answer.split()[1]) if answer else 0
            statuses[status] = statuses.get(status, 0) + 1
            assert status < 500, answer[:300]
        print(statuses)

    attack(2000)
    begun = server.resident_bytes()
    attack(8000)
    assert server.resident_bytes() - begun < 30 << 20
    assert predict(server) == 1
    assert "Traceback" not in server.log
    assert server.log.count("\n") - log.count("\n") <= 1  # nor do they fill a disk


def test_requests_made_from_the_openapi_description_get_only_answers_that_it_documents(server: Serving) -> None:
    program = str(Path(sys.executable).with_name("st"))
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        program,
        "run",
        f"{server.url}/openapi.json",
        "--checks",
        checks,
        "--max-examples",
        "100",
        "--seed",
        "18",
    ]
    done = subprocess.run([*command, "--phases", "examples,coverage,fuzzing"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Traceback" not in server.log


def test_many_promotions_take_no_memory(server: Serving, registry: Registry) -> None:
    sizes = []
    for turn in range(12):
        number = 1 + turn % 3
        registry.set_alias(CHAMPION, number)
        wait_until(number, server, 2 * DEADLINE)
        asyncio.run(as_fast_as_possible(server.port, [post(IMAGE * 9)], 4, 0.2))
        sizes.append(server.resident_bytes())
    assert sizes[-1] - sizes[5] < 40 << 20, sizes


def test_a_signal_drains_all_requests_are_answered_and_the_exit_code_is_0(server: Serving) -> None:
    async def main() -> Answers:
        load = asyncio.create_task(at_a_rate(server.port, [post(IMAGE * 20)], rate=50, seconds=1.8))
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait_for, "draining")
        status, _ = await Connection(server.port).send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status == 503
        return await load

    answers = asyncio.run(main())
    assert (answers.errors, set(answers.statuses)) == ([], {200})
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log
