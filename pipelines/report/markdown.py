"""A run's result as Markdown for a pull request: accuracy, caveats, errors, and how to get the same again."""

import json
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from jobs.archive import ROLES
from jobs.errors import printable
from jobs.evaluate.metrics import read_confusions, shown_names, worst_confusions
from jobs.metrics import Metrics
from jobs.run_dir import RunDir
from jobs.words import counted
from pipelines.history import comparison
from pipelines.history.details import own_options
from pipelines.report.results import Result

_MOST_CONFUSIONS = 5
_OWN = ("seed", "fetch.", "launch.", "spark.")  # keys that have an option of their own, or change no result


def text(results: Sequence[Result]) -> str:
    """Return the report of one run, or of two or more runs side by side."""
    blocks = list(_one(results[0]) if len(results) == 1 else _side_by_side(results))
    return "\n\n".join(blocks) + "\n"


def _one(result: Result) -> Iterator[str]:
    yield f"## {_plain(result.name)}: {_accuracy(result.metrics)}"
    yield f"95 % interval {_interval(result.metrics)}. {_training(result.metrics)}"
    yield from _caveats(result)
    yield from _errors(result)
    yield from _reproduce(result)


def _side_by_side(results: Sequence[Result]) -> Iterator[str]:
    runs, names = [each.run for each in results], [each.name for each in results]
    yield f"## {' and '.join(map(_plain, names)) if len(names) == 2 else counted(len(names), 'run')}"
    header = ("", *names)
    accuracies = ("test accuracy", *(f"{each.metrics.test.accuracy:.4f}" for each in results))
    intervals = ("95 % interval", *(_interval(each.metrics) for each in results))
    yield _table(header, [accuracies, intervals, *comparison.results([each.metrics for each in results])[1:]])
    problem = comparison.why_not_comparable(runs, [each.metrics for each in results])
    if problem:
        yield _sentence(_plain(problem))
    else:
        verdicts = comparison.pairs({run.run_id: comparison.correct(run)[1] for run in runs})
        yield "\n".join(f"- {_sentence(_plain(str(pair)))}" for pair in verdicts)
    # A path is of this machine, and may name people.
    options = [row for row in comparison.options(runs) if row[0] == "fetch.dataset" or not row[0].startswith("fetch.")]
    if options:
        yield _table(("option", *names), options)
    for result in results:
        yield f"### {_plain(result.name)}: {_accuracy(result.metrics)}"
        yield from _caveats(result)
        yield from _errors(result)
        yield from _reproduce(result)


def _accuracy(metrics: Metrics) -> str:
    errors = f"{counted(metrics.test.errors, 'error')} in {metrics.test.count:,}"
    return f"test accuracy {metrics.test.accuracy:.4f} ({errors})"


def _interval(metrics: Metrics) -> str:
    return " to ".join(f"{bound:.4f}" for bound in metrics.test.ci95)


def _training(metrics: Metrics) -> str:
    validation = metrics.validation.accuracy
    reached = "" if validation is None else f" Validation accuracy {validation:.4f}."
    ranks = counted(metrics.world_size, "rank")
    return f"{counted(metrics.train.steps, 'update')} on {ranks} in {metrics.train.precision}.{reached}"


def _caveats(result: Result) -> Iterator[str]:
    if result.metrics.caveats:
        yield "\n".join(f"- **Caveat:** {_sentence(_plain(each.text))}" for each in result.metrics.caveats)


def _errors(result: Result) -> Iterator[str]:
    test = result.metrics.test
    worst = worst_confusions(read_confusions(test), _MOST_CONFUSIONS)
    if not worst:
        return
    names = shown_names(test)
    rows = [(names[each.true], names[each.predicted], f"{each.count:,}") for each in worst]
    yield _table(("true class", "predicted class", "images"), rows, left=2)
    shown = sum(each.count for each in worst)
    if shown < test.errors:
        yield f"The other {test.errors - shown:,} errors are of less frequent kinds."


def _reproduce(result: Result) -> Iterator[str]:
    command, data = _command(result.run, result.metrics)
    yield f"To reproduce:{data}"
    yield f"```\n{command}\n```"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.metrics.versions.items()))
    yield f"Dataset {result.metrics.dataset_id}; {versions}."


def _command(run: RunDir, metrics: Metrics) -> tuple[str, str]:
    """Return the command that makes such a run, and what to know about its data. It names no path of this machine."""
    config = run.read_config()
    fetch = config.get("fetch", {})
    words = ["idxtrain", "run", "--recipe", metrics.recipe, "--seed", str(metrics.seed)]
    if metrics.world_size > 1:
        words += ["--np", str(metrics.world_size)]
    data = ""
    named = [role for role in ROLES if fetch.get(role)]
    if fetch.get("data"):
        words += ["--data", "FOLDER"]
        data = f" FOLDER is that of {_plain(str(fetch.get('dataset')))}."
    elif not named:
        words += ["--dataset", str(fetch.get("dataset"))]
    for role in named:
        words += [f"--{role.replace('_', '-')}", role.upper()]
    for key, _, _ in own_options(config):
        if not key.startswith(_OWN):
            words += ["--set", f"{key}={_value(config, key)}"]
    return shlex.join(words), data


def _value(config: dict[str, Any], key: str) -> str:
    """Return a value as `--set` takes it."""
    value: Any = config
    for name in key.split("."):
        value = value[name]
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table whose first `left` columns are left-aligned, and the others right-aligned."""
    ruler = [*left * ["---"], *(len(header) - left) * ["---:"]]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (header, ruler, *rows))


def _cell(value: str) -> str:
    return value if set(value) <= set("-:") else _plain(value)


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def _plain(line: str) -> str:
    """Return text on one line in which nothing is Markdown or HTML."""
    escaped = escape(printable(line), quote=False)
    for character in "\\`*_{}[]#|":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
