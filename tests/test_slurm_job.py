"""One job of a submitted run, without Slurm: the launchers, the environment of a resubmission, the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from deploy.slurm import queue
from deploy.slurm.queue import ControllerAwayError
from deploy.slurm.site import JobStage, Launcher, validate
from jobs.errors import IdxtrainError, InputError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from pipelines.config import compose
from pipelines.slurm import container, job
from pipelines.slurm.job import _hosts, main
from pipelines.slurm.jobs import SlurmJobs, submitted_run
from pipelines.sweep.grid import Sweep, grid_points


@pytest.mark.parametrize("launcher", get_args(Launcher))
def test_only_horovodrun_is_given_the_nodes_of_the_job(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setattr(queue, "node_names", {"n[1-2]": ["n1", "n2"]}.__getitem__)
    assert _hosts(launcher) == (["n1", "n2"] if launcher == "horovodrun" else [])


def test_an_unknown_launcher_is_an_error() -> None:
    with pytest.raises(AssertionError, match="ssh"):
        _hosts("ssh")  # type: ignore[arg-type]


def test_a_submission_inherits_nothing_of_the_job_that_it_comes_from() -> None:
    own = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "physics", "HOME": "/home/me"}
    of_job = {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "500", "SBATCH_CPU_BIND": "quiet,mask_cpu:0x3"}
    assert queue.environment_for_sbatch(own | of_job) == own
    outside = own | {"SLURM_ACCOUNT": "physics"}  # a user's, as there is no job
    assert queue.environment_for_sbatch(outside) == outside


def test_a_container_sees_temporary_files_and_every_file_that_the_config_names() -> None:
    site = validate({"container": "/images/idxtrain.sif", "scratch": "$LOCAL"}, "")
    named = ("fetch.data='/home/me/digits'", "fetch.train_labels='/home/me/labels/train.idx'")
    config = compose("softmax", {}, (*named, "prepare.exclude='/home/me/lists/odd.csv'"))
    assert container.binds(site, config, "/local/7", {"APPTAINER_BIND": "/opt/site"}) == {
        "APPTAINER_BIND": "/opt/site,/local/7,/home/me/digits,/home/me/labels,/home/me/lists"
    }
    assert container.binds(validate({}, ""), config, "/local/7", {}) == {}
    container.require_visible(site, Path("/work"), config)
    remote = compose("softmax", {}, ("fetch.data='s3://bucket/digits'",))  # copied into the work folder
    container.require_visible(site, Path("/work"), remote)
    assert container.binds(site, remote, "/local/7", {}) == {"APPTAINER_BIND": "/local/7"}
    with pytest.raises(InputError, match=r"--work /a:b: found a comma or colon in its path, where Apptainer splits it"):
        container.require_visible(site, Path("/a:b"), config)
    container.require_visible(validate({}, ""), Path("/a:b"), config)


def test_an_answer_of_slurm_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[ControllerAwayError | str] = iter(
        [ControllerAwayError("away"), ControllerAwayError("away"), "RUNNING"]
    )

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr(job, "_RETRY_SECONDS", 0.01)
    assert job._answered(ask) == "RUNNING"
    monkeypatch.setattr(job, "_CONTROLLER_SECONDS", 0.0)
    answers = iter([ControllerAwayError("away"), ControllerAwayError("away")])
    with pytest.raises(ControllerAwayError):
        job._answered(ask)


def test_slurm_is_not_waited_for_where_its_commands_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(queue.NoSlurmError, match="found no squeue here"):
        job._answered(lambda: queue.state("7"))


def test_a_request_that_slurm_may_have_acted_on_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_RETRY_SECONDS", 0.01)
    made: list[str] = []

    def time_out(*arguments: object) -> str:
        made.append("request")
        raise ControllerAwayError("Socket timed out")

    def queued(scripts: list[Path], jobs: tuple[str, ...] = ()) -> list[queue.Queued]:
        fields = dict.fromkeys(("state", "elapsed", "nodes", "reason", "name", "script"), "")
        return [queue.Queued(**{**fields, "state": "PENDING", "job": each}) for each in ("7", "8")]

    monkeypatch.setattr(queue, "submit", time_out)
    monkeypatch.setattr(queue, "find", queued)
    assert job._submitted_again(Path("/run/slurm/train.sh"), "7") == "8"
    monkeypatch.setattr(queue, "requeue", time_out)
    monkeypatch.setattr(queue, "state", lambda job: "PENDING")
    assert job._requeued("7") == ""
    assert made == ["request", "request"]


LOG = """\
train: 2 ranks
{line}
[rank 1] Traceback (most recent call last):
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("idxtrain: train: found x", "train: found x"),
        ("[rank 1] idxtrain: interface: found no hsn9", "interface: found no hsn9"),
    ],
)
def test_the_last_error_of_a_log_is_found_whichever_rank_wrote_it(tmp_path: Path, line: str, said: str) -> None:
    jobs = SlurmJobs(RunDir(tmp_path))
    jobs.folder.mkdir()
    jobs.log_file("train", "7").write_text(LOG.format(line=line), encoding="utf-8")
    assert jobs.last_error("train", "7") == said


