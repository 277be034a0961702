"""The pages: their promises name tests, their links and commands exist, and the README stays short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from jobs.prepare import idx
from pipelines.cli.app import app
from pipelines.config import compose
from pipelines.retraining.inputs import archives

ROOT = Path(__file__).parent.parent
# The pages with promises under "What you can rely on", each with a comment beside every sentence.
PROMISES = ("README.md", "jobs/README.md", "pipelines/README.md", "SECURITY.md")
PAGES = (
    *PROMISES,
    "models/README.md",
    "pipelines/LECTURE.md",
    "jobs/demo/README.md",
    "deploy/serving/README.md",
    "deploy/README.md",
    "deploy/schedule/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def promises(page: str) -> list[str]:
    """Return the bullets under "What you can rely on", each as one line."""
    section = text_of(page).partition("\n## What you can rely on\n")[2].partition("\n## ")[0]
    return [" ".join(bullet.split()) for bullet in re.split(r"^- ", section, flags=re.MULTILINE)[1:]]


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8")) if (ROOT / file).is_file() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("page", PROMISES)
def test_every_promise_names_its_tests_and_they_exist(page: str) -> None:
    assert len(promises(page)) >= 4
    missing = []
    for promise in promises(page):
        *kept, rest = _COMMENT.split(promise)
        assert not rest, f"no test is named after: {rest}"
        for sentence, names in zip(kept[::2], kept[1::2], strict=True):
            # A bullet may begin with a title in bold, which is a sentence of its own or the beginning of one.
            plain = re.sub(r"\*\*.*?\*\*", "", sentence).strip()
            assert len(re.findall(r"[.!?](?:\s|$)", plain)) <= 1, f"more than one sentence before a comment: {sentence}"
            assert names.split(), f"no test is named after: {sentence}"
            for name in names.split():
                file, _, test = name.partition("::")
                if test not in defined_in(file):
                    missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_cites_exists(page: str) -> None:
    cited = re.findall(r"(tests/\S+\.py)::(\w+)", " ".join(_COMMENT.findall(text_of(page))))
    assert [f"{file}::{name}" for file, name in cited if name not in defined_in(file)] == []


def test_the_readme_has_at_most_900_words() -> None:
    assert len(_COMMENT.sub("", text_of("README.md")).split()) <= 900


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for link in ("".join(pair) for pair in _LINK.findall(text_of(page))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of each `idxtrain` command in the page's code."""
    blocks = re.findall(r"^```.*?^```|`[^`\n]+`", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for line in "\n".join(blocks).splitlines():
        for command in re.findall(r"(?<![\w/-])idxtrain ((?:models |recipes )?[a-z]+\b[^#`&|']*)", line):
            yield command.split()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_in_a_page_exists(page: str) -> None:
    root: Any = typer.main.get_command(app)
    for first, *words in commands(page):
        assert first in root.commands, f"{page}: idxtrain {first}"
        command = root.commands[first]
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
        known = options(command) | (options(root.commands["retrain"]) if first == "schedule" else set())
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{page}: idxtrain {first} {' '.join(words)}"


def options(command: Any) -> set[str]:
    """Return the long options of a command."""
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def test_the_data_of_the_retraining_example_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the example's own lines on archives of MNIST's sizes, with images of 2 × 2."""
    blocks = re.findall(r"```python\n(.*?)```", text_of("pipelines/README.md"), re.DOTALL)
    (block,) = (code for code in blocks if "monday" in code)
    mnist = tmp_path / "work/archives/mnist"
    mnist.mkdir(parents=True)
    for split, rows in (("train", 60_000), ("t10k", 10_000)):
        idx.write(mnist / f"{split}-images-idx3-ubyte", np.zeros((rows, 2, 2), np.uint8))
        idx.write(mnist / f"{split}-labels-idx1-ubyte", np.zeros(rows, np.uint8))
    monkeypatch.chdir(tmp_path)
    exec(block, {})  # noqa: S102 (our own page)
    Path("monday").rename("digits/monday")  # the example's `mv monday digits`
    files = archives(compose("fast", {"fetch.data": str(tmp_path / "digits"), "fetch.dataset": "digits"}, []))
    rows_of = {key: idx.read_header(path).rows for key, path in files.items()}
    assert rows_of == {
        "train_images@": 20_000, "train_labels@": 20_000, "test_images": 10_000, "test_labels": 10_000,
        "train_images@monday": 10_000, "train_labels@monday": 10_000,
    }  # fmt: skip
