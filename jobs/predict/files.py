"""Classify the images of files with a trained model; write a row for each to a file or to stdout."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from jobs.errors import InputError, printable
from jobs.files import write_atomic
from jobs.predict.classifier import Classifier
from jobs.predict.inputs import Reading, source_of
from jobs.predict.model_file import ModelFile
from jobs.predict.output import Write, opened, to_csv
from jobs.predict.predict import Summary, classify
from jobs.predict.rows import schema
from jobs.predict.source import Source
from jobs.progress import Progress
from jobs.words import counted


def predict_files(
    file: ModelFile, paths: Sequence[Path], reading: Reading, *, top: int, out: Path | None, skip_bad: bool
) -> Summary:
    """Predict the images of these inputs; return the summary.

    `top`: classes per image. `out`: a file that appears whole or not at all; None for CSV on stdout. `skip_bad`: leave
    out unusable pictures. Raises InputError for bad input.
    """
    if top > file.manifest.classes:
        classes = counted(file.manifest.classes, "class")
        raise InputError(f"--top: found {top:,}, expected at most {classes} of {file.title}; fix: ask for fewer")
    source = source_of(paths, file.manifest, reading)
    columns = schema(source.key, top)
    classifier = Classifier(file, Path(os.devnull))

    summary = Summary()

    def run(write: Write) -> None:
        with _shown(source, out, stdout) as show:
            classify(classifier, source, columns, write, summary, skip_bad=skip_bad, show=show)

    def fill(temporary: Path) -> None:
        with opened(temporary, columns) as write:
            run(write)

    stdout = sys.stdout  # before a progress bar takes its place
    if out is not None:
        write_atomic(out, fill)
    else:
        with to_csv(stdout, columns) as write:
            run(write)
    return summary


@contextmanager
def _shown(source: Source, out: Path | None, stdout: TextIO) -> Iterator[Callable[[int, str], None]]:
    """Yield what shows the progress; on a terminal, rows on stdout show it themselves."""
    if out is None and stdout.isatty():
        yield lambda done, pace: None
    else:
        with Progress(f"predict {printable(source.title)}", source.total, "images") as progress:
            yield progress.update