def test_without_an_error_of_ours_the_last_line_of_a_log_is_the_reason(tmp_path: Path) -> None:
    jobs = SlurmJobs(RunDir(tmp_path))
    jobs.folder.mkdir()
    text = "/usr/bin/bash: line 3: module: command not found\n\n"
    jobs.log_file("prepare", "7").write_text(text, encoding="utf-8")
    assert jobs.last_error("prepare", "7") == text.strip()


@pytest.fixture
def point(tmp_path: Path) -> SlurmJobs:
    """Return the jobs of the first point of a sweep on Slurm."""
    sweep = Sweep(name="s", work=Work(tmp_path), points=grid_points("s", ["seed=0..2"]))
    sweep.write()
    jobs = SlurmJobs(sweep.run(sweep.points[0]))
    jobs.folder.mkdir(parents=True)
    write_json(jobs.site_file, validate({}, "").model_dump(mode="json"))
    jobs.write_jobs({"prepare": "6", "train": "7_0"})
    return jobs


def test_a_failed_prepare_of_a_sweep_cancels_the_array_and_names_the_sweeps_command(
    point: SlurmJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cancelled: list[list[str]] = []
    monkeypatch.setattr(queue, "state", lambda job: "RUNNING")
    monkeypatch.setattr(queue, "cancel", cancelled.append)
    job._requeue_or_cancel(point, "prepare", "6", 2)
    assert cancelled == [["7"]]
    assert capsys.readouterr().err == (
        "prepare: failed, so train (job 7) cannot run and is cancelled; "
        "fix the error, then the sweep's own command with `--name s` resumes at prepare\n"
    )


@pytest.mark.parametrize(("stage", "number"), [("prepare", "6"), ("evaluate", "8")])
def test_a_sweeps_job_that_cannot_be_requeued_is_submitted_again_by_its_own_script(
    point: SlurmJobs, monkeypatch: pytest.MonkeyPatch, stage: JobStage, number: str
) -> None:
    write_json(point.site_file, validate({"requeue": False}, "").model_dump(mode="json"))
    asked: list[tuple[str, ...]] = []

    def submit(script: Path) -> str:
        asked.append(("submit", str(script)))
        return "9"

    monkeypatch.setattr(queue, "state", lambda job: "RUNNING")
    monkeypatch.setattr(queue, "script_of", {number: f"/work/sweeps/s/{stage}.sh"}.__getitem__)
    monkeypatch.setattr(queue, "submit", submit)
    monkeypatch.setattr(queue, "depend", lambda job, on: asked.append(("depend", job, on)))
    job._requeue_or_cancel(point, stage, number, 75)
    waiting = [("depend", "7", "9")] if stage == "prepare" else []
    assert asked == [("submit", f"/work/sweeps/s/{stage}.sh"), *waiting]
    assert point.jobs()[stage] == "9"


def test_a_point_that_was_not_submitted_names_the_sweeps_command(point: SlurmJobs) -> None:
    how = "give the sweep's own command, with `--name s` and --site"
    point.jobs_file.unlink()
    write_json(point.run.config_file, {})
    with pytest.raises(InputError, match=rf"run s-0: was not submitted; fix: {how}$"):
        submitted_run("s-0", point.run.work)
    with pytest.raises(InputError, match=rf"jobs\.json: found no such file; fix: {how}$"):
        point.jobs()
    for _ in range(2):
        point.record("started", stage="train", job="7_0", step=0)
    with pytest.raises(IdxtrainError, match=rf"then {how}$"):
        point.require_progress("train", 1)


@pytest.mark.parametrize("arguments", [[], ["train"], ["fetch", "/run"], ["train", "/run", "more"]])
def test_a_wrong_command_line_shows_the_usage(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"usage: python -m pipelines\.slurm\.job prepare\|train\|evaluate RUN_DIR"):
        main(arguments)
