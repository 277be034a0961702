"""The ranks of a run share their rows, also after one of them was killed, and train as one rank does."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeArchives

_SHARED = re.compile(r" (\d+) +/memfd:idxtrain \(deleted\)$", re.MULTILINE)  # with the file's number


def command(work: Path, data: Path, ranks: int) -> list[str]:
    settings = {
        "prepare.rows_per_shard": 29,
        "train.deterministic": "true",
        "train.batch_size": 16,
        "train.epochs": 3,
        "train.max_steps": "none",
        "launch.max_restarts": 1,
    }
    options = ["--data", str(data), "--work", str(work), "--run-id", f"ranks-{ranks}", "--np", str(ranks)]
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "pipelines.cli", "train", "--recipe", "softmax", *options, *sets]


def weights(work: Path, ranks: int) -> set[str]:
    record = json.loads((work / f"runs/ranks-{ranks}/stages/train.json").read_text())
    return set(record["outputs"]["weights_sha256"])


def sharing(pipeline: "subprocess.Popen[str]", ended: str = "") -> tuple[str, list[psutil.Process]]:
    """Wait for two ranks that share a file; return its number, which is not that of a file that has `ended`."""
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        assert pipeline.poll() is None, pipeline.communicate()[1]
        ranks: dict[str, list[psutil.Process]] = {}
        for process in psutil.Process(pipeline.pid).children(recursive=True):
            try:
                for number in set(_SHARED.findall(Path(f"/proc/{process.pid}/maps").read_text())):
                    ranks.setdefault(number, []).append(process)
            except OSError:  # it has ended
                continue
        for number, processes in ranks.items():
            if len(processes) == 2 and number != ended:
                return number, processes
        time.sleep(0.02)
    raise AssertionError("no two ranks share a file")


@pytest.mark.long
def test_after_a_kill_the_next_ranks_share_new_memory_and_train_as_one_rank(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    make_archives(tmp_path / "data", (8, 8), 3, train=211, test=40)
    work = tmp_path / "work"
    pipeline = subprocess.Popen(
        command(work, tmp_path / "data", 2), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    number, ranks = sharing(pipeline)
    ranks[0].kill()
    _, others = sharing(pipeline, ended=number)
    _, errors = pipeline.communicate(timeout=500)
    assert pipeline.returncode == 0, errors
    assert not any(process.is_running() for process in [*ranks, *others])
    subprocess.run(command(work, tmp_path / "data", 1), check=True, capture_output=True)
    assert weights(work, 2) == weights(work, 1)
