"""`idxtrain schedule`: cron expressions, and the texts for cron, systemd and Slurm."""

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
from deploy.schedule.job import ScheduledJob
from jobs.errors import InputError
from pipelines.cli.output_log import KEPT, MOST_BYTES
from tests.conftest import Idxtrain, MakeArchives

GOLDEN = Path(__file__).parent / "golden/schedule"
# Characters that need quoting: spaces, %, $, quotes.
JOB = ScheduledJob(
    name="digits",
    cron=parse("0 3 * * 0"),
    argv=(
        *("/srv/my venv/bin/idxtrain", "retrain", "--data", "the data"),
        *("--set=gate.delta=0.5%", "--notify", 'echo $ME "it\'s"'),
    ),
    folder=Path("/srv/100 % digits"),
    log=Path("/srv/100 % digits/work/retrain/digits/retrain.log"),
    environment={"PATH": "/srv/my venv/bin:/usr/bin:/bin", "JAVA_HOME": "/opt/java 17"},
    environment_file=Path("/home/me/.secrets"),
    sbatch=("--time=60", "--gpus=1"),
)


def texts(job: ScheduledJob) -> dict[str, str]:
    return {
        **systemd.units(job),
        f"{job.title}.crontab": crontab.block(job),
        f"{job.title}.sh": slurm.script(job),
        f"{job.title}.scrontab": slurm.scrontab(job),
    }


