"""The command line itself: help, version, order of the commands, and the words of shared options."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from jobs.fetch.catalog import CATALOG
from pipelines.cli.app import app

PROGRAM = str(Path(sys.executable).with_name("idxtrain"))
LONGEST_SUMMARY = 60
# The order of first use: on one machine, on a cluster, on a schedule.
ORDER = (
    *(
        "run",
        "fetch",
        "prepare",
        "train",
        "evaluate",
        "plan",
        "runs",
        "report",
        "stragglers",
        "tensorboard",
        "predict",
        "demo",
    ),
    *("datasets", "convert", "inspect", "recipes", "config", "doctor"),
    *("submit", "status", "logs", "cancel", "sweep"),
    *("retrain", "schedule", "models", "serve", "prune"),
)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and sub-command, with its names from the program on."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def help_of(*words: str) -> str:
    done = subprocess.run(
        [PROGRAM, *words], env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    return done.stdout


def summary_of(command: Any) -> str:
    """Return the first paragraph of a command's help on one line."""
    return " ".join(str(command.help or "").partition("\n\n")[0].split())


@pytest.mark.parametrize("path", [path for path in COMMANDS if path], ids=" ".join)
def test_every_command_has_a_short_imperative_summary_that_its_list_shows_whole(path: tuple[str, ...]) -> None:
    summary = summary_of(COMMANDS[path])
    assert summary.endswith(".")
    assert summary[0].isupper()
    assert len(summary) <= LONGEST_SUMMARY
    rows = [line.split(maxsplit=1) for line in help_of(*path[:-1], "--help").splitlines()]
    assert [path[-1], summary] in rows


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_help(path: tuple[str, ...]) -> None:
    lacking = [parameter.name for parameter in COMMANDS[path].params if not getattr(parameter, "help", None)]
    assert not lacking


@pytest.mark.parametrize("path", [(), ("run",), ("models",), ("models", "list"), ("recipes", "show")], ids=" ".join)
def test_the_short_option_h_shows_help_everywhere(path: tuple[str, ...]) -> None:
    assert help_of(*path, "-h") == help_of(*path, "--help")


def test_commands_are_listed_by_use() -> None:
    names = list(COMMANDS[()].commands)
    assert names == [name for name in ORDER if name in names]


def test_version_prints_the_version_of_the_package() -> None:
    from importlib.metadata import version

    assert help_of("--version") == f"idxtrain {version('idxtrain')}\n"


ARCHIVES = ["--data", "--dataset", "--train-images", "--train-labels", "--test-images", "--test-labels", "--classes"]


@pytest.mark.parametrize("name", ["run", "fetch", "prepare", "train", "evaluate", "plan", "submit", "sweep", "retrain"])
def test_every_command_that_makes_runs_takes_the_archives_by_the_same_options(name: str) -> None:
    options = [parameter.opts[0] for parameter in COMMANDS[(name,)].params]
    start = options.index("--data")
    assert options[start : start + len(ARCHIVES)] == ARCHIVES


def test_the_same_option_has_the_same_words_in_every_command() -> None:
    shared = {*ARCHIVES[:-1], "--recipe", "--np", "--set", "--seed", "--spark-master", "--work", "--site-set"}
    texts: dict[str, set[str]] = {name: set() for name in shared}
    for command in COMMANDS.values():
        for parameter in command.params:
            for name in shared & set(parameter.opts):
                texts[name].add(parameter.help)
    # As --data, `retrain` and `datasets` take a folder alone, and `datasets` downloads none.
    assert {name: len(helps) for name, helps in texts.items()} == dict.fromkeys(shared, 1) | {"--data": 3}


def test_help_names_the_command_that_lists_the_data_sets() -> None:
    (dataset,) = (parameter for parameter in COMMANDS[("run",)].params if "--dataset" in parameter.opts)
    assert "`idxtrain datasets`" in dataset.help
    assert all(f"\n{name} " in help_of("datasets") for name in CATALOG)
