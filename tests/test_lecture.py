"""The course's page: each command starts what it promises, and each figure is one that was measured."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines import recipes
from pipelines.cli.app import app
from tests.test_readme import ROOT, commands, text_of

PAGE = "pipelines/LECTURE.md"
_ROW = re.compile(
    r"^\| \[(\d)\]\(.*?\) \| `(\w+)` \| ([\d.]+) % \|(?: ([\d.]+) %)?[^|]* \| ([\d,]+) \| (.+?) \|$", re.MULTILINE
)
_PERCENTAGE = re.compile(r"\d+(?:\.\d+)? %")
# Where a percentage of the page may come from, apart from the recipes: pages whose figures were measured.
_MEASURED = ("tests/benchmarks/TRIED.md", "jobs/demo/README.md")


def percent(share: str) -> str:
    """Return 0.9921 as 99.21."""
    return f"{100 * float(share):.2f}"


def test_the_table_has_the_figures_of_the_recipes() -> None:
    rows = _ROW.findall(text_of(PAGE))
    assert [row[1] for row in rows] == ["softmax", "lecture", "keras", "residual"]
    for step, name, accuracy, lectures, images, time in rows:
        about = recipes.load(name).about
        assert accuracy == percent(about.expected.split()[0]), name
        assert int(images.replace(",", "")) == about.images
        assert about.time.startswith(f"{time} of training on 2 CPU cores"), name
        if lectures:
            stated = re.search(r"the lecture: (0\.\d+)", about.expected)
            assert lectures in (percent(stated[1]) if stated else "", *re.findall(r"[\d.]+", about.source)), name
        section = text_of(PAGE).partition(f"\n## {step}. ")[2].partition("\n## ")[0]
        assert f"idxtrain run --recipe {name} --run-id" in section
        assert f"\n**{accuracy} %**" in section


def test_every_percentage_was_measured() -> None:
    expected = {
        f"{percent(recipes.load(name).about.expected.split()[0])} %"
        for name in ("softmax", "lecture", "keras", "residual")
    }
    measured = expected | {each for page in _MEASURED for each in _PERCENTAGE.findall(" ".join(text_of(page).split()))}
    lecture = {"91.83 %", "99.15 %", "99.25 %"}
    assert set(_PERCENTAGE.findall(text_of(PAGE))) <= measured | lecture


def test_the_errors_fall_as_the_page_claims() -> None:
    errors = {
        name: 1 - float(recipes.load(name).about.expected.split()[0]) for name in ("softmax", "lecture", "residual")
    }
    assert 0.09 < errors["lecture"] / errors["softmax"] < 0.11  # "a tenth"
    assert errors["residual"] < errors["lecture"] / 2  # "less than half"


def test_every_number_of_weights_is_that_of_a_model() -> None:
    models = text_of("models/README.md")
    weights = set(re.findall(r"\d[\d,]+(?=\s+weights)|(?<=place of )[\d,]+", text_of(PAGE)))
    assert len(weights) == 2
    assert all(f"| {each.rstrip(',')} |" in models for each in weights)


def lines() -> list[list[str]]:
    """Return the words of each command that the page lets the reader type or names in full."""
    return [line for line in commands(PAGE) if len(line) > 1]


@pytest.mark.parametrize("words", lines(), ids=" ".join)
def test_every_command_parses_and_each_run_can_be_planned(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "run" and "train.model=NAME" not in words:
        planned = CliRunner().invoke(app, [*words, "--dry-run"])
        assert planned.exit_code == 0, planned.output
        assert "jobs.evaluate" in planned.output
    root: Any = typer.main.get_command(app)
    command, arguments = root.commands[words[0]], words[1:]
    if arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(words[0], arguments).close()


def test_the_course_follows_the_lecture_in_order() -> None:
    titles = re.findall(r"^## \d\. (.*)$", text_of(PAGE), re.MULTILINE)
    assert titles == [
        "One layer", "Convolutions", "Dropout", "TensorBoard", "Keras's example", "A residual network",
        "Your own digits", "Color photographs",
    ]  # fmt: skip


def test_the_pictures_of_the_pages_are_small() -> None:
    pictures = sorted((ROOT / "pipelines/images").iterdir())
    assert pictures
    assert [each.name for each in pictures if each.stat().st_size > 150_000] == []
