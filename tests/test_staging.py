"""A node's copies: what an environment needs, its tar files, and the process that unpacks and removes them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.slurm.script import SCRATCH
from deploy.staging import archive
from deploy.staging.archive import Archive
from deploy.staging.message import Staged, StageMessage
from deploy.staging.slim import main
from deploy.staging.unpack import make_environment
from jobs.errors import InputError

PACKAGES = "lib/python3.11/site-packages"
PYTHON = Path(sys.executable).resolve()
# What a package may have, and whether programs need it.
FILES = {
    "fit/__init__.py": True,
    "fit/bin/java": True,
    "fit/test/__init__.py": True,  # tf.test is a module
    "fit/data.json": True,
    "fit-1.dist-info/RECORD": True,
    "fit/tests/test_fit.py": False,
    "fit/include/Eigen/Core": False,
    "fit/core.h": False,
    "fit/core.pyx": False,
}


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Return a virtual environment with one package, and with this project as a checkout's environment has it."""
    folder = tmp_path / "venv"
    for name in FILES:
        path = folder / PACKAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ANSWER = 42\n", encoding="utf-8")
    (folder / PACKAGES / "fit/bin/java").chmod(0o755)
    (folder / PACKAGES / "_editable.pth").write_text(str(Path(archive.__file__).parents[2]), encoding="utf-8")
    (folder / "pyvenv.cfg").touch()
    return folder


@pytest.fixture
def archives(environment: Path, tmp_path: Path) -> tuple[Archive, ...]:
    return archive.archives(tmp_path / "environments", environment / PACKAGES)


def test_slim_removes_what_no_program_needs(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(environment)]) == 0
    left = {str(p.relative_to(environment / PACKAGES)) for p in (environment / PACKAGES).rglob("*") if p.is_file()}
    assert left == {name for name, is_needed in FILES.items() if is_needed} | {"_editable.pth"}
    assert capsys.readouterr().out == f"{environment}: 7 files, without tests, headers and sources for compilers\n"
    assert main([str(environment / "lib")]) == 2
    assert "pyvenv.cfg: No such file or directory; fix: give a virtual environment" in capsys.readouterr().err


def test_an_unpacked_environment_runs_from_its_own_folder(archives: tuple[Archive, ...], tmp_path: Path) -> None:
    folder = tmp_path / "local"
    make_environment(folder, PYTHON, PACKAGES, archives)
    program = "import sys, fit, deploy.staging.contents as ours; print(fit.ANSWER, sys.prefix, ours.__file__)"
    done = subprocess.run([folder / "bin/python", "-I", "-c", program], capture_output=True, text=True)
    ours = folder / PACKAGES / "deploy/staging/contents.py"
    assert done.stdout.split() == ["42", str(folder), str(ours)], done.stderr
    assert os.access(folder / PACKAGES / "fit/bin/java", os.X_OK)
    assert not [name for name, is_needed in FILES.items() if not is_needed and (folder / PACKAGES / name).exists()]
    source = Path(archive.__file__).with_name("contents.py")
    assert ours.stat().st_mtime == int(source.stat().st_mtime), "bytecode names it"


