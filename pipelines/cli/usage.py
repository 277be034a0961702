"""Errors in how a command was called: one line each, with what was probably meant."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Never

from typer._click.exceptions import NoArgsIsHelpError, NoSuchOption, UsageError  # typer's own copy of click
from typer.core import TyperGroup

from jobs.errors import InputError, printable

_WORDS = "words"  # those of the command line, in a context's `meta`
_ELSEWHERE = {"lr": "train.learning_rate"}  # a common name that is not like the key


class Program(TyperGroup):
    """The program `idxtrain`: a usage error is one line on stderr, as any other error is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options of the program itself."""
        ctx.meta[_WORDS] = tuple(args)
        with _in_one_line("idxtrain"):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, whose options are parsed first."""
        command = next((word for word in ctx.meta[_WORDS] if word in self.commands), "")
        with _in_one_line(f"idxtrain {command}".strip()):
            return super().invoke(ctx)


@contextmanager
def _in_one_line(program: str) -> Iterator[None]:
    """Turn usage errors into one line. `program`: whose help to name where the error does not tell."""
    try:
        yield
    except NoArgsIsHelpError:  # shows the help
        raise
    except NoSuchOption as error:
        _exit(_no_such_option(error, program))
    except UsageError as error:
        message = error.format_message().rstrip(".")
        end = "" if message.endswith("?") else ";"
        _exit(f"{message[:1].lower()}{message[1:]}{end} fix: see `{_help_of(error, program)}`")


def _exit(message: str) -> Never:
    print(f"idxtrain: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(InputError.exit_code)


def _help_of(error: UsageError, program: str) -> str:
    return f"{error.ctx.command_path if error.ctx else program} --help"


def _no_such_option(error: NoSuchOption, program: str) -> str:
    options = [name for each in error.ctx.command.params for name in each.opts] if error.ctx else []
    words = error.ctx.meta.get(_WORDS, ()) if error.ctx else ()
    near = _nearest(error.option_name, [each for each in options if each.startswith("--")])
    if near and not near.startswith("--"):
        near = f"--set {shlex.quote(f'{near}={_value(error.option_name, words)}')}"
    hint = f"did you mean {near}? " if near else ""
    return f"{error.option_name}: found no such option; {hint}fix: see `{_help_of(error, program)}`"


def _nearest(option: str, options: Sequence[str]) -> str | None:
    """Return the option, or the dotted config key of a command with --set, that is most like an unknown option."""
    from jobs.config import nearest

    names = {each.removeprefix("--"): each for each in options}
    if "--set" in options:
        keys = sorted(_keys(), key=lambda key: key.startswith("train."))
        # Of equal names the last one counts: an option of the command, then a key of training.
        names = {name: key for key in keys for name in (key.rpartition(".")[2], key)} | _ELSEWHERE | names
    near = nearest(option.removeprefix("--").replace("-", "_"), [each.replace("-", "_") for each in names])
    return next((names[each] for each in names if each.replace("-", "_") == near), None)


def _keys() -> list[str]:
    """Return all keys of the config, dotted."""
    from jobs.config import Section
    from pipelines.config import Config  # pydantic's model of all sections: only after an error

    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    return [
        f"{name}.{key}"
        for name, kind in sections.items()
        if isinstance(kind, type) and issubclass(kind, Section)
        for key in kind.model_fields
    ]


def _value(option: str, words: Sequence[str]) -> str:
    """Return the value that the command line gives an option, or VALUE."""
    for position, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and not [*words, "-"][position + 1].startswith("-"):
            return words[position + 1]
    return "VALUE"
