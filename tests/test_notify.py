"""Each outcome is delivered to a command and a webhook at least once, and no secret is logged or kept."""

import json
import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.run_dir import Work
from pipelines.config import compose
from pipelines.request import Options
from pipelines.retraining import notify
from pipelines.retraining.records import Notification
from pipelines.retraining.retrain import RetrainOptions, _Retraining
from pipelines.retraining.retrain_dir import RetrainDir
from tests.support.odd_answers import ANSWERS, SECRET, OddServer, odd_command, odd_server
from tests.support.webhook import Webhook, webhook

PROMOTED = Notification(
    id="r1-promoted", event="promoted", name="digits", run_id="r1", reason="it is better", version=3
)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


def command(folder: Path, code: int = 0) -> str:
    """Return a command that appends its stdin to FOLDER/received and ends with `code`."""
    program = f"import sys; open('{folder}/received', 'a').write(sys.stdin.read()); sys.exit({code})"
    return f'{sys.executable} -c "{program}"'


def test_command_and_webhook_get_the_same_json(hook: Webhook, tmp_path: Path) -> None:
    assert notify.send(PROMOTED, command(tmp_path), {notify.WEBHOOK: hook.url})
    assert hook.received == [PROMOTED.to_json()]
    assert json.loads((tmp_path / "received").read_text()) == PROMOTED.to_json()
    assert notify.send(PROMOTED, None, {})


@pytest.mark.parametrize("status", [404, 500])
def test_a_webhook_that_refuses_causes_a_warning_without_its_address(
    hook: Webhook, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = status
    assert not notify.send(PROMOTED, None, {notify.WEBHOOK: hook.url})
    assert str(status) in caplog.text
    assert "secret" not in caplog.text


def test_a_receiver_that_is_unreachable_or_fails_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not notify.send(PROMOTED, "no-such-program-here", {})
    assert not notify.send(PROMOTED, command(tmp_path, 3), {})
    assert not notify.send(PROMOTED, None, {notify.WEBHOOK: "http://127.0.0.1:1/secret-path"})
    assert not notify.send(PROMOTED, f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'", {})
    assert "no-such-program-here" in caplog.text
    assert "exit code 3" in caplog.text
    assert "signal 9" in caplog.text
    assert "the webhook failed" in caplog.text
    assert "secret" not in caplog.text


def test_an_undelivered_outcome_is_delivered_once_by_the_next_retraining(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain_dir = RetrainDir(Work(tmp_path / "work"), "digits")
    retrain_dir.make()
    retrain_dir.write(PROMOTED)
    retraining = _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir)
    monkeypatch.setenv(notify.WEBHOOK, hook.url)
    hook.status = 503
    retraining._notify()
    assert retrain_dir.read(Notification) is not None
    hook.status = 200
    retraining._notify(is_retry=True)
    retraining._notify(is_retry=True)
    assert hook.received == [PROMOTED.to_json(), PROMOTED.to_json()]  # a repetition has the same ID
    assert retrain_dir.read(Notification) is None


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with odd_server() as server:
        yield server


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_no_odd_answer_stops_a_retraining_or_reveals_a_secret(
    count: int, odd: OddServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(notify, "_SECONDS", 0.5)
    retrain_dir = RetrainDir(Work(tmp_path / "work"), "digits")
    retrain_dir.make()
    delivered = 0
    for seed in range(count):
        draw = odd.draw = random.Random(seed)  # noqa: S311 (no secret)
        odd.answer = ANSWERS[seed // 2 % len(ANSWERS)]
        monkeypatch.setenv(notify.WEBHOOK, odd.url)
        command = odd_command(draw) if seed % 2 else None
        retrain_dir.write(PROMOTED)
        begin = time.monotonic()
        _Retraining(RetrainOptions(options=Options(), notify=command), compose("fast", {}), retrain_dir)._notify(
            is_retry=True
        )  # raises nothing
        assert time.monotonic() - begin < 10
        delivered += retrain_dir.read(Notification) is None
    assert delivered < count / 3
    assert odd.visits == 0
    assert SECRET not in caplog.text
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()
    with webhook() as hook:  # a working receiver then gets it
        retrain_dir.write(PROMOTED)
        monkeypatch.setenv(notify.WEBHOOK, hook.url)
        _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir)._notify(is_retry=True)
        assert hook.received == [PROMOTED.to_json()]
        assert retrain_dir.read(Notification) is None


def test_a_command_that_prints_bytes_that_are_not_utf8_succeeds() -> None:
    assert notify.send(PROMOTED, "printf '\\377'", {})


def test_a_server_that_drips_bytes_is_given_up_in_time(
    odd: OddServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "_SECONDS", 1.0)
    odd.answer = next(answer for answer in ANSWERS if answer.__name__ == "_drops")
    begin = time.monotonic()
    assert not notify.send(PROMOTED, None, {notify.WEBHOOK: odd.url})
    assert time.monotonic() - begin < 8
    assert "the webhook failed: TimeoutError" in caplog.text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError("secret")])
def test_a_failure_of_any_kind_is_notified_and_raised(
    error: Exception, hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain_dir = RetrainDir(Work(tmp_path / "work"), "digits")
    retrain_dir.make()
    monkeypatch.setenv(notify.WEBHOOK, hook.url)
    retraining = _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir)

    def fail() -> None:
        raise error

    monkeypatch.setattr(retraining, "_open_registry", fail)
    with pytest.raises(type(error)):
        retraining.run()
    (failure,) = hook.received
    assert failure.keys() == {"id", "event", "name", "run_id", "reason"}
    assert (failure["event"], failure["name"]) == ("failed", "digits")
    assert ("No space left on device" in failure["reason"]) == isinstance(error, OSError)
    assert "secret" not in failure["reason"]


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org", "example.org"])
def test_a_webhook_without_encryption_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="IDXTRAIN_WEBHOOK: found no https:// URL") as caught:
        notify.check_targets(None, {notify.WEBHOOK: url})
    assert "example" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "mail 'me"])
def test_an_empty_or_malformed_command_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--notify .*expected a command"):
        notify.check_targets(text, {})


@pytest.mark.parametrize(
    "url",
    [
        "https://h:abc/secret",
        "https://[bad/secret",
        "https://h.example/secret x",
        "https://h.example/secret\n",
        "https://h.example/s\u00e9cret",
        "https:///secret",
        "https://me:secret@h.example/",
        "https://h.example:99999/secret",
    ],
)
def test_an_unusable_webhook_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(InputError, match=r"IDXTRAIN_WEBHOOK: found .*; fix: correct the variable") as caught:
        notify.check_targets(None, {notify.WEBHOOK: url})
    assert "cret" not in str(caught.value)
