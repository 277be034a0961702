"""The last outcome is told to a command and a webhook, at least once, and no secret is in what is said."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.run_dir import Work
from pipelines.config import compose
from pipelines.notify import WEBHOOK, check, notify
from pipelines.options import Options
from pipelines.retrain import Retrain, _Retraining
from pipelines.retrain_state import Place
from tests.webhook import Webhook, webhook

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
    assert "no-such-program-here" in caplog.text
    assert "exit code 3" in caplog.text
    assert "the webhook failed" in caplog.text
    assert "secret" not in caplog.text


def test_what_was_not_told_is_told_by_the_next_retraining_and_then_no_more(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(Work(tmp_path / "work"), "digits")
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


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org", "example.org"])
def test_an_address_that_anybody_could_read_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="IDXTRAIN_WEBHOOK: found no https:// URL") as caught:
        check(None, {WEBHOOK: url})
    assert "example" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "tell 'me"])
def test_a_command_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--notify .*expected a command"):
        check(text, {})
