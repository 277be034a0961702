"""Which code made a model: the hash that the registry is given of it."""

import shutil
from pathlib import Path

import pytest

from pipelines.retraining import evidence

ROOT = Path(__file__).parent.parent
ROOMS = ("pipelines", "deploy", "jobs", "models")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project's code, of which the identity is computed."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(evidence, "_ROOT", tmp_path)
    return tmp_path


def test_code_identity_is_of_this_project() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    assert evidence._ROOT == ROOT


def test_code_identity_is_the_same_wherever_the_project_lies(copy: Path) -> None:
    identity = evidence.code_identity()
    shutil.rmtree(copy / "models" / "__pycache__", ignore_errors=True)
    assert identity == evidence.code_identity()


@pytest.mark.parametrize("room", ROOMS)
def test_code_identity_changes_with_a_line_or_a_name_in_any_room(copy: Path, room: str) -> None:
    before = evidence.code_identity()
    file = max((copy / room).rglob("*.py"), key=lambda path: len(path.parts))  # the deepest
    file.write_text(file.read_text() + "# another line\n")
    changed = evidence.code_identity()
    assert changed != before
    file.rename(file.with_name("another_name.py"))
    assert evidence.code_identity() not in (before, changed)
