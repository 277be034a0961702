"""Sites, batch scripts and launches as values, held to golden files: `UPDATE_GOLDEN=1 pytest FILE` writes them."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.launcher.config import LaunchConfig
from deploy.slurm import commands, script
from deploy.slurm.site import FOLDER, JOB_STAGES, Launcher, Site, names, read, validate
from jobs.errors import InputError
from jobs.python import module_command
from jobs.run_dir import RunDir, Work
from pipelines import recipes, runs

GOLDEN = Path(__file__).parent / "golden" / "slurm"
PYTHON = "/home/me/idxtrain/.venv/bin/python"
RUN = RunDir(Path("/shared/work/runs/digits"))
SITES = names({FOLDER: "/nowhere"})


def text_of(site: Site) -> str:
    """Return all that a run on a site starts: its three scripts, and the command of its training."""
    parts = []
    for stage in JOB_STAGES:
        command = module_command("pipelines.slurm.job", stage, str(RUN.path), python=PYTHON)
        parts.append(script.batch_script(site, stage, script.stage_job(stage, RUN.slurm, RUN.run_id, command)))
    hosts = [f"node{n}" for n in range(site.train.nodes)]
    how = commands.train_launch(site, LaunchConfig(), PYTHON, RUN.path, site.ranks, hosts)
    parts.append(f"# the training's command\n{how}\n# the signal that stops it: {how.stop.name}\n")
    if site.launcher == "srun":
        parts.append(f"# the step of its ranks\n{shlex.join(commands.rank_step(site, site.ranks))}\n")
    return "\n".join(parts)


def test_setup_lines_run_after_the_modules_as_they_are() -> None:
    lines = ("module use ~/modules", "ulimit -n 65536", 'export CUDA="$(dirname "$(which nvcc)")"')
    site = validate({"modules": ["gcc"], "setup": lines}, "")
    text = script.batch_script(site, "train", script.stage_job("train", RUN.slurm, RUN.run_id, ("true",)))
    begin = text.splitlines().index("module load gcc")
    assert tuple(text.splitlines()[begin + 1 : begin + 5]) == (*lines, "set -u")
    with pytest.raises(InputError, match="expected one line for the shell"):
        validate({"setup": ["true\nrm -rf /"]}, "")


@pytest.mark.parametrize("launcher", get_args(Launcher))
@pytest.mark.parametrize("name", SITES)
def test_scripts_and_launches_equal_their_golden_file(name: str, launcher: Launcher) -> None:
    site = validate(read(name, {FOLDER: "/nowhere"}) | {"launcher": launcher}, name)
    path = GOLDEN / f"{name}-{launcher}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text_of(site), encoding="utf-8")
    assert text_of(site) == path.read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_a_site_and_a_launcher() -> None:
    expected = {f"{name}-{launcher}.txt" for name in SITES for launcher in get_args(Launcher)}
    assert {path.name for path in GOLDEN.glob("*.txt")} == expected


def test_every_launcher_of_a_site_is_handled_and_no_other() -> None:
    assert set(commands.LAUNCHERS) == set(get_args(Launcher))


def test_an_unhandled_launcher_is_refused() -> None:
    site = Site().model_copy(update={"launcher": "ssh"})
    with pytest.raises(InputError, match="launcher: found 'ssh', expected one of srun, srun-pmix, mpirun, horovodrun"):
        commands.train_launch(site, LaunchConfig(), PYTHON, RUN.path, 2, [])


def test_every_key_of_a_site_appears_in_its_script() -> None:
    site = Site.model_validate(
        {
            "partition": "long",
            "account": "abc123",
            "qos": "high",
            "modules": ["cuda/12.4.0", "gcc"],
            "container": "/images/idxtrain.sif",
            "scratch": "$LOCAL",
            "requeue": False,
            "environment": {"NCCL_DEBUG": "WARN", "WHERE": "$HOME/here"},
            "options": ["--mail-type=FAIL"],
            "train": {
                "partition": "gpu",
                "time": "1-12:00:00",
                "nodes": 3,
                "ranks_per_node": 2,
                "cpus": 7,
                "memory": "64G",
                "gpus_per_node": 2,
                "gpu_type": "a100",
                "warn_seconds": 300,
                "options": ["--constraint=nvlink"],
            },
        }
    )
    job = script.stage_job("train", Path("/shared/my work/100%"), "r", ("python", "-m", "x", "/a b"))
    text = script.batch_script(site, "train", job)
    options = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert options == {
        "--job-name=idxtrain.r.train",
        '--output="/shared/my work/100%%/train-%j.out"',
        "--open-mode=append",
        "--no-requeue",
        "--partition=gpu",
        "--account=abc123",
        "--qos=high",
        "--time=1-12:00:00",
        "--nodes=3",
        "--ntasks-per-node=2",
        "--cpus-per-task=7",
        "--mem=64G",
        "--gpus-per-node=a100:2",
        "--signal=B:USR1@300",
        "--mail-type=FAIL",
        "--constraint=nvlink",
    }
    assert "module load cuda/12.4.0 gcc\n" in text
    assert 'export NCCL_DEBUG="WARN"\nexport WHERE="$HOME/here"\n' in text
    assert text.endswith("exec python -m x '/a b'\n")
    inside = commands.stage_command(site, PYTHON, "train", RUN.path)
    assert inside[:5] == ("apptainer", "exec", "--nv", "--bind", "/shared/work")
    assert inside[5:] == ("/images/idxtrain.sif", "python", "-I", "-m", "jobs.train", str(RUN.path))


@pytest.mark.parametrize("recipe", ["fast", "my best (v2)", "$(touch PWNED)", "x" * 300, "a\n#SBATCH --b", "ü"])
@pytest.mark.parametrize("name", SITES)
def test_the_script_of_any_recipe_name_is_valid_bash(name: str, recipe: str, tmp_path: Path) -> None:
    (tmp_path / f"{recipe[:200]}.toml").write_text(recipes.load("softmax").text, encoding="utf-8")
    run_id = runs.new_id(recipes.load(str(tmp_path / f"{recipe[:200]}.toml")).name)
    assert runs.find(Work(tmp_path), run_id) is None  # is a valid ID
    job = script.stage_job("train", RUN.slurm, run_id, ("true",))
    text = script.batch_script(validate(read(name), name), "train", job)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert text.count(run_id) == 2


# What a shell or sbatch could read as more than text.
PARTS: tuple[str, ...] = (
    "$(touch PWNED)",
    "`touch PWNED`",
    ";touch PWNED;",
    "&touch PWNED&",
    "|touch PWNED",
    "\ntouch PWNED\n",
    "\r",
    "\0",
)
PARTS += (
    '"',
    "'",
    "\\",
    "$",
    "${",
    "}",
    "$HOME/",  # "$HOMEa" would not be set, which ends the script, as it should
    "${HOME}",
    "${HOME}",
    "#",
    " ",
    "%j",
    "!",
    "~",
    "*",
    "é",
    "a",
    "-",
    "\u2028",
    "\x1b[2J",
)
hostile = st.lists(st.sampled_from(PARTS), max_size=5).map("".join)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "scratch": hostile,
            "environment": st.dictionaries(st.just("A") | hostile, hostile, max_size=2),
            "modules": st.lists(hostile, max_size=2),
            "options": st.lists(hostile.map("--comment={}".format) | hostile, max_size=2),
            "partition": hostile,
        },
    ),
    run_id=st.just("r") | hostile,
    folder=st.just("/shared") | hostile.map("/{}".format),
    argument=hostile,
)
def test_a_script_runs_its_command_and_nothing_else(
    values: dict[str, object], run_id: str, folder: str, argument: str, tmp_path: Path
) -> None:
    site_values = dict(values)
    for key, value in values.items():  # keys that are refused are left out
        try:
            validate({key: value}, "")
        except InputError:
            del site_values[key]
    site = validate(site_values, "")
    try:
        job = script.stage_job("train", Path(folder), run_id, ("printf", "%s", argument))
    except InputError:
        job = script.stage_job("train", Path("/shared"), "r", ("printf", "%s", "plain"))
    text = script.batch_script(site, "train", job)
    done = subprocess.run(
        ["bash", "-c", 'module() { test "$1" = load; }\n. /dev/stdin', "bash"],
        input=text,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == job.command[2]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    # sbatch reads options up to the first line that is no comment: only those of the site may be there.
    expected = 10 + ("partition" in site_values) + len(site.options)
    assert sum(line.startswith("#SBATCH") for line in text.splitlines()) <= expected


@pytest.mark.parametrize(
    "change", [{"name": "a\ntouch PWNED"}, {"name": "a b"}, {"about": "x\ntouch PWNED #"}, {"log": "/a\n#SBATCH -p x"}]
)
def test_a_job_that_would_add_lines_to_its_script_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"found|expected letters"):
        script.Job(**{"name": "n", "about": "a", "log": "/l", "command": ("true",)} | change)  # type: ignore[arg-type]


def test_fewer_ranks_use_fewer_nodes() -> None:
    site = Site.model_validate({"train": {"nodes": 4, "ranks_per_node": 2}})
    assert {"--nodes=3", "--ntasks=5", "--ntasks-per-node=2"} <= set(commands.rank_step(site, 5))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"partitoin": "x"}, r"partitoin: found an unknown key; did you mean partition or options\?$"),
        ({"train": {"node": 2}}, r"train\.node: found an unknown key; did you mean nodes\?$"),
        ({"launcher": "ssh"}, r"launcher: found 'ssh', expected one of srun, srun-pmix, mpirun, horovodrun"),
        ({"train": {"time": "2 hours"}}, r"train\.time: found '2 hours'"),
        ({"partition": "a; rm -rf x"}, "partition: found"),
        (
            {"environment": {"A": "$(reboot)"}},
            r"environment\.A: found '\$\(reboot\)', expected one line of text in which",
        ),
        (
            {"stage": ["environment"], "container": "/a.sif"},
            r'stage: found "environment" with a container, which is one file already; fix: leave one of them out',
        ),
        (
            {"stage": ["shards"], "launcher": "mpirun"},
            r'stage: found "shards" with launcher = "mpirun", expected srun or srun-pmix; fix: leave out one of them',
        ),
        ({"stage": ["data"]}, r"stage\.0: found 'data', expected one of environment, shards"),
        ({"environment": {"A": "`reboot`"}}, r"environment\.A: found"),
        ({"environment": {"A": "${B:-$C}"}}, r"environment\.A: found"),
        ({"environment": {"A": '"; reboot; "'}}, r"environment\.A: found"),
        ({"environment": {"A": "a\nreboot"}}, r"environment\.A: found"),
        ({"environment": {"A": "a\\"}}, r"environment\.A: found"),
        ({"environment": {"A-B": "a"}}, "environment: found 'A-B', expected text that matches"),
        ({"scratch": "$(id)"}, "scratch: found"),
        ({"modules": ["a&reboot"]}, r"modules\.0: found"),
        ({"modules": ["$(reboot)"]}, r"modules\.0: found"),
        ({"modules": ["a\nreboot"]}, r"modules\.0: found"),
        ({"partition": 'a"b'}, "partition: found"),
        ({"partition": "a\n"}, "partition: found"),
        ({"options": ["--a\n#SBATCH --b"]}, r"options\.0: found"),
        ({"options": ["--a\u2028--b"]}, r"options\.0: found"),
        ({"options": ['--comment="a']}, r"options\.0: found .*, expected an option of sbatch on one line"),
    ],
)
def test_an_invalid_site_is_refused_with_its_key(values: dict[str, object], error: str) -> None:
    with pytest.raises(InputError) as refused:
        validate(values, "--site x")
    assert re.match(f"--site x: {error}", str(refused.value))


def test_the_users_own_site_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "cpu.toml").write_text('about = "own"', encoding="utf-8")
    (tmp_path / "lab.toml").write_text("", encoding="utf-8")
    environment = {FOLDER: str(tmp_path)}
    assert read("cpu", environment) == {"about": "own"}
    assert read(str(tmp_path / "lab.toml"), environment) == {}
    assert set(names(environment)) == {*SITES, "lab"}
    for name in ("elsewhere", "../sites/cpu"):
        with pytest.raises(InputError, match=r"found no such site; expected one of bridges2, cpu, lab, local"):
            read(name, environment)
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        read("missing.toml", environment)
