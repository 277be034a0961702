"""What a run used of its machine: recorded by each process, shown beside what was requested, proposed for the next."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.slurm.site import Site, validate
from jobs.errors import InputError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from jobs.usage import Usage, read_usage, recorded
from pipelines.history import usage
from pipelines.slurm.measured import as_measured, requests
from tests.conftest import Idxtrain
from tests.test_history import make_run

SITE = validate(
    {"prepare": {"cpus": 4, "memory": "8G", "time": "00:30:00"}, "train": {"nodes": 2, "ranks_per_node": 2, "cpus": 3}},
    "site",
)
MB = 1 << 20


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(Work(tmp_path / "work"), "r")


def used(
    run: RunDir, stage: str, began: float, *, rank: int = 0, host: str = "n1", job: str = "7", **more: float
) -> None:
    figures = {"seconds": 100.0, "cpu_seconds": 50.0, "cpus": 4, "peak_bytes": 512 * MB} | more
    run.usage.mkdir(exist_ok=True)
    path = run.usage / f"{stage}.rank-{rank}.{began}.{host}.json"
    write_json(path, {"stage": stage, "rank": rank, "host": host, "job": job, "began": began, **figures})


def test_memory_and_cpu_time_of_a_process_include_those_of_the_processes_it_starts(run: RunDir) -> None:
    """The child holds 300 MB for a second, and computes meanwhile."""
    child = "import time; held = b'x' * (300 << 20); end = time.time() + 1\nwhile time.time() < end: pass"
    program = (
        "import sys; from pathlib import Path; from jobs.run_dir import RunDir; from jobs.usage import recorded; "
        "import subprocess\n"
        f"with recorded(RunDir(Path(sys.argv[1])), 'prepare', 0): subprocess.run([sys.executable, '-c', {child!r}])"
    )
    subprocess.run([sys.executable, "-c", program, run.path], check=True)
    (found,) = read_usage(run)
    assert (found.stage, found.rank) == ("prepare", 0)
    assert 300 * MB < found.peak_bytes < 500 * MB
    assert 0.5 < found.cpu_seconds < found.seconds * 2
    assert found.seconds > 1


def test_memory_of_the_program_that_started_a_stage_does_not_count(run: RunDir) -> None:
    """Linux hands a process's peak on to the program that takes its place; a notebook may hold gigabytes."""
    stage = (
        "import sys; from pathlib import Path; from jobs.run_dir import RunDir; from jobs.usage import recorded\n"
        "with recorded(RunDir(Path(sys.argv[1])), 'fetch', 0): pass"
    )
    large = "import os, sys; held = b'x' * (400 << 20); os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    subprocess.run([sys.executable, "-c", large, stage, run.path], check=True)
    (found,) = read_usage(run)
    assert found.peak_bytes < 300 * MB


