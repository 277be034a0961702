"""python -m deploy.gang --np N [options] COMMAND…: run the ranks of a training on this machine, as one.

Horovod's ranks find each other at Horovod's own rendezvous server and then talk over Gloo: no MPI, no SSH. This does
what `horovodrun` does on one machine, with what users of a pipeline need beside: everything listens on the loopback
interface alone; one line tells which rank failed and with what last words; a rank that has died or stalled ends the
gang, which then starts anew from the last checkpoint; a signal stops all ranks at the same step; a dead launcher leaves
no rank behind.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from deploy.ranks import Rank, ask, kill, start
from deploy.watch import Watch
from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError
from jobs.process import die_with_parent
from jobs.run_dir import RunDir
from jobs.train.heartbeat import FOLDER

_POLL_SECONDS = 0.1
_PEER_SECONDS = 1.0  # a rank may notice that a peer is lost before we see that it ended


@dataclass(frozen=True)
class Outcome:
    """How a gang ended. `rank`: the one that failed, −1 for none; `what`: how it failed.

    `again`: starting anew may help. `told`: the rank has said itself, on stderr, what was wrong.
    """

    exit_code: int
    rank: int = -1
    what: str = ""
    again: bool = False
    told: bool = False


class Gang:
    """All attempts at one training."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._run = RunDir(options.run_dir) if options.run_dir else None
        self._signals = 0
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGUSR1, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def run(self) -> int:
        """Run the ranks to their end, starting anew where that may help; return the exit code to end with."""
        options, ranks, reached = self._options, self._options.np, -1
        for restart in range(options.max_restarts + 1):
            watch = self._new_watch(ranks)
            outcome = self._attempt(ranks, watch)
            if outcome.rank < 0:
                return outcome.exit_code
            step = watch.step() if watch else 0
            self._tell(outcome, step, ranks)
            no_further = restart > 0 and step <= reached
            if not outcome.again or restart == options.max_restarts or (no_further and outcome.told):
                break  # an error that the rank told of, twice at the same step, is not a matter of luck
            if no_further:  # that rank's place may be what is wrong
                ranks = max(options.min_np or options.np, ranks - 1)
            reached = step
            again = f"restart {restart + 1} of {options.max_restarts}"
            print(f"train: {ranks} rank(s) go on from the last checkpoint ({again})", file=sys.stderr)
        return IdxtrainError.exit_code

    def _new_watch(self, ranks: int) -> Watch | None:
        if self._run is None:
            return None
        shutil.rmtree(self._run.heartbeats, ignore_errors=True)
        self._run.heartbeats.mkdir(parents=True)
        self._run.logs.mkdir(exist_ok=True)
        return Watch(self._run.heartbeats, ranks, self._options.stall_seconds)

    def _attempt(self, ranks: int, watch: Watch | None) -> Outcome:
        environment = {**os.environ, FOLDER: str(self._run.heartbeats)} if self._run else dict(os.environ)
        started = start(self._options.command, ranks, environment)
        try:
            return self._wait(started, watch)
        finally:
            kill(started)

    def _wait(self, started: Sequence[Rank], watch: Watch | None) -> Outcome:
        """Wait until all ranks are done, one has failed or stalled, or signals say to stop."""
        asked = False
        while True:
            codes = [rank.poll() for rank in started]
            if all(code is not None for code in codes) or any(code for code in codes if not asked):
                return self._judge(started, asked)
            if self._signals > 1:  # a second signal ends at once
                return Outcome(ResumableError.exit_code)
            if self._signals and not asked:
                ask(started)
                asked = True
            stalled = watch.stalled() if watch else None
            if stalled:
                return Outcome(IdxtrainError.exit_code, *stalled, again=True)
            time.sleep(_POLL_SECONDS)

    def _judge(self, started: Sequence[Rank], asked: bool) -> Outcome:
        """Tell how a gang ended of which a rank has failed, or all are done."""
        failed = [rank for rank in started if rank.poll()]
        if not failed:
            return Outcome(0)
        if asked:  # a rank that was still starting simply dies of the signal
            return Outcome(ResumableError.exit_code)
        # Ranks that lose a peer fail too: the one to name is the one that was the first and has another reason.
        if all(rank.process.returncode == PeerLostError.exit_code for rank in failed):
            time.sleep(_PEER_SECONDS)
            failed = [rank for rank in started if rank.poll()]
        first = min(failed, key=lambda rank: (rank.process.returncode == PeerLostError.exit_code, rank.ended))
        code, words = int(first.process.returncode), first.last_words()
        if code in (InputError.exit_code, ResumableError.exit_code):
            return Outcome(code)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(
            IdxtrainError.exit_code,
            first.number,
            f"{how}; its last words: {words}" if words else how,
            again=code < 0 or code in (UNEXPECTED, PeerLostError.exit_code),
            told=code > 0 and words.startswith("idxtrain: "),
        )

    def _tell(self, outcome: Outcome, step: int, ranks: int) -> None:
        """Say which rank failed, where, when and how; keep it in the run's history."""
        host = socket.gethostname()
        if not outcome.told:
            print(f"idxtrain: rank {outcome.rank} on {host} {outcome.what} (last step {step})", file=sys.stderr)
        if self._run:
            entry = {"time": time.time(), "host": host, "rank": outcome.rank, "ranks": ranks, "step": step}
            # The disk may be what is full: then the line above has to do.
            with suppress(OSError), self._run.restarts_file.open("a", encoding="utf-8") as history:
                history.write(json.dumps({**entry, "what": outcome.what}) + "\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with 2 and a usage line where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.gang")
    parser.add_argument("--np", type=int, required=True, help="ranks")
    parser.add_argument("--min-np", type=int, help="go on with as few after failures (default: all)")
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--stall-seconds", type=float, default=120.0)
    parser.add_argument("--run-dir", type=Path, help="where heartbeats and the history of restarts go")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.np < 1 or not options.command:
        parser.error("expected --np of at least 1, and a command")
    return options


if __name__ == "__main__":
    die_with_parent()
    try:
        sys.exit(Gang(parse(sys.argv[1:])).run())
    except OSError as error:  # no room for the heartbeats, no such command
        print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(IdxtrainError.exit_code)
