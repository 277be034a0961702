"""How `idxtrain serve` follows the registry: a model that cannot be served comes again, a registry is waited for."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.serving import follow, server, sources
from deploy.serving.candidate import Candidate
from deploy.serving.events import REFUSED, Event
from deploy.serving.limits import Limits
from deploy.serving.service import Service
from deploy.serving.sources import FollowedModel
from jobs.errors import IdxtrainError, InputError
from jobs.predict.model_file import ModelFile
from jobs.run_dir import Work
from tests.support.served_models import NamedModel, manifest

# Stands for the process that follows the registry: the events of each start, and after each a line of answers.
PROCESS = """
import pathlib, sys
starts = pathlib.Path(sys.argv[1], "starts")
starts.touch()
number = len(starts.read_text())
starts.write_text("x" * (number + 1))
events = pathlib.Path(sys.argv[1]).glob(f"{number}.*.json")
for event in sorted(events):
    print(event.read_text(), flush=True)
    if '"path":"/' in event.read_text():
        pathlib.Path(sys.argv[1], "answer").write_text(sys.stdin.readline())
        sys.exit()
sys.exit(1)
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which `START.NUMBER.json` is an event of the process."""
    monkeypatch.setattr(sources, "module_command", lambda *_: [sys.executable, "-c", PROCESS, str(tmp_path)])
    monkeypatch.setattr(sources, "_RESTART_SECONDS", 0.01)
    return tmp_path


def handed_over(number: int, folder: Path) -> str:
    path = folder / f"{number}.keras"
    path.touch()
    event = Event(title=f"v{number}", path=str(path), version=number, run_id="r", manifest=manifest().model_dump_json())
    return event.model_dump_json(exclude_defaults=True)


AWAY = Event(error="the model registry at x: refused", exit_code=1, is_away=True).model_dump_json()


def test_a_registry_that_is_down_at_the_start_is_waited_for(process: Path) -> None:
    (process / "0.0.json").write_text(AWAY)
    (process / "1.0.json").write_text(AWAY)
    (process / "2.0.json").write_text(handed_over(7, process))
    source = FollowedModel(process, "digits", "champion")
    items = source.candidates()
    assert [next(items), next(items)] == ["the model registry at x: refused"] * 2
    first = next(items)
    assert isinstance(first, Candidate)
    assert first.version == 7
    source.refused()
    assert list(items) == []
    source.close()
    assert (process / "answer").read_text() == f"{REFUSED}\n"


@pytest.mark.parametrize(
    ("event", "seconds", "kind"),
    [
        (AWAY, 0.0, IdxtrainError),
        (Event(error="found no alias", exit_code=2).model_dump_json(), 60.0, InputError),
        (Event(error="found a model of SHA-256", exit_code=1).model_dump_json(), 60.0, IdxtrainError),
    ],
)
def test_a_fault_that_time_does_not_heal_and_a_registry_that_stays_down_end_the_server(
    event: str, seconds: float, kind: type[IdxtrainError], process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "START_SECONDS", seconds)
    (process / "0.0.json").write_text(event)
    with pytest.raises(kind) as raised:
        list(FollowedModel(process, "digits", "champion").candidates())
    assert raised.value.exit_code == kind.exit_code


def test_a_version_that_the_server_refused_is_handed_over_again_after_a_pause_that_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    events: list[int] = []
    version = SimpleNamespace(number=2, model_sha256="a" * 64, run_id="r2")

    class OneVersion:
        def __init__(self, *_: Any) -> None: ...

        def find(self, which: str) -> Any:
            return version

        def model_file(self, version: Any, folder: Path) -> Path:
            events.append(int(now))
            return folder / "model.keras"

        def manifest(self, version: Any) -> Any:
            return manifest()

    monkeypatch.setattr(follow, "Registry", OneVersion)
    monkeypatch.setattr("deploy.serving.follow.time.monotonic", lambda: now)
    read, write = os.pipe()
    with os.fdopen(read) as answers, (tmp_path / "events").open("w") as written:
        follower = follow._Follower(Work(tmp_path), "digits", "champion", tmp_path, events=written, answers=answers)
        for second in range(100):
            now = float(second)
            handed = len(events)
            assert follower.poll()
            if len(events) > handed and len(events) < 4:  # the fourth is served
                os.write(write, f"{REFUSED}\n".encode())
        os.close(write)
    # Refused at once, which is read a second later; the next one follows 5, 10 and 20 s after that.
    assert events == [0, 6, 17, 38]


def test_a_model_that_fails_to_load_once_is_served_when_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [2]

    def load(candidate: Candidate, most: int) -> Any:
        if candidate.version in failing:
            failing.remove(candidate.version)
            raise MemoryError("no memory left")
        model = NamedModel(candidate.version or 0)
        model.file = candidate.file
        return model

    class Registered:
        refusals = 0

        def candidates(self) -> Iterator[Candidate]:
            yield candidate(1)
            yield candidate(2)
            assert (self.refusals, service.model.version) == (1, 1)  # type: ignore[union-attr]
            yield candidate(2)
            assert (self.refusals, service.model.version) == (1, 2)  # type: ignore[union-attr]

        def refused(self) -> None:
            self.refusals += 1

        def close(self) -> None: ...

    monkeypatch.setattr(server, "ServedModel", load)
    monkeypatch.setattr(server, "import_tensorflow", lambda log: None)
    service, given_up = Service(Limits()), threading.Event()
    loader = server._Loader(service, Registered(), given_up.set)
    loader._load()
    assert (loader.error, given_up.is_set()) == (None, False)
    assert b"idxtrain_model_failures_total 1.0" in service.metrics.text()
    service.stop()


def candidate(number: int) -> Candidate:
    file = ModelFile(title=f"v{number}", path=Path("none"), sha256=f"{number}" * 64, manifest=manifest())
    return Candidate(file, number, f"r{number}")
