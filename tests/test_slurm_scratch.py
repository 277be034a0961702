"""Scratch on a node: private, removed at the end; the next job removes what a killed one left."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.slurm.scratch import private_folder
from jobs.errors import InputError

HOLD = """\
import sys, time
from pathlib import Path
from deploy.slurm.scratch import private_folder
with private_folder(Path(sys.argv[1]), "7-prepare") as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_bytes(bytes(10))
    print(folder, flush=True)
    time.sleep(600)
"""


def hold(parent: Path, env: Mapping[str, str] | None = None) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_scratch_folder_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    with private_folder(tmp_path, "12-train") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("idxtrain-job-12-train-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "a").write_text("x", encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_the_next_job_removes_what_a_killed_job_left_and_nothing_else(tmp_path: Path) -> None:
    foreign = tmp_path / "idxtrain-retrain"
    foreign.mkdir()
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / "idxtrain-job-1-link").symlink_to(target)
    alive, kept = hold(tmp_path)
    killed, left = hold(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left.exists()
    torn = tmp_path / "idxtrain-job-3-prepare-abcd"  # killed while it was being removed
    torn.mkdir()
    with private_folder(tmp_path, "8-prepare") as folder:
        assert {path.name for path in tmp_path.iterdir()} == {
            foreign.name, target.name, "idxtrain-job-1-link",
            kept.name, f".{kept.name}.json", folder.name, f".{folder.name}.json",
        }  # fmt: skip
        assert (kept / "below" / "file").exists()
    alive.kill()
    alive.wait()


def test_the_folder_of_a_running_job_stays_even_if_flock_does_nothing(
    tmp_path: Path, without_flock: Mapping[str, str]
) -> None:
    first, kept = hold(tmp_path, without_flock)
    second, _ = hold(tmp_path, without_flock)
    assert (kept / "below" / "file").exists()
    for process in (first, second):
        process.kill()
        process.wait()


def test_a_signal_during_removal_is_delayed(tmp_path: Path) -> None:
    program = HOLD.replace("import sys, time", "import os, signal, sys, time").replace(
        "    time.sleep(600)\n", "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    program = program.replace("with private", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\nwith private")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True)
    assert done.returncode == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_scratch_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="found no usable scratch"), private_folder(tmp_path, "1"):
        pass


def test_a_missing_scratch_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(
            InputError,
            match=r"missing: found no usable scratch \(No such file or directory\), .*; fix: set the site's scratch",
        ),
        private_folder(tmp_path / "missing", "1"),
    ):
        pass
