"""The end of a sweep: the best point is tested once, after all are trained. The trainings are stand-ins."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.errors import IdxtrainError, ReportedError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from jobs.stage import stage_key, write_record
from pipelines.config import Config, compose
from pipelines.slurm.jobs import SlurmJobs
from pipelines.sweep import run as sweep_run
from pipelines.sweep.grid import Sweep, grid_points
from pipelines.sweep.run import finish, run_here

ACCURACIES = {"s-0": 0.90, "s-1": 0.95, "s-2": 0.92}


def train(run: RunDir, config: Config) -> None:
    write_json(run.config_file, config.to_json())
    outputs = {"validation": {"accuracy": ACCURACIES[run.run_id]}, "steps": 10, "images_per_second": 1.0}
    for stage in ("fetch", "prepare", "train"):
        write_record(run, stage, stage_key(run, stage), outputs, [])


def test_a_sweep_with_a_failed_run_is_tested_once_after_a_rerun_has_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failed run would have been the best: a test before the rerun would be a first of two."""
    failing, tested = {"s-1"}, []

    def run_stages(run: RunDir, config: Config, last: str = "evaluate") -> bool:
        if last == "evaluate":
            tested.append(run.run_id)
        elif run.run_id in failing:
            raise ReportedError(1)
        else:
            train(run, config)
        return False

    monkeypatch.setattr(sweep_run, "run_stages", run_stages)
    monkeypatch.setattr(sweep_run, "result_line", lambda run: f"tested {run.run_id}")
    sweep = Sweep(name="s", work=Work(tmp_path / "work"), points=grid_points("s", ["train.epochs=1,2,3"]))
    configs: Mapping[str, Config] = {point.run_id: compose("fast", {}) for point in sweep.points}
    refusal = (
        r"sweep s: not tested: 1 of 3 runs failed, for the reasons in the table; fix: correct them, then run the same "
        "command with --name s$"
    )
    with pytest.raises(IdxtrainError, match=refusal) as caught:
        run_here(sweep, configs)
    assert caught.value.exit_code == 1
    assert "failed, see" in capsys.readouterr().out
    with pytest.raises(IdxtrainError, match=refusal):  # on Slurm, the job of the table
        finish(sweep)
    assert tested == []
    failing.clear()
    assert run_here(sweep, configs) == 0
    assert tested == ["s-1"]
    assert capsys.readouterr().out.splitlines()[-2:] == ["best by validation: s-1: train.epochs=2", "tested s-1"]


def test_a_sweep_with_folds_on_slurm_whose_best_point_is_tested_prints_the_result_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = grid_points("s", ["seed=0"], 2)
    sweep = Sweep(name="s", work=Work(tmp_path), points=points, validation={"validation_rows": None})
    sweep.write()
    for point in points:
        run = sweep.run(point)
        run.path.mkdir(parents=True)
        train(run, compose("softmax", {}, point.assignments))
    monkeypatch.setattr(SlurmJobs, "site", lambda _: SimpleNamespace())
    monkeypatch.setattr(sweep_run, "submit", lambda *_: {})  # all stages are done
    monkeypatch.setattr(sweep_run, "result_line", lambda run: f"tested {run.run_id}")
    assert finish(sweep) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["best by validation: s-0 to s-1: seed=0", "tested s-0-best"]
