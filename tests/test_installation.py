"""What an installed wheel reports at once: a Horovod without TensorFlow, packages that another project overwrote."""

from pathlib import Path

import pytest

from deploy.doctor.software import check_packages_are_ours
from jobs import installation
from jobs.errors import InputError
from jobs.installation import clashes, require_horovod


def horovod_at(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_horovod", lambda: folder)


def test_the_horovod_of_this_environment_was_built_with_tensorflow() -> None:
    require_horovod()


def test_a_horovod_without_tensorflow_is_refused_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow").mkdir()
    horovod_at(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=rf"{tmp_path}: found a Horovod without TensorFlow.*; fix: `uv sync --rein"):
        require_horovod()


def test_a_missing_horovod_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    horovod_at(None, monkeypatch)
    with pytest.raises(InputError, match=r"horovod: found no such package, expected 0\.28\.1; fix: "):
        require_horovod()


def test_a_distribution_with_a_package_of_our_name_is_a_clash() -> None:
    installed = {"jobs": ["idxtrain"], "models": ["idxtrain", "keras-models"], "deploy": ["other"], "numpy": ["numpy"]}
    assert list(clashes(installed)) == ["models (keras-models)", "deploy (other)"]


def test_this_environment_has_no_clash() -> None:
    assert check_packages_are_ours().verdict == "ok"


def test_doctor_reports_a_clash() -> None:
    finding = check_packages_are_ours(["models (keras-models)"])
    assert (finding.verdict, finding.found) == ("fails", "also in models (keras-models)")
    assert finding.fix == "install idxtrain into an environment of its own"