def test_tar_files_are_private_and_made_again_only_for_other_packages(environment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "environments"
    first = archive.archives(folder, environment / PACKAGES)
    assert archive.archives(folder, environment / PACKAGES) == first
    assert {path.stat().st_mode & 0o77 for path in (folder, *folder.iterdir())} == {0}
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(first[0].path, (long_ago, long_ago))
    (environment / PACKAGES / "fit-1.dist-info/RECORD").write_text("fit/__init__.py,sha256=other,12\n")
    second = archive.archives(folder, environment / PACKAGES)
    assert second[0].path != first[0].path
    assert second[1] == first[1], "our code is in a tar file of its own"
    assert not Path(first[0].path).exists(), "nothing has used it for a week"


def test_what_a_job_was_packing_when_it_was_killed_is_removed_by_the_next_one(
    archives: tuple[Archive, ...], environment: Path
) -> None:
    path, other = (Path(each.path) for each in archives)
    left = [each.with_name(f".00000000.tmp-{each.name}") for each in (path, other)]
    for each in left:
        each.write_bytes(b"half of it")
    path.unlink()
    archive.archives(path.parent, environment / PACKAGES)
    assert [each.exists() for each in left] == [False, True], "the second may be another job's, which is at work"


@pytest.mark.parametrize("damage", [lambda data: data[:-600], lambda data: data[:700] + b"\1" + data[701:]])
def test_a_damaged_tar_file_is_refused(
    archives: tuple[Archive, ...], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = Path(archives[0].path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"packages-\w+\.tar: found a damaged tar file, expected SHA-256 "):
        make_environment(tmp_path / "local", PYTHON, PACKAGES, archives)


def test_a_damaged_tar_file_is_removed_and_packed_again(
    archives: tuple[Archive, ...], environment: Path, tmp_path: Path
) -> None:
    assert archive.remove_damaged(archives) == []
    path = Path(archives[0].path)
    path.write_bytes(path.read_bytes()[:-600])
    assert archive.remove_damaged(archives) == [path.name]
    assert archive.remove_damaged(archives) == [], "nor one that is missing"
    again = archive.archives(tmp_path / "environments", environment / PACKAGES)
    assert [each.path for each in again] == [each.path for each in archives]
    make_environment(tmp_path / "local", PYTHON, PACKAGES, again)


class Nodes:
    """Starts the process that stages on a node, as srun does."""

    def __init__(self, scratch: Path, archives: tuple[Archive, ...]) -> None:
        self.scratch = scratch
        self.message = StageMessage(
            job="7", token="abcd", python=str(PYTHON), packages=PACKAGES, archives=archives  # noqa: S106 (no secret)
        )  # fmt: skip
        self.started: list[subprocess.Popen[str]] = []

    @property
    def staged(self) -> Staged:
        return self.message.staged(self.scratch)

    def start(self, node: str = "n1") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "deploy.staging.node"],
            env=os.environ | {SCRATCH: str(self.scratch), "SLURMD_NODENAME": node},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        assert process.stdin
        process.stdin.write(self.message.to_line())
        process.stdin.flush()
        return process

    def first_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout
        return process.stdout.readline().strip()


@pytest.fixture
def nodes(tmp_path: Path, archives: tuple[Archive, ...]) -> Iterator[Nodes]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    nodes = Nodes(scratch, archives)
    yield nodes
    for process in nodes.started:
        process.kill()
        process.wait()


def test_copies_are_removed_at_the_end_but_not_under_a_process_that_runs_from_them(nodes: Nodes) -> None:
    node = nodes.start()
    assert nodes.first_line(node) == "ready"
    assert nodes.staged.folder.stat().st_mode & 0o777 == 0o700
    rank = subprocess.Popen([nodes.staged.python, "-I", "-c", "import time; time.sleep(1); import fit; time.sleep(60)"])
    assert node.stdin
    node.stdin.close()
    time.sleep(1.5)
    assert rank.poll() is None, "it could still import"
    rank.kill()
    rank.wait()
    assert node.wait(10) == 0
    assert list(nodes.scratch.iterdir()) == []


def test_nodes_of_a_job_that_have_one_disk_share_its_copies(nodes: Nodes) -> None:
    first = nodes.start("n1")
    assert nodes.first_line(first) == "ready"
    second = nodes.start("n2")
    assert nodes.first_line(second) == "ready"
    second.send_signal(signal.SIGTERM)
    assert second.wait(10) == 0
    assert nodes.staged.python.exists()
    first.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert nodes.staged.python.exists()  # the same signal stops the ranks, which may read a while yet
    assert first.stdin is not None
    first.stdin.close()  # the job's process has ended
    assert first.wait(10) == 0
    assert list(nodes.scratch.iterdir()) == []


def test_the_next_job_removes_the_copies_of_one_that_was_killed(nodes: Nodes) -> None:
    node = nodes.start()
    assert nodes.first_line(node) == "ready"
    node.kill()
    node.wait()
    assert nodes.staged.python.exists()
    nodes.message = StageMessage(**{**vars(nodes.message), "job": "8", "archives": ()})
    other = nodes.start()
    assert nodes.first_line(other) == "ready"
    assert {path.name.lstrip(".") for path in nodes.scratch.iterdir()} == {
        "idxtrain-job-8-staged-abcd", "idxtrain-job-8-staged-abcd.json"
    }  # fmt: skip


def test_a_node_that_cannot_stage_prints_why_and_leaves_nothing(nodes: Nodes) -> None:
    Path(nodes.message.archives[0].path).unlink()
    node = nodes.start("n2")
    out, err = node.communicate(timeout=20)
    assert (node.returncode, out) == (1, "failed\n")
    assert err.startswith("staging: node n2: [Errno 2] No such file or directory: ")
    assert list(nodes.scratch.iterdir()) == []
