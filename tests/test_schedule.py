"""`idxtrain schedule`: cron expressions, and the texts that cron, systemd and Slurm are given."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.schedule import crontab, slurm, systemd
from deploy.schedule.expression import parse
from deploy.schedule.job import Job
from jobs.errors import InputError
from pipelines.cli.output_log import KEPT, MOST_BYTES
from tests.conftest import Idxtrain, MakeArchives

GOLDEN = Path(__file__).parent / "golden/schedule"
# All that may go wrong with quoting: spaces, %, $, quotes.
JOB = Job(
    name="digits",
    cron=parse("0 3 * * 0"),
    argv=(
        *("/srv/my venv/bin/idxtrain", "retrain", "--data", "the data"),
        *("--set=gate.delta=0.5%", "--notify", 'tell $ME "it\'s"'),
    ),
    folder=Path("/srv/100 % digits"),
    log=Path("/srv/100 % digits/work/retrain/digits/retrain.log"),
    environment={"PATH": "/srv/my venv/bin:/usr/bin:/bin", "JAVA_HOME": "/opt/java 17"},
    environment_file=Path("/home/me/.secrets"),
    sbatch=("--time=60", "--gpus=1"),
)


def texts(job: Job) -> dict[str, str]:
    return {
        **systemd.units(job),
        f"{job.title}.crontab": crontab.block(job),
        f"{job.title}.sh": slurm.script(job),
        f"{job.title}.scrontab": slurm.scrontab(job),
    }


@pytest.mark.parametrize("name", sorted(texts(JOB)))
def test_the_text_is_the_golden_one(name: str) -> None:
    assert texts(JOB)[name] == (GOLDEN / name).read_text(encoding="utf-8")


def run_by_sh(script: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Run a command line by sh with the bare environment of cron; return the arguments and variables it passes on."""
    done = subprocess.run(["/bin/sh", "-c", script], env={"HOME": str(folder)}, capture_output=True, check=True)
    arguments, _, variables = done.stdout.decode().partition("\n\n")
    return arguments.splitlines(), dict(line.split("=", 1) for line in variables.splitlines())


@pytest.fixture
def runnable(tmp_path: Path) -> Job:
    """Return the golden job, in folders that are there, with a program that prints its arguments and variables."""
    folder = tmp_path / "100 % digits"
    folder.mkdir()
    program = tmp_path / "my venv"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$(pwd)" "$@"\necho\nenv\n')
    program.chmod(0o700)
    secrets = tmp_path / ".secrets"
    secrets.write_text("IDXTRAIN_WEBHOOK=https://secret\n")
    return replace(JOB, argv=(str(program), *JOB.argv[1:]), folder=folder, environment_file=secrets)


def test_cron_passes_on_what_was_meant(runnable: Job, tmp_path: Path) -> None:
    line = crontab.block(runnable).splitlines()[1]
    assert line.startswith("0 3 * * 0 cd ")
    assert not re.search(r"(?<!\\)%", line)  # it would end the command
    command = line.split(maxsplit=5)[5].replace(r"\%", "%")
    arguments, variables = run_by_sh(command, tmp_path)
    assert arguments == [str(runnable.folder), *runnable.logged_argv[1:]]
    assert variables.items() >= {**runnable.environment, "IDXTRAIN_WEBHOOK": "https://secret"}.items()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's systemd")
def test_systemd_takes_the_units(runnable: Job, tmp_path: Path) -> None:
    for name, text in systemd.units(runnable).items():
        (tmp_path / name).write_text(text)
    timer = tmp_path / f"{runnable.title}.timer"
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", timer], capture_output=True, text=True, check=False)
    assert "idxtrain-retrain" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_path_that_would_swallow_the_next_line_of_a_unit_is_refused() -> None:
    for path in ("folder", "environment_file"):
        with pytest.raises(InputError, match="expected no backslash at the end"):
            systemd.units(replace(JOB, **{path: Path("/srv/odd\\")}))  # type: ignore[arg-type]


