"""Run the ranks of a training as one, and start them again from the last checkpoint when one is lost.

Horovod's ranks find each other at our rendezvous server and then talk over Gloo: no MPI, no SSH. This does
what `horovodrun` does, with what users of a pipeline need beside: on one machine everything listens on the loopback
interface alone; one line tells which rank failed and with what last words; a rank that has died or stalled ends the
gang, which then starts anew from the last checkpoint; a signal stops all ranks at the same step; a dead launcher leaves
no rank behind, but where a container's starter is in between: there Slurm ends them. How ranks are started, asked and
ended is a value: see `deploy.launcher.ranks` and `deploy.slurm.step`.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FrameType

from deploy.launcher import predecessor
from deploy.launcher.ranks import Ranks
from deploy.launcher.watch import Watch
from jobs import stop_signals
from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError
from jobs.logs import log_to_file, log_to_file_only
from jobs.memory import OutOfMemory
from jobs.run_dir import RunDir
from jobs.train.telemetry.heartbeat import FOLDER

_POLL_SECONDS = 0.1
_REHEARSAL_SECONDS = 900.0  # imports from a cold network file system included


Start = Callable[[Sequence[str], int, Mapping[str, str]], Ranks]  # of a command, so many ranks, in an environment
Stalled = Callable[[Collection[int]], tuple[int, str] | None]  # from the ranks that ended to one that stalled, and how


@dataclass(frozen=True)
class Outcome:
    """How a gang ended. `rank`: the one that failed, −1 for none; `what`: how it failed; `why`: maybe, with the fix.

    `host`: where. `again`: starting anew may help. `told`: the rank has said itself, on stderr, what was wrong.
    `words`: with these, where they are not in rank 0's log.
    """

    exit_code: int
    rank: int = -1
    what: str = ""
    why: str = ""
    host: str = ""
    again: bool = False
    told: bool = False
    words: str = ""


class Launcher:
    """All attempts at one training."""

    def __init__(self, options: argparse.Namespace, start: Start, rehearsal: Sequence[str] = ()) -> None:
        """`rehearsal`: a command that all ranks run before the training, which tells whether they reach each other."""
        self._options, self._start, self._rehearsal = options, start, rehearsal
        self._run = RunDir(options.run_dir) if options.run_dir else None
        self._requests = stop_signals.Requests()
        self._memory = OutOfMemory()  # of the attempt that runs
        stop_signals.handle(self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requests.note()

    def run(self) -> int:
        """Run the ranks to their end, restarting them where that may help; return the exit code to end with.

        Raises InputError where the ranks of an earlier launcher do not end.
        """
        if self._run is None:
            return self._attempts()
        self._run.logs.mkdir(parents=True, exist_ok=True)
        log_to_file(self._run.logs / "train.log")
        with predecessor.succeeded(self._run, self._options.stall_seconds, lambda: bool(self._requests.count)):
            return self._attempts()

    def _attempts(self) -> int:
        options, ranks, reached = self._options, self._options.np, -1
        if self._requests.count:  # while it waited: ranks of an earlier launcher may still live
            return self._stopped()
        if self._rehearsal and ranks > 1:
            outcome = self._rehearse(ranks)
            if outcome.rank >= 0:
                self._tell(outcome, 0, ranks)
            if outcome.exit_code:
                return outcome.exit_code
        for restart in range(options.max_restarts + 1):
            if self._requests.count:
                return self._stopped()
            watch = self._new_watch(ranks)
            outcome = self._attempt(ranks, watch)
            if outcome.rank < 0:
                return outcome.exit_code
            step = watch.step() if watch else 0
            self._tell(outcome, step, ranks)
            if self._requests.count:
                return ResumableError.exit_code
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
        predecessor.clear(self._run)
        return Watch(self._run.heartbeats, range(ranks), self._options.stall_seconds)

    def _rehearse(self, ranks: int) -> Outcome:
        """Let the ranks add up once, which finds what keeps them apart before a training does."""
        self._new_watch(ranks)
        deadline = time.monotonic() + _REHEARSAL_SECONDS

        def stalled(ended: Collection[int]) -> tuple[int, str] | None:
            late = time.monotonic() > deadline
            return (0, f"did not come to the end of an allreduce in {_REHEARSAL_SECONDS:g} s") if late else None

        return replace(self._run_ranks(self._rehearsal, ranks, dict(os.environ), stalled), again=False)

    def _attempt(self, ranks: int, watch: Watch | None) -> Outcome:
        environment = {**os.environ, FOLDER: str(self._run.heartbeats)} if self._run else dict(os.environ)
        stalled: Stalled = watch.stalled if watch else lambda ended: None
        return self._run_ranks(self._options.command, ranks, environment, stalled)

    def _run_ranks(
        self, command: Sequence[str], ranks: int, environment: Mapping[str, str], stalled: Stalled
    ) -> Outcome:
        self._memory = OutOfMemory()
        started = self._start(command, ranks, environment)
        try:
            outcome = self._wait(started, stalled)
        finally:
            started.kill()
        if outcome.words:  # rank 0's log, which is read for the reason, may end with the loss of its peer
            log_to_file_only(outcome.words)
        return outcome

    def _wait(self, started: Ranks, stalled: Stalled) -> Outcome:
        """Wait until all ranks are done, one has failed or stalled, or signals say to stop."""
        asked = False
        while True:
            codes = started.poll()
            # A rank that stopped as asked is not the one to end the others, which may be writing a checkpoint.
            failed = any(code not in (None, 0, ResumableError.exit_code) for code in codes)
            if None not in codes or (failed and not asked):
                return self._judge(started, asked)
            if self._requests.count > 1:  # a second request ends at once
                return Outcome(self._stopped())
            if self._requests.count and not asked:
                started.ask()
                asked = True
            found = stalled([rank for rank, code in enumerate(codes) if code is not None])
            if found:
                rank, what = found
                why = "; if it is only slow, raise launch.stall_seconds"
                return Outcome(IdxtrainError.exit_code, rank, what, why, started.host(rank), again=True)
            time.sleep(_POLL_SECONDS)

    def _judge(self, started: Ranks, asked: bool) -> Outcome:
        """Tell how a gang ended of which a rank has failed, or all are done."""
        failed = _failed(started)
        if not failed:
            return Outcome(0)
        if asked:  # a rank that was still starting simply dies of the signal
            quiet = (PeerLostError.exit_code, ResumableError.exit_code)  # of those that stop, rank 0 alone speaks
            have_told = failed.get(0) == ResumableError.exit_code or any(
                code > 0 and code not in quiet for code in failed.values()
            )
            return Outcome(ResumableError.exit_code if have_told else self._stopped())
        # Ranks that lose a peer fail too: the one to name is the one that was the first and has another reason.
        deadline = time.monotonic() + started.peer_seconds
        while set(failed.values()) == {PeerLostError.exit_code} and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            failed = _failed(started)
        first = min(failed, key=lambda rank: (failed[rank] == PeerLostError.exit_code, started.ended(rank)))
        code, words = failed[first], started.last_words(first)
        unlogged = words.removeprefix("idxtrain: ") if first > 0 and words.startswith("idxtrain: ") else ""
        if code in (InputError.exit_code, ResumableError.exit_code):
            return Outcome(code, words=unlogged)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(
            IdxtrainError.exit_code,
            first,
            f"{how}; its last words: {words}" if words else how,
            self._memory.likely_cause(-code),
            started.host(first),
            again=code < 0 or code in (UNEXPECTED, PeerLostError.exit_code),
            told=code > 0 and words.startswith("idxtrain: "),
            words=unlogged,
        )

    def _tell(self, outcome: Outcome, step: int, ranks: int) -> None:
        """Say which rank failed, where, when and how; keep it in the run's history."""
        if not outcome.told:
            stage = "train: " if self._run else ""  # else it is doctor's allreduce
            how = f"{outcome.what} (last step {step}){outcome.why}"
            self._say(f"{stage}rank {outcome.rank} on {outcome.host} {how}")
        if self._run:
            entry = {"time": time.time(), "host": outcome.host, "rank": outcome.rank, "ranks": ranks, "step": step}
            # The disk may be what is full: then the line above has to do.
            with suppress(OSError), self._run.restarts_file.open("a", encoding="utf-8") as history:
                history.write(json.dumps({**entry, "what": outcome.what}) + "\n")

    def _stopped(self) -> int:
        """Say that the training stopped as asked where no rank could; return the exit code."""
        how = f"; `idxtrain run --run-id {self._run.run_id}` resumes it from its last checkpoint" if self._run else ""
        self._say(f"train: stopped as asked{how}")
        return ResumableError.exit_code

    def _say(self, message: str) -> None:
        log_to_file_only(message)
        print(f"idxtrain: {message}", file=sys.stderr)


def _failed(started: Ranks) -> dict[int, int]:
    """Return the exit codes of the ranks that have ended, and not well."""
    return {rank: code for rank, code in enumerate(started.poll()) if code}
