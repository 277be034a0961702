"""One stage as one process: its record, its exit code, its log lines.

A finished stage leaves `RUN/stages/NAME.json`. The record names a key, which is a hash of all that went into the
stage (its config section and what the stages before it put out), and the files that came out. The stage is done as
long as the key is the same and the files are as they were: nothing else decides it, so nothing can disagree.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from jobs import stop_signals
from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError, one_line
from jobs.files import full_disk, read_object, sealed, sha256_json, take_seal, write_json
from jobs.logs import keep_writing, log_to_file, log_to_file_only, log_to_stderr
from jobs.process import die_with_parent
from jobs.run_dir import RunDir
from jobs.umask import keep_others_from_writing

STAGES = ("fetch", "prepare", "train", "evaluate")
# What of the config goes into a stage, beside what the stage before it put out. `seed` decides weights and order.
_CONFIG_KEYS = {"fetch": ("fetch",), "prepare": ("prepare",), "train": ("train", "seed"), "evaluate": ("evaluate",)}
# Where a rank finds its number before Horovod is there: from Horovod's launchers, from mpirun, from srun --mpi=pmix.
_RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")


@dataclass(frozen=True)
class Record:
    """What a finished stage left: JSON values only.

    `outputs`: facts that later stages use (paths, IDs, figures). `files`: path, size and modification time of each
    file the stage answers for. `seconds`: wall time of the process, its start-up included.
    """

    key: str
    outputs: dict[str, Any]
    files: list[dict[str, Any]]
    seconds: float


def stage_key(run: RunDir, stage: str) -> str:
    """Return the hash of all that goes into a stage; needs the records of the stages before it."""
    config = run.read_config()
    position = STAGES.index(stage)
    before = {name: read_record(run, name).outputs for name in STAGES[:position]}
    try:
        options = {key: config[key] for key in _CONFIG_KEYS[stage]}
    except KeyError as error:
        raise InputError(
            f"{run.config_file}: found no section {error}; make the run anew with `idxtrain run`"
        ) from None
    return sha256_json({"stage": stage, "config": options, "before": before})


def read_record(run: RunDir, stage: str) -> Record:
    """Return a stage's record; raise InputError where the stage has not finished."""
    path = run.record_file(stage)
    raw = read_object(path, f"run `idxtrain {stage} --run-id {run.run_id}` first")
    try:
        intact = take_seal(raw)
        record = Record(raw["key"], dict(raw["outputs"]), list(raw["files"]), float(raw["seconds"]))
        if not intact:
            raise ValueError("its content is not what was written")
        return record
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: is not a stage's record ({error!r}); remove it to run {stage} again") from error


def is_done(run: RunDir, stage: str) -> bool:
    """Tell whether a stage need not run: same inputs as recorded, output files untouched."""
    try:
        record = read_record(run, stage)
        return record.key == stage_key(run, stage) and all(_untouched(file) for file in record.files)
    except (InputError, KeyError, TypeError, ValueError):  # ValueError: a path that no file can have
        return False


def _untouched(file: dict[str, Any]) -> bool:
    try:
        status = Path(file["path"]).stat()
    except OSError:
        return False
    return status.st_size == file["bytes"] and status.st_mtime_ns == file["mtime_ns"]


def write_record(run: RunDir, stage: str, key: str, outputs: dict[str, Any], files: Iterable[Path]) -> None:
    """Record a stage as finished. `key` was taken when the stage began. Call it last: it is what makes it done."""
    seen = []
    for path in files:
        status = path.stat()
        seen.append({"path": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns})
    path = run.record_file(stage)
    path.parent.mkdir(exist_ok=True)
    record = {"key": key, "outputs": outputs, "files": seen, "seconds": round(seconds_since_start(), 3)}
    write_json(path, sealed(record))


def seconds_since_start() -> float:
    """Wall time since this process began, in seconds: imports and all."""
    return max(0.0, time.time() - psutil.Process().create_time())


def run_as_process(stage: str, work: Callable[[RunDir], None], argv: Sequence[str] | None = None) -> None:
    """Be the process `python -m jobs.STAGE RUN_DIR`: do the work, then end with the exit code that tells how it went.

    0 done; 2 bad input; 75 stopped as asked; 71 another rank is gone; 1 what else can go wrong; 70 what nobody foresaw.
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
    # Asked to end, a stage tidies up first. Training stops in its own way: see jobs.train.stop.
    requests = stop_signals.Requests()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not requests.note():
            return
        if requests.count > 1:  # asked again: end without tidying up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    stop_signals.handle(interrupt)
    try:
        run.read_config()
        log_to_file(run.logs / f"{stage}{_rank_suffix()}.log")
        work(run)
    except PeerLostError as error:
        log_to_file_only(str(error))
        sys.exit(error.exit_code)
    except IdxtrainError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(f"{stage}: stopped as asked; `idxtrain run --run-id {run.run_id}` goes on", ResumableError.exit_code)
    except Exception as error:
        if full_disk(error):
            text = f"{stage}: {one_line(error)[:300]}; make room, then `idxtrain run --run-id {run.run_id}` goes on"
            _fail(text, IdxtrainError.exit_code)
        if isinstance(error, OSError):  # a lost file system, a missing permission: the system's words, no traceback
            _fail(f"{stage}: {error}", IdxtrainError.exit_code)
        # A bug of ours: one line for the user, the traceback for whoever mends it.
        log_to_file_only(traceback.format_exc())
        _fail(f"{stage}: {type(error).__name__}: {one_line(error)[:300]}; the traceback is in {run.logs}", UNEXPECTED)


def _fail(message: str, exit_code: int) -> NoReturn:
    """Say what went wrong, on the terminal and in the run's log, and end."""
    log_to_file_only(message)
    if not (exit_code == ResumableError.exit_code and rank_told()):  # all ranks stop at once: one of them says so
        print(f"idxtrain: {message}", file=sys.stderr)
    sys.exit(exit_code)


def rank_told() -> int:
    """Return this process's rank, as its launcher says; 0 where it is alone."""
    return int(next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), "0"))


def _rank_suffix() -> str:
    return f".rank-{rank_told()}" if rank_told() else ""