def fields() -> st.SearchStrategy[str]:
    def field(low: int, high: int) -> st.SearchStrategy[str]:
        number = st.integers(low, high)
        span = st.tuples(number, number).map(sorted).map(lambda ends: f"{ends[0]}-{ends[1]}")
        step = st.integers(1, high).map(str)
        one = st.one_of(
            st.just("*"), number.map(str), span, st.tuples(st.just("*") | span, step).map(lambda parts: "/".join(parts))
        )
        return st.lists(one, min_size=1, max_size=2).map(",".join)

    return st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)).map(" ".join)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's systemd")
@given(fields())
@settings(max_examples=40, deadline=None)
def test_systemd_comes_when_cron_comes(text: str) -> None:
    cron, begin = parse(text), datetime(2026, 2, 3, 4, 5)
    expected = [begin]
    for _ in range(5):
        expected.append(cron.next(expected[-1]))
    assert calendar_times(systemd.calendar(cron), begin, 5) == expected[1:]


def calendar_times(events: list[str], begin: datetime, count: int) -> list[datetime]:
    command = ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={begin:%Y-%m-%d %H:%M:%S} UTC"]
    said = subprocess.run([*command, *events], env={"TZ": "UTC"}, capture_output=True, text=True, check=True).stdout
    times = re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ ([\d-]+ [\d:]+) UTC", said)
    return sorted({datetime.fromisoformat(time) for time in times})[:count]


def test_a_day_that_fits_in_two_ways_makes_two_events() -> None:
    assert systemd.calendar(parse("30 4 1,15 * FRI")) == ["Fri *-*-* 04:30:00", "*-*-01,15 04:30:00"]
    assert systemd.calendar(parse("30 4 */2 * FRI")) == ["Fri *-*-" + ",".join(
        f"{day:02d}" for day in range(1, 32, 2)) + " 04:30:00"]  # fmt: skip
    assert systemd.calendar(parse("@weekly")) == ["Sun *-*-* 00:00:00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 2 3", "found 3 fields, expected five fields"),
        ("0 3 * * 0 echo", "found 6 fields"),
        ("61 * * * *", "bad minute"),
        ("5/15 * * * *", "found '5/15' as minute, expected numbers"),
        ("0 0 L * *", "found 'L' as day of month"),
        ("0 0 * * FRI#2", "found 'FRI#2' as day of week"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("@reboot", "expected five fields"),
        ("0 5-1 * * *", "bad hour"),
        ("*/0 * * * *", "bad minute"),
    ],
)
def test_a_bad_expression_is_one_line(idxtrain: Idxtrain, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"--cron {text!r}: ")
    assert words in str(caught.value)


def test_the_next_time_is_printed_for_sbatch() -> None:
    command = [sys.executable, "-I", "-m", "deploy.schedule.expression", "*/10 * * * *"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert timedelta() < datetime.fromisoformat(said) - datetime.now() < timedelta(minutes=11)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d0:00", said)


# --- the crontab


def test_the_block_is_put_beside_the_users_own_lines_and_replaced() -> None:
    mine = "MAILTO=me\n0 1 * * * backup"
    once, old = crontab.merge(mine, JOB)
    assert once == mine + "\n" + crontab.block(JOB)
    assert old == ""
    assert crontab.merge(once, JOB) == (once, crontab.block(JOB))
    later = once + "5 5 * * * more\n"
    changed = replace(JOB, cron=parse("0 4 * * *"))
    assert crontab.merge(later, changed) == (
        mine + "\n" + crontab.block(changed) + "5 5 * * * more\n",
        crontab.block(JOB),
    )
    other = replace(JOB, name="letters")
    assert crontab.merge(once, other)[0] == once + crontab.block(other)


def test_a_torn_block_and_a_long_line_are_refused() -> None:
    torn = "\n".join(crontab.block(JOB).splitlines()[:2])
    with pytest.raises(InputError, match="without the other; mend it with `crontab -e`"):
        crontab.merge(torn, JOB)
    with pytest.raises(InputError, match="cron takes 998 at the most"):
        crontab.block(replace(JOB, argv=("x" * 990,)))
    with pytest.raises(InputError, match="expected no line breaks"):
        replace(JOB, argv=("a\n* * * * * evil",))


@pytest.fixture
def own_crontab(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose crontab command keeps its table in a file: the user's own is left alone."""
    program = tmp_path / "bin/crontab"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ntable={tmp_path}/table\nif [ "$1" = - ]; then cat > $table; exit; fi\n'
        'if [ -e $table ]; then cat $table; else echo "no crontab for me" >&2; exit 1; fi\n'
    )
    program.chmod(0o700)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "IDXTRAIN_WEBHOOK": "https://secret"}


