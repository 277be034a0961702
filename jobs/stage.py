"""One stage as one process: its record, its exit code, its log lines.

A finished stage leaves `RUN/stages/NAME.json`. The record holds a key, the hash of all that went into the stage: its
config section and the outputs of the stages before it. The record also lists the output files. A stage is done while
its key and its files are unchanged. Nothing else decides it, so nothing can disagree.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import psutil
from pydantic import ValidationError

from jobs import stop_signals
from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError, one_line
from jobs.files import full_disk, read_object, sealed, sha256_json, take_seal, write_json
from jobs.logs import keep_writing, log_to_file, log_to_file_only, log_to_stderr
from jobs.process import die_with_parent
from jobs.records import OutputFile, Outputs, Record
from jobs.run_dir import RunDir
from jobs.umask import keep_others_from_writing
from jobs.usage import recorded

K = TypeVar("K", bound=Outputs)

_CLEAN_UP_SECONDS = 2.0

STAGES = ("fetch", "prepare", "train", "evaluate")
# The config keys that go into a stage, beside the outputs of earlier stages. `seed` decides weights and order.
_CONFIG_KEYS = {"fetch": ("fetch",), "prepare": ("prepare",), "train": ("train", "seed"), "evaluate": ("evaluate",)}
# Where a rank finds its number before Horovod runs: from Horovod's launchers, from mpirun, from srun --mpi=pmix.
_RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")


def stage_key(run: RunDir, stage: str) -> str:
    """Return the hash of all that goes into a stage; needs the records of the stages before it."""
    config = run.read_config()
    position = STAGES.index(stage)
    before = {name: read_record(run, name).outputs for name in STAGES[:position]}
    try:
        options = {key: config[key] for key in _CONFIG_KEYS[stage]}
    except KeyError as error:
        raise InputError(
            f"{run.config_file}: found no section {error}; fix: make a new run with `idxtrain run`"
        ) from None
    return sha256_json({"stage": stage, "config": options, "before": before})


def read_record(run: RunDir, stage: str) -> Record:
    """Return a stage's record. Raises InputError if the stage has not finished."""
    path = run.record_file(stage)
    raw = read_object(path, f"run `idxtrain {stage} --run-id {run.selector}` first")
    try:
        is_intact = take_seal(raw)
        record = Record.model_validate(raw)
        if not is_intact:
            raise ValueError("its SHA-256 does not match")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: is not a record of stage {stage} ({one_line(error)}); fix: remove it to run {stage} again"
        ) from error
    return record


def read_outputs(run: RunDir, kind: type[K]) -> K:
    """Return what a finished stage recorded for later stages, e.g. `read_outputs(run, TrainOutputs)`.

    Raises InputError if the stage has not finished, or if an older version recorded less.
    """
    record, path = read_record(run, kind.stage), run.record_file(kind.stage)
    try:
        return kind.model_validate(record.outputs)
    except ValidationError as error:
        missing = [".".join(map(str, each["loc"])) for each in error.errors() if each["type"] == "missing"]
        problem = f"found no {', '.join(missing)}" if missing else one_line(error)
        raise InputError(
            f"{path}: {problem}, expected the record of this version; fix: remove {path} and run {kind.stage} again"
        ) from error


def dataset_of(run: RunDir) -> Path:
    """Return the dataset folder of a run. Raises InputError if prepare has not finished."""
    outputs = read_record(run, "prepare").outputs
    try:
        return Path(outputs["dataset"])
    except (KeyError, TypeError) as error:
        path = run.record_file("prepare")
        raise InputError(f"{path}: found no dataset; fix: remove {path} and run prepare again") from error


def is_done(run: RunDir, stage: str) -> bool:
    """Return whether a stage need not run: its inputs are as recorded and its output files untouched."""
    try:
        record = read_record(run, stage)
        return record.key == stage_key(run, stage) and all(file.is_untouched() for file in record.files)
    except (InputError, ValueError):  # ValueError: a number too long to write
        return False


