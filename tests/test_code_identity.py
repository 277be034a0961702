"""The identity of the code that made a model, which the registry keeps."""

import shutil
from pathlib import Path

import pytest

from pipelines.retraining import code_identity

ROOT = Path(__file__).parent.parent
ROOMS = ("pipelines", "deploy", "jobs", "models")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project's code, whose identity is computed in the test."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_identity, "_ROOT", tmp_path)
    return tmp_path


def test_code_identity_covers_this_project() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    assert code_identity._ROOT == ROOT


def test_code_identity_does_not_depend_on_the_projects_folder(request: pytest.FixtureRequest) -> None:
    identity = code_identity.code_identity()
    copy = request.getfixturevalue("copy")
    assert code_identity._ROOT == copy != ROOT
    assert code_identity.code_identity() == identity


@pytest.mark.parametrize("room", ROOMS)
def test_code_identity_changes_with_any_line_or_file_name(copy: Path, room: str) -> None:
    before = code_identity.code_identity()
    file = max((copy / room).rglob("*.py"), key=lambda path: len(path.parts))  # the deepest
    file.write_text(file.read_text() + "# another line\n")
    changed = code_identity.code_identity()
    assert changed != before
    file.rename(file.with_name("another_name.py"))
    assert code_identity.code_identity() not in (before, changed)