def test_a_process_that_is_killed_leaves_its_last_figures(run: RunDir) -> None:
    program = (
        "import sys, time; from pathlib import Path; from jobs import usage; from jobs.run_dir import RunDir\n"
        "usage._WRITE_SECONDS = 0\n"
        "with usage.recorded(RunDir(Path(sys.argv[1])), 'train', 3): time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, run.path])
    deadline = time.monotonic() + 30
    while not read_usage(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [(each.stage, each.rank) for each in read_usage(run)] == [("train", 3)]


def test_a_full_disk_does_not_fail_a_stage(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.usage.write_json", fail)
    with recorded(run, "train", 0):
        pass
    assert read_usage(run) == []


def test_starts_add_up_and_the_memory_of_a_node_is_that_of_its_ranks(run: RunDir) -> None:
    """Two ranks on n1 and one on n2; the training was started twice."""
    for began in (10.0, 200.0):
        used(run, "train", began, peak_bytes=600 * MB)
        used(run, "train", began, rank=1, peak_bytes=int(began) * MB, cpu_seconds=80.0)
        used(run, "train", began, rank=2, host="n2", peak_bytes=700 * MB)
    (train,) = usage.usage_of(run)
    assert (train.ranks, train.starts, train.seconds, train.cpus) == (3, 2, 200.0, 0.8)
    assert (train.private_bytes, train.shared_bytes, train.node_bytes) == (700 * MB, 0, 800 * MB)


def run_two_ranks(run: RunDir, body: str) -> None:
    """Run the statement `body` in two ranks of a node, which share the array `shared`: uint8 [SIZE]."""
    program = (
        "import mmap, os, sys, time; from pathlib import Path; import numpy as np; from jobs.run_dir import RunDir\n"
        "from jobs.train.shared_memory import SharedMemory; from jobs.usage import recorded\n"
        f"SIZE = {200 * MB}; memory = SharedMemory.create(SIZE); shared = memory.array((SIZE,), np.uint8)\n"
        "for rank in range(2):\n"
        "    if not os.fork():\n"
        f"        with recorded(RunDir(Path(sys.argv[1])), 'train', rank): {body}\n"
        "        os._exit(0)\n"
        "sys.exit(any(os.wait()[1] for _ in range(2)))"
    )
    subprocess.run([sys.executable, "-c", program, run.path], check=True)


def test_memory_that_the_ranks_of_a_node_share_counts_once(run: RunDir) -> None:
    run_two_ranks(run, "shared[:] = 1")
    assert all(each.peak_bytes > 200 * MB for each in read_usage(run))
    (train,) = usage.usage_of(run)
    assert 200 * MB < train.node_bytes < 380 * MB
    assert 200 * MB < train.shared_bytes < 210 * MB


def test_memory_that_the_ranks_of_a_node_share_counts_in_full_if_each_touches_a_part(run: RunDir) -> None:
    """All of it is reserved. A training of one epoch leaves each rank with few of the other ranks' pages."""
    run_two_ranks(run, "shared[rank * SIZE // 2 :][: SIZE // 2] = 1")
    (train,) = usage.usage_of(run)
    assert 200 * MB < train.node_bytes < 380 * MB
    assert train.private_bytes < 90 * MB


def test_memory_that_the_kernel_calls_shared_counts_for_each_rank_that_holds_it_alone(run: RunDir) -> None:
    """CUDA pins memory of the host in mappings of /dev/zero, which RssShmem includes."""
    run_two_ranks(run, "pinned = np.frombuffer(mmap.mmap(-1, SIZE), np.uint8); pinned[:] = 1; shared[:] = 1")
    (train,) = usage.usage_of(run)
    assert 600 * MB < train.node_bytes < 780 * MB
    assert train.shared_bytes < 210 * MB


def test_memory_that_a_rank_freed_before_it_touched_what_it_shares_still_counts(run: RunDir) -> None:
    run_two_ranks(run, "held = np.ones(SIZE, np.uint8); time.sleep(1); del held; shared[:] = 1")
    (train,) = usage.usage_of(run)
    assert 200 * MB < train.private_bytes < 290 * MB


def test_ranks_share_no_memory_with_those_of_another_node(run: RunDir) -> None:
    for rank, host in enumerate(("n1", "n1", "n2")):
        used(run, "train", 10.0, rank=rank, host=host, peak_bytes=500 * MB, shared_bytes=(400 + rank) * MB)
    (train,) = usage.usage_of(run)
    assert (train.private_bytes, train.shared_bytes, train.node_bytes) == (100 * MB, 402 * MB, (100 + 99 + 401) * MB)


def test_status_shows_what_was_used_beside_what_was_requested(run: RunDir, idxtrain: Idxtrain) -> None:
    used(run, "prepare", 1.0, cpu_seconds=190.0)
    used(run, "train", 2.0, peak_bytes=2_000_000_000)
    used(run, "train", 300.0, peak_bytes=2_000_000_000)
    flight = {"images": 50, "input": 0.5, "compute": 9.0, "allreduce": 0.5, "step": 1}
    (run.logs / "flight.rank-0.jsonl").write_text(json.dumps(flight) + "\n")
    assert usage.lines(run, requests(SITE)) == [
        "",
        "used     CPUs per rank  memory per node  time               computing",
        "prepare  1.9 of 4       0.54 GB of 8G    2 min of 00:30:00",
        "train    0.5 of 3       2.00 GB          3 min in 2 starts  90%",
    ]
    shown = idxtrain("status", "r", "--work", run.work.path).stdout.splitlines()
    assert shown[-2:] == [
        "prepare  1.9            0.54 GB          2 min",
        "train    0.5            2.00 GB          3 min in 2 starts  90%",
    ]


def test_a_damaged_record_is_left_out(run: RunDir) -> None:
    used(run, "train", 2.0)
    (run.usage / "train.rank-1.2.0.n1.json").write_text('{"stage": "train"')
    (run.usage / "train.rank-2.2.0.n1.json").write_text("[]")
    assert [each.rank for each in read_usage(run)] == [0]


def test_the_next_jobs_request_what_a_run_used_and_some_more(run: RunDir) -> None:
    """Fetch and prepare are one job. A site of four ranks trains two and a half times faster at most."""
    used(run, "fetch", 1.0, peak_bytes=100 * MB)
    used(run, "prepare", 2.0, cpu_seconds=190.0, peak_bytes=3000 * MB)
    for rank in range(2):
        used(run, "train", 200.0, rank=rank, peak_bytes=1000 * MB, seconds=4000.0, cpu_seconds=9000.0)
    assert as_measured(run, SITE) == [
        "prepare.cpus=2",
        "prepare.memory=4G",
        'prepare.time="00:10:00"',
        "train.cpus=3",
        "train.memory=3G",
        'train.time="01:45:00"',
    ]
    one_rank = Site.model_validate({"train": {"nodes": 1}})
    assert 'train.time="03:30:00"' in as_measured(run, one_rank)


def test_the_next_jobs_request_once_what_the_ranks_of_a_node_share(run: RunDir) -> None:
    """Two ranks of 1 GB each and 20 GB that they share need 22 GB on a node of two, and 24 GB on a node of four."""
    for rank in range(2):
        used(run, "train", 1.0, rank=rank, peak_bytes=21 << 30, shared_bytes=20 << 30)
    assert "train.memory=28G" in as_measured(run, SITE)
    of_four = Site.model_validate({"train": {"nodes": 1, "ranks_per_node": 4}})
    assert "train.memory=31G" in as_measured(run, of_four)


def test_cpus_are_proposed_only_by_a_run_that_had_its_cpus_for_itself(run: RunDir) -> None:
    used(run, "evaluate", 1.0, job="")
    assert as_measured(run, SITE) == ["evaluate.memory=1G", 'evaluate.time="00:05:00"']


def test_submit_requests_as_measured_and_options_win(run: RunDir, idxtrain: Idxtrain) -> None:
    used(run, "evaluate", 1.0)
    options = ("--site", "cpu", "--as-measured", "r", "--site-set", "evaluate.memory=9G", "--work", run.work.path)
    done = idxtrain("submit", *options, "--dry-run")
    evaluate = done.stdout.partition("evaluate.sh")[2]
    assert "#SBATCH --mem=9G" in evaluate
    assert "#SBATCH --time=00:05:00" in evaluate
    assert done.stderr.startswith("requested as run r used: evaluate.cpus=1 evaluate.memory=1G")


def test_a_run_without_a_record_cannot_be_measured(run: RunDir) -> None:
    with pytest.raises(InputError, match="found no record of what a finished stage used"):
        as_measured(run, SITE)


def test_the_record_names_the_slurm_job(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with recorded(run, "train", 0):
        pass
    (found,) = read_usage(run)
    assert (found.job, found.cpus) == ("42", len(os.sched_getaffinity(0)))
    assert isinstance(found, Usage)
