"""One job of a submitted run, without Slurm: the launchers, the environment of a resubmission, the command line."""

from typing import get_args

import pytest

from deploy.slurm import queue
from deploy.slurm.site import Launcher
from jobs.errors import InputError
from pipelines.slurm.job import _hosts, environment_for_sbatch, main


@pytest.mark.parametrize("launcher", get_args(Launcher))
def test_only_horovodrun_is_given_the_nodes_of_the_job(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setattr(queue, "node_names", {"n[1-2]": ["n1", "n2"]}.__getitem__)
    assert _hosts(launcher) == (["n1", "n2"] if launcher == "horovodrun" else [])


def test_an_unknown_launcher_is_an_error() -> None:
    with pytest.raises(AssertionError, match="ssh"):
        _hosts("ssh")  # type: ignore[arg-type]


def test_a_resubmission_does_not_inherit_the_options_of_its_job() -> None:
    environment = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "a", "HOME": "/home/me"}
    assert environment_for_sbatch(environment) == {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"}


@pytest.mark.parametrize("arguments", [[], ["train"], ["fetch", "/run"], ["train", "/run", "more"]])
def test_a_wrong_command_line_shows_the_usage(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"usage: python -m pipelines\.slurm\.job prepare\|train\|evaluate RUN_DIR"):
        main(arguments)
