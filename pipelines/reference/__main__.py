"""python -m pipelines.reference [--check]: write the generated pages, or check that they are fresh."""

import sys

import typer

from jobs.errors import InputError
from pipelines.cli.app import app
from pipelines.reference.pages import REGENERATE, ROOT, pages, stale


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check name the stale ones; return the exit code."""
    if arguments not in ([], ["--check"]):
        print(f"usage: {REGENERATE} [--check]", file=sys.stderr)
        return InputError.exit_code
    texts = pages(typer.main.get_command(app))
    old = stale(texts)
    for path in old:
        if arguments:
            print(f"{path}: found a stale page, expected the generated text; fix: {REGENERATE}", file=sys.stderr)
        else:
            (ROOT / path).write_text(texts[path], encoding="utf-8")
            print(f"{path}: written")
    return int(bool(old and arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
