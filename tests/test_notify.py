"""The last outcome is told to a command and a webhook, at least once, and no secret is in what is said."""

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
from pipelines.retraining import notify as notifications
from pipelines.retraining.notify import WEBHOOK, check, notify
from pipelines.retraining.retrain import Retrain, _Retraining
from pipelines.retraining.retrain_dir import RetrainDir
from tests.support.odd_answers import ANSWERS, SECRET, OddServer, odd_command, odd_server
from tests.support.webhook import Webhook, webhook

NEWS = {"id": "r1-promoted", "event": "promoted", "version": 3}


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


def command(folder: Path, code: int = 0) -> str:
    """Return a command that keeps its stdin and ends so."""
    program = f"import sys; open('{folder}/told', 'a').write(sys.stdin.read()); sys.exit({code})"
    return f'{sys.executable} -c "{program}"'


def test_both_are_told(hook: Webhook, tmp_path: Path) -> None:
    assert notify(NEWS, command(tmp_path), {WEBHOOK: hook.url})
    assert hook.told == [NEWS]
    assert json.loads((tmp_path / "told").read_text()) == NEWS
    assert notify(NEWS, None, {})


@pytest.mark.parametrize("status", [404, 500])
def test_a_webhook_that_refuses_is_a_warning_without_its_address(
    hook: Webhook, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = status
    assert not notify(NEWS, None, {WEBHOOK: hook.url})
    assert str(status) in caplog.text
    assert "secret" not in caplog.text


def test_what_is_away_or_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not notify(NEWS, "no-such-program-here", {})
    assert not notify(NEWS, command(tmp_path, 3), {})
    assert not notify(NEWS, None, {WEBHOOK: "http://127.0.0.1:1/secret-path"})
    assert not notify(NEWS, f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'", {})
    assert "no-such-program-here" in caplog.text
    assert "exit code 3" in caplog.text
    assert "signal 9" in caplog.text
    assert "the webhook failed" in caplog.text
    assert "secret" not in caplog.text


def test_what_was_not_told_is_told_by_the_next_retraining_and_then_no_more(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RetrainDir(Work(tmp_path / "work"), "digits")
    place.make()
    place.write("news", NEWS)
    retraining = _Retraining(Retrain(Options()), compose("fast", {}), place)
    monkeypatch.setenv(WEBHOOK, hook.url)
    hook.status = 503
    retraining._tell()
    assert place.read("news") is not None
    hook.status = 200
    retraining._tell("again")
    retraining._tell("again")
    assert hook.told == [NEWS, NEWS]  # the same id: a repetition
    assert place.read("news") is None


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with odd_server() as made:
        yield made


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_no_odd_answer_stops_a_retraining_or_brings_out_a_secret(
    count: int, odd: OddServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(notifications, "_SECONDS", 0.5)
    place = RetrainDir(Work(tmp_path / "work"), "digits")
    place.make()
    delivered = 0
    for seed in range(count):
        draw = odd.draw = random.Random(seed)  # noqa: S311 (no secret)
        odd.answer = ANSWERS[seed // 2 % len(ANSWERS)]
        monkeypatch.setenv(WEBHOOK, odd.url)
        command = odd_command(draw) if seed % 2 else None
        place.write("news", NEWS)
        begin = time.monotonic()
        _Retraining(Retrain(Options(), notify=command), compose("fast", {}), place)._tell("again")  # raises nothing
        assert time.monotonic() - begin < 10
        delivered += place.read("news") is None
    assert delivered < count / 3
    assert odd.visits == 0
    assert SECRET not in caplog.text
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()
    with webhook() as hook:  # and once the other side is well again, it is told
        place.write("news", NEWS)
        monkeypatch.setenv(WEBHOOK, hook.url)
        _Retraining(Retrain(Options()), compose("fast", {}), place)._tell("again")
        assert hook.told == [NEWS]
        assert place.read("news") is None


def test_bytes_that_are_no_text_are_no_failure() -> None:
    assert notify(NEWS, "printf '\\377'", {})


def test_a_server_that_drips_bytes_is_left_in_time(
    odd: OddServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "_SECONDS", 1.0)
    odd.answer = next(answer for answer in ANSWERS if answer.__name__ == "_drops")
    begin = time.monotonic()
    assert not notify(NEWS, None, {WEBHOOK: odd.url})
    assert time.monotonic() - begin < 8
    assert "the webhook failed: TimeoutError" in caplog.text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError("secret")])
def test_a_failure_of_any_kind_is_told_and_raised(
    error: Exception, hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RetrainDir(Work(tmp_path / "work"), "digits")
    place.make()
    monkeypatch.setenv(WEBHOOK, hook.url)
    retraining = _Retraining(Retrain(Options()), compose("fast", {}), place)

    def fail() -> None:
        raise error

    monkeypatch.setattr(retraining, "_registry", fail)
    with pytest.raises(type(error)):
        retraining.run()
    (news,) = hook.told
    assert (news["event"], news["name"]) == ("failed", "digits")
    assert ("No space left on device" in news["reason"]) == isinstance(error, OSError)
    assert "secret" not in news["reason"]


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org", "example.org"])
def test_an_address_that_anybody_could_read_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="IDXTRAIN_WEBHOOK: found no https:// URL") as caught:
        check(None, {WEBHOOK: url})
    assert "example" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "tell 'me"])
def test_a_command_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--notify .*expected a command"):
        check(text, {})


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
def test_an_address_that_cannot_be_used_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(InputError, match=r"IDXTRAIN_WEBHOOK: found .*; fix: correct the variable") as caught:
        check(None, {WEBHOOK: url})
    assert "cret" not in str(caught.value)