def test_install_is_said_and_done_once(
    idxtrain: Idxtrain, own_crontab: Mapping[str, str], make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", train=12, test=6)
    table, title = tmp_path / "table", "idxtrain-retrain-data"
    table.write_text("0 1 * * * backup\n")

    def install(*what: str) -> subprocess.CompletedProcess[str]:
        return idxtrain("schedule", "--as", "cron", "--install", "--data", "data", *what, env=own_crontab)

    done = install("--cron", "0 3 * * 0")
    assert (done.returncode, done.stdout) == (0, f"crontab: installed {title}\n"), done.stderr
    assert "warning: IDXTRAIN_WEBHOOK: set here, but secrets are not written" in done.stderr
    first = table.read_text()
    assert "secret" not in first
    assert first.startswith("0 1 * * * backup\n# >>> idxtrain-retrain-data,")
    assert f"\n0 3 * * 0 cd {tmp_path} && exec env PATH={Path(sys.executable).parent}:" in first
    assert f"idxtrain retrain --data data --log {tmp_path}/work/retrain/data/retrain.log\n" in first
    assert install("--cron", "0 3 * * 0").stdout == f"crontab: {title} is already installed, unchanged\n"
    assert table.read_text() == first
    changed = install("--cron", "0 4 * * *", "--np", "2")
    assert changed.stdout == f"crontab: replaced {title}\n"
    assert "\n0 3 * * 0 cd " in changed.stderr
    assert table.read_text().count("idxtrain retrain ") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cron", "1 2 3", "--as", "cron"), "idxtrain: --cron '1 2 3': found 3 fields"),
        (("--cron", "0 3 * * 0", "--as", "systemd", "--install"), "idxtrain: --install: found --as systemd, expected"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--sbatch=--time=1"), "idxtrain: --sbatch: found --as cron"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--dta", "x"), "No such option: --dta"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--set=train.epoch=3"), "did you mean epochs?"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--log", "x"), "idxtrain: --log: found one, expected none"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--env-file", "/dev/null"), "expected 0600; fix: chmod 600 /dev/null"),
    ],
)
def test_what_would_fail_every_night_is_refused_now(idxtrain: Idxtrain, arguments: tuple[str, ...], words: str) -> None:
    done = idxtrain("schedule", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_files_are_written_where_they_are_wanted(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("schedule", "--cron", "@daily", "--as", "systemd", "--to", "units", "--name", "digits")
    assert done.stdout.splitlines() == [f"units/idxtrain-retrain-digits.{kind}" for kind in ("service", "timer")]
    assert "OnCalendar=*-*-* 00:00:00\nPersistent" in re.sub(
        "#.*\n", "", (tmp_path / "units/idxtrain-retrain-digits.timer").read_text()
    )


# --- the log


def test_the_log_has_all_that_is_said_and_rotates(idxtrain: Idxtrain, tmp_path: Path) -> None:
    log = tmp_path / "logs/retrain.log"
    done = idxtrain("retrain", "--data", "nowhere", "--log", log)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    lines = log.read_text().splitlines()
    assert re.fullmatch(
        r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d process \d+ begins: retrain --data nowhere --log .*", lines[0]
    )
    assert lines[1].startswith("idxtrain: ")
    assert "nowhere: there is no such folder" in lines[1]
    assert lines[-1].endswith(" ends")
    log.write_text("0" + "x" * MOST_BYTES)
    for number in range(1, KEPT + 1):
        log.with_name(f"retrain.log.{number}").write_text(str(number))
    assert idxtrain("retrain", "--data", "nowhere", "--log", log).returncode == 2
    assert len(log.read_text().splitlines()) == len(lines)
    old = sorted(path for path in log.parent.iterdir() if re.fullmatch(r"retrain\.log\.\d", path.name))
    assert [path.read_text()[0] for path in old] == [str(number) for number in range(KEPT)]


def test_a_log_that_cannot_be_written_is_said(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("retrain", "--data", "nowhere", "--log", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"idxtrain: --log {tmp_path}: cannot be written")