def write_record(run: RunDir, stage: str, key: str, outputs: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Record a stage as finished. `key`: taken when the stage began. Call it last: the record makes the stage done."""
    states = []
    for path in files:
        status = path.stat()
        states.append(OutputFile(path=str(path), bytes=status.st_size, mtime_ns=status.st_mtime_ns))
    record = Record(key=key, outputs=dict(outputs), files=tuple(states), seconds=round(seconds_since_start(), 3))
    path = run.record_file(stage)
    path.parent.mkdir(exist_ok=True)
    write_json(path, sealed(record.model_dump()))


def seconds_since_start() -> float:
    """Return the wall time since this process began, in seconds, imports included."""
    return max(0.0, time.time() - psutil.Process().create_time())


def run_as_process(stage: str, work: Callable[[RunDir], None], argv: Sequence[str] | None = None) -> None:
    """Run the process `python -m jobs.STAGE RUN_DIR` and end it with the exit code of its outcome.

    0 done; 2 bad input; 75 stopped on request; 71 another rank ended; 1 another known failure; 70 an unforeseen one.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    keep_others_from_writing()
    die_with_parent()
    keep_writing()
    log_to_stderr()
    if len(arguments) != 1:
        print(f"idxtrain: usage: python -m jobs.{stage} RUN_DIR", file=sys.stderr)
        sys.exit(InputError.exit_code)
    run = RunDir(Path(arguments[0]).resolve())
    requests = _clean_up_when_asked_to_stop(run, stage)
    with _exit_codes(run, stage, requests):
        run.read_config()
        log_to_file(run.logs / f"{stage}{_rank_suffix()}.log")
        with recorded(run, stage, launched_rank()):
            work(run)


def _clean_up_when_asked_to_stop(run: RunDir, stage: str) -> stop_signals.Requests:
    """Turn a request to stop into KeyboardInterrupt, and end the process if cleaning up takes long.

    Returns the requests so far.

    What is left then, an unfinished folder or a lease, is of a dead process, so the next run removes it. Training has
    its own way: see `jobs.train.stop`.
    """
    requests = stop_signals.Requests()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not requests.note():
            return
        if requests.count > 1:  # asked again: end without cleaning up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _silence_libraries()
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, _CLEAN_UP_SECONDS)
        raise KeyboardInterrupt

    def end(number: int, frame: FrameType | None) -> None:
        _end_stopped(run, stage)

    stop_signals.handle(interrupt)
    return requests


def _silence_libraries() -> None:
    """Print no traceback of a thread, a coroutine or a finalizer that breaks because the process is asked to stop."""
    sys.unraisablehook = threading.excepthook = _print_nothing
    logging.lastResort = None


def _print_nothing(unraisable: Any) -> None:
    """Take the place of a hook that prints a traceback."""


def _end_stopped(run: RunDir, stage: str) -> NoReturn:
    """Report the stop, and end the process without Python's own clean-up."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    _report(f"{stage}: stopped on request; {_how_to_resume(run)}", is_of_all_ranks=True)
    os._exit(ResumableError.exit_code)


def _how_to_resume(run: RunDir) -> str:
    if run.origin != run:  # an evaluation on other data
        return "the same command starts again"
    return f"{run.resumed_by} resumes it"


@contextmanager
def _exit_codes(run: RunDir, stage: str, requests: stop_signals.Requests) -> Iterator[None]:
    """End the process with one line on stderr and the exit code of the exception.

    Unlike `jobs.exit_codes` it also writes to the run's log, keeps the traceback of a bug, and lets one rank speak for
    all.
    """
    resume = _how_to_resume(run)
    try:
        yield
    except KeyboardInterrupt:
        # All of ours is cleaned up. Waiting for a library's threads takes long, and one that is half loaded may crash.
        _end_stopped(run, stage)
    except Exception as error:
        if requests.count:  # a library may turn KeyboardInterrupt into an error of its own
            _end_stopped(run, stage)
        if isinstance(error, PeerLostError):
            log_to_file_only(str(error))
            sys.exit(error.exit_code)
        if isinstance(error, IdxtrainError):
            _fail(str(error), error.exit_code, is_of_all_ranks=type(error) is ResumableError)
        if full_disk(error):
            _fail(f"{stage}: {one_line(error)[:300]}; fix: free some space, then {resume}", IdxtrainError.exit_code)
        if isinstance(error, OSError):  # a lost file system, a missing permission: the system's words, no traceback
            _fail(f"{stage}: {error}", IdxtrainError.exit_code)
        # A bug of ours: one line for the user, the traceback for whoever fixes it.
        log_to_file_only(traceback.format_exc())
        _fail(f"{stage}: {type(error).__name__}: {one_line(error)[:300]}; the traceback is in {run.logs}", UNEXPECTED)


def _fail(message: str, exit_code: int, *, is_of_all_ranks: bool = False) -> NoReturn:
    """Print the error on stderr, log it in the run, and end the process."""
    _report(message, is_of_all_ranks=is_of_all_ranks)
    sys.exit(exit_code)


def _report(message: str, *, is_of_all_ranks: bool) -> None:
    log_to_file_only(message)
    if not (is_of_all_ranks and launched_rank()):  # all ranks stop together: rank 0 prints it
        print(f"idxtrain: {message}", file=sys.stderr, flush=True)


def launched_rank() -> int:
    """Return the rank that a launcher gave this process; 0 if there is none."""
    return int(next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), "0"))


def _rank_suffix() -> str:
    return f".rank-{launched_rank()}" if launched_rank() else ""
