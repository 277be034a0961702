"""TensorBoard on the runs of a work folder, at a loopback address."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.errors import IdxtrainError, InputError, one_line
from jobs.run_dir import RunDir, Work

HOST = "127.0.0.1"  # TensorBoard has no login


@contextlib.contextmanager
def log_folder(work: Work, chosen: Sequence[RunDir]) -> Iterator[Path]:
    """Yield the folder that TensorBoard shows: links to the chosen runs, or without any all runs, later ones too.

    Raises InputError where there is nothing to show.
    """
    if not chosen:
        if not any(work.runs.glob("*/tensorboard")):
            raise InputError(f"--work {work.path}: found no run that trained in {work.runs}; fix: train one first")
        yield work.runs
        return
    for run in chosen:
        if not run.tensorboard.is_dir():
            raise InputError(
                f"run {run.run_id}: found no {run.tensorboard}, expected that of a training; fix: train it"
            )
    with tempfile.TemporaryDirectory(prefix="idxtrain-tensorboard-") as folder:
        for run in chosen:
            (Path(folder) / run.run_id).symlink_to(run.tensorboard.resolve())
        yield Path(folder)


def start(folder: Path, port: int | None) -> str:
    """Start TensorBoard in a thread of this process; return its address.

    `port`: None for 6006 or the next free one. Raises InputError where the port is taken.
    """
    from tensorboard import program

    messages = io.StringIO()  # e.g. that it loads fast
    board = program.TensorBoard()
    arguments = ["tensorboard", "--logdir", str(folder), "--host", HOST]
    try:
        with contextlib.redirect_stderr(messages):
            board.configure(argv=[*arguments, *([] if port is None else ["--port", str(port)])])
            url: str = board.launch()
    except program.TensorBoardPortInUseError as error:
        raise InputError(
            f"--port {port}: found another program on it, expected a free port; fix: leave it out"
        ) from error
    except program.TensorBoardServerException as error:
        raise IdxtrainError(f"tensorboard: {one_line(error)}") from error
    return url
