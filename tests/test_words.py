"""Help texts and messages are plain English: the words that were retired do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli.app import app

ROOT = Path(__file__).parent.parent
ROOMS = ("pipelines", "deploy", "jobs", "models")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
# A pattern, and what to write instead.
RETIRED = {
    r"mend(s|ed|ing)?": "fix",
    r"(go|goes|going|gone|went) on( with| from| as)?": "resume",
    r"anew": "again, restart",
    r"tell(s|ing)?|told": "show, print, report",
    r"so many": "N",
    r"at the (most|least)": "at most, at least",
    r"(is|are) none": "is not a …, missing",
    r"(?<!standard )deviation": "standard deviation, std",
    r"gangs?": "launcher, workers",
    r"keepers?": "supervisor",
    r"quick(er|est)?": "fast",
    r"foresaw|foreseen": "unexpected",
}
_RETIRED = {re.compile(rf"\b({pattern})\b", re.IGNORECASE): instead for pattern, instead in RETIRED.items()}
# The calls whose texts people read.
_FUNCTIONS = {"print", "fail", "_fail"}
_METHODS = {"debug", "info", "warning", "error", "critical", "exception", "exit", "log_to_file_only"}


def retired(text: str) -> Iterator[str]:
    """Yield each retired word of a text, with what to write instead."""
    for pattern, instead in _RETIRED.items():
        yield from (f"found {match[0]!r}, expected: {instead}" for match in pattern.finditer(text))


def is_message(call: ast.Call) -> bool:
    """Return whether a call prints, logs or raises: its name is that of an exception, a logger's method or `print`."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in _FUNCTIONS or function.id.endswith(("Error", "Warning"))
    return isinstance(function, ast.Attribute) and (
        function.attr in _METHODS or function.attr.endswith(("Error", "Warning"))
    )


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string literal in a call that prints, logs or raises."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_message(node):
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                for part in ast.walk(argument):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.lineno, part.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_have_no_retired_words(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    faults = {
        f"{path.relative_to(ROOT)}:{line}: {word} in {text!r}"
        for line, text in messages(tree)
        for word in retired(text)
    }
    assert not faults, "\n".join(sorted(faults))


def help_texts(command: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield where a help text is and its words, for a command and everything below it."""
    yield path, f"{command.help or ''} {command.epilog or ''}"
    for parameter in command.params:
        yield f"{path} {parameter.opts[-1]}", str(getattr(parameter, "help", None) or "")
    for name, below in getattr(command, "commands", {}).items():
        yield from help_texts(below, f"{path} {name}")


def test_help_has_no_retired_words() -> None:
    texts = help_texts(typer.main.get_command(app), "idxtrain")
    faults = [f"{where}: {word}" for where, text in texts for word in retired(text)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("mend the site", 1),
        ("an existing run is gone on with", 1),
        ("three times at the most", 1),
        ("found std 0.2, a standard deviation, expected less", 0),
        ("found 3 ranks; fix: recommend none", 0),
        ("the right order of the arguments", 0),
    ],
)
def test_retired_words_are_whole_words(text: str, count: int) -> None:
    assert len(list(retired(text))) == count


def test_messages_are_found_in_every_kind_of_call() -> None:
    source = 'log.info("a %s", x)\nraise InputError(f"b {x}" "c")\nprint("d", file=y)\nother("e")\nsys.exit("f")'
    assert [line for line, _ in messages(ast.parse(source))] == [1, 2, 2, 3, 5]