@pytest.mark.parametrize("name", sorted(texts(JOB)))
def test_each_text_equals_its_golden_file(name: str) -> None:
    text, golden = texts(JOB)[name], GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def run_by_sh(script: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Run a command line by sh with cron's bare environment; return the arguments and variables it passes on."""
    done = subprocess.run(["/bin/sh", "-c", script], env={"HOME": str(folder)}, capture_output=True, check=True)
    arguments, _, variables = done.stdout.decode().partition("\n\n")
    return arguments.splitlines(), dict(line.split("=", 1) for line in variables.splitlines())


@pytest.fixture
def runnable(tmp_path: Path) -> ScheduledJob:
    """Return the golden job in existing folders, with a program that prints its arguments and variables."""
    folder = tmp_path / "100 % digits"
    folder.mkdir()
    program = tmp_path / "my venv"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$(pwd)" "$@"\necho\nenv\n')
    program.chmod(0o700)
    secrets = tmp_path / ".secrets"
    secrets.write_text("IDXTRAIN_WEBHOOK=https://secret\n")
    return replace(JOB, argv=(str(program), *JOB.argv[1:]), folder=folder, environment_file=secrets)


def test_cron_passes_arguments_and_variables_unchanged(runnable: ScheduledJob, tmp_path: Path) -> None:
    line = crontab.block(runnable).splitlines()[1]
    assert line.startswith("0 3 * * 0 cd ")
    assert not re.search(r"(?<!\\)%", line)  # it would end the command
    command = line.split(maxsplit=5)[5].replace(r"\%", "%")
    arguments, variables = run_by_sh(command, tmp_path)
    assert arguments == [str(runnable.folder), *runnable.logged_argv[1:]]
    assert variables.items() >= {**runnable.environment, "IDXTRAIN_WEBHOOK": "https://secret"}.items()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's systemd")
def test_systemd_accepts_the_units(runnable: ScheduledJob, tmp_path: Path) -> None:
    for name, text in systemd.units(runnable).items():
        (tmp_path / name).write_text(text)
    timer = tmp_path / f"{runnable.title}.timer"
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", timer], capture_output=True, text=True, check=False)
    assert "idxtrain-retrain" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_path_that_would_continue_on_the_next_line_of_a_unit_is_refused() -> None:
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
def test_systemd_has_the_same_times_as_cron(text: str) -> None:
    cron, begin = parse(text), datetime(2026, 2, 3, 4, 5)
    expected = [begin]
    for _ in range(5):
        expected.append(cron.next(expected[-1]))
    assert calendar_times(systemd.calendar(cron), begin, 5) == expected[1:]


def calendar_times(events: list[str], begin: datetime, count: int) -> list[datetime]:
    command = ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={begin:%Y-%m-%d %H:%M:%S} UTC"]
    output = subprocess.run([*command, *events], env={"TZ": "UTC"}, capture_output=True, text=True, check=True).stdout
    times = re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ ([\d-]+ [\d:]+) UTC", output)
    return sorted({datetime.fromisoformat(time) for time in times})[:count]


def test_an_expression_with_both_day_fields_makes_two_events() -> None:
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
def test_a_bad_expression_is_refused_in_one_line(idxtrain: Idxtrain, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"--cron {text!r}: ")
    assert words in str(caught.value)


def test_the_next_time_is_printed_for_sbatch() -> None:
    command = [sys.executable, "-I", "-m", "deploy.schedule.expression", "*/10 * * * *"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert timedelta() < datetime.fromisoformat(text) - datetime.now() < timedelta(minutes=11)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d0:00", text)


# --- the crontab


def test_installing_keeps_the_users_own_lines_and_replaces_the_jobs_block() -> None:
    own = "MAILTO=me\n0 1 * * * backup"
    once, old = crontab.merge(own, JOB)
    assert once == own + "\n" + crontab.block(JOB)
    assert old == ""
    assert crontab.merge(once, JOB) == (once, crontab.block(JOB))
    later = once + "5 5 * * * more\n"
    changed = replace(JOB, cron=parse("0 4 * * *"))
    assert crontab.merge(later, changed) == (
        own + "\n" + crontab.block(changed) + "5 5 * * * more\n",
        crontab.block(JOB),
    )
    other = replace(JOB, name="letters")
    assert crontab.merge(once, other)[0] == once + crontab.block(other)


def test_a_torn_block_and_a_long_line_are_refused() -> None:
    torn = "\n".join(crontab.block(JOB).splitlines()[:2])
    with pytest.raises(InputError, match="without the other; fix: edit it with `crontab -e`"):
        crontab.merge(torn, JOB)
    with pytest.raises(InputError, match="expected at most 998; fix: "):
        crontab.block(replace(JOB, argv=("x" * 990,)))
    with pytest.raises(InputError, match="expected no line breaks"):
        replace(JOB, argv=("a\n* * * * * evil",))


@pytest.fixture
def own_crontab(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose crontab command uses a file of the test: the user's own crontab is not touched."""
    program = tmp_path / "bin/crontab"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ntable={tmp_path}/table\nif [ "$1" = - ]; then cat > $table; exit; fi\n'
        'if [ -e $table ]; then cat $table; else echo "no crontab for me" >&2; exit 1; fi\n'
    )
    program.chmod(0o700)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "IDXTRAIN_WEBHOOK": "https://secret"}


def test_install_changes_the_crontab_once_and_reports_it(
    idxtrain: Idxtrain, own_crontab: Mapping[str, str], make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", train=12, test=6)
    table, title = tmp_path / "table", "idxtrain-retrain-data"
    table.write_text("0 1 * * * backup\n")

    def install(*options: str) -> subprocess.CompletedProcess[str]:
        return idxtrain("schedule", "--as", "cron", "--install", "--data", "data", *options, env=own_crontab)

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
        (("--cron", "0 3 * * 0", "--as", "cron", "--dta", "x"), "--dta: found no such option; did you mean --data?"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--set=train.epoch=3"), "did you mean epochs?"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--log", "x"), "idxtrain: --log: found one, expected none"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--env-file", "/dev/null"), "expected 0600; fix: chmod 600 /dev/null"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--data", "nowhere"), "nowhere: found no such folder; fix: give"),
        (("--cron", "0 3 * * 0", "--as", "cron", "--data", "."), "found no archive for train_images, train_labels"),
    ],
)
def test_options_that_would_fail_every_night_are_refused_now(
    idxtrain: Idxtrain, arguments: tuple[str, ...], words: str
) -> None:
    done = idxtrain("schedule", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_to_writes_the_files_into_the_folder(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("schedule", "--cron", "@daily", "--as", "systemd", "--to", "units", "--name", "digits")
    assert done.stdout.splitlines() == [f"units/idxtrain-retrain-digits.{kind}" for kind in ("service", "timer")]
    assert "OnCalendar=*-*-* 00:00:00\nPersistent" in re.sub(
        "#.*\n", "", (tmp_path / "units/idxtrain-retrain-digits.timer").read_text()
    )


# --- the log


def test_the_log_has_all_output_and_rotates(idxtrain: Idxtrain, tmp_path: Path) -> None:
    log = tmp_path / "logs/retrain.log"
    done = idxtrain("retrain", "--data", "nowhere", "--log", log)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    lines = log.read_text().splitlines()
    assert re.fullmatch(
        r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d process \d+ begins: retrain --data nowhere --log .*", lines[0]
    )
    assert lines[1].startswith("idxtrain: ")
    assert "nowhere: found no such folder" in lines[1]
    assert lines[-1].endswith(" ends")
    log.write_text("0" + "x" * MOST_BYTES)
    for number in range(1, KEPT + 1):
        log.with_name(f"retrain.log.{number}").write_text(str(number))
    assert idxtrain("retrain", "--data", "nowhere", "--log", log).returncode == 2
    assert len(log.read_text().splitlines()) == len(lines)
    old = sorted(path for path in log.parent.iterdir() if re.fullmatch(r"retrain\.log\.\d", path.name))
    assert [path.read_text()[0] for path in old] == [str(number) for number in range(KEPT)]


def test_a_log_that_cannot_be_written_is_refused(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("retrain", "--data", "nowhere", "--log", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"idxtrain: --log {tmp_path}: cannot be written")
