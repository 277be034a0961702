"""Run all ranks of a stage. Those of a training restart from the last checkpoint when one is lost.

Ranks meet at a rendezvous server of ours, then talk over Gloo, as under `horovodrun`: no MPI, no SSH. What
`horovodrun` lacks:
- On one machine, everything listens on the loopback interface only.
- One line names the rank that failed, its host, and the last line of its stderr.
- When a rank dies or stalls, all ranks end, then restart from the last checkpoint.
- A signal stops all ranks at the same step.
- A dead launcher leaves no rank behind. Inside a container on a cluster, Slurm ends them.

The ranks of an evaluation are each on their own: they send no heartbeats, and one that is lost fails the stage.

How ranks are started, asked to stop and killed is a value: see `deploy.launcher.ranks` and `deploy.slurm.step`.
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
from deploy.launcher.watch import Stall, Watch
from jobs import stop_signals
from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError
from jobs.logs import log_to_file, log_to_file_only
from jobs.memory import OutOfMemory
from jobs.run_dir import RunDir
from jobs.train.telemetry.heartbeat import FOLDER

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 2.0  # between two looks at the heartbeats: each opens a file per rank, where all nodes have theirs
_CHECK_SECONDS = 900.0  # includes imports from a cold network file system

StartRanks = Callable[[Sequence[str], int, Mapping[str, str]], Ranks]  # from a command, N ranks, their environment
FindStall = Callable[[Collection[int]], Stall | None]  # from the ranks that have ended


@dataclass(frozen=True, kw_only=True)
class AttemptOutcome:
    """How one attempt ended, and the exit code for the launcher to end with.

    `rank`: the rank that failed, −1 if none. `host`: where it ran. `reason`: how it failed. `hint`: a likely cause or
    fix, to follow the reason. `restartable`: a restart may help. `reported`: the rank printed its error itself.
    `unlogged`: that error, if rank 0's log file lacks it.
    """

    exit_code: int
    rank: int = -1
    host: str = ""
    reason: str = ""
    hint: str = ""
    restartable: bool = False
    reported: bool = False
    unlogged: str = ""


class Launcher:
    """All attempts at one stage."""

    def __init__(self, options: argparse.Namespace, start: StartRanks, check: Sequence[str] = ()) -> None:
        """`check`: a command that all ranks run before the training, to test that they reach each other."""
        self._options, self._start, self._check = options, start, check
        self._run = RunDir(options.run_dir) if options.run_dir else None
        # The run whose heartbeats are watched and whose failures are recorded.
        self._training = self._run if options.stage == "train" else None
        self._requests = stop_signals.Requests()
        self._memory = OutOfMemory()  # of the current attempt
        stop_signals.handle(self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requests.note()

    def run(self) -> int:
        """Run the ranks to their end, with restarts where they may help; return the exit code to end with.

        Raises InputError if ranks of a predecessor neither end nor can be ended.
        """
        if self._run is None:
            return self._check_and_train()
        self._run.logs.mkdir(parents=True, exist_ok=True)
        log_to_file(self._run.logs / f"{self._options.stage}.log")
        if self._training is None:
            return self._train(self._options.np)
        with predecessor.only_launcher(self._training, self._options.stall_seconds, lambda: bool(self._requests.count)):
            return self._check_and_train()

    def _check_and_train(self) -> int:
        ranks = self._options.np
        if self._requests.count:  # while waiting: ranks of a predecessor may still run
            return self._report_stop()
        if self._check and ranks > 1:
            outcome = self._run_check(ranks)
            if outcome.rank >= 0:
                self._report_failure(outcome, 0, ranks)
            if outcome.exit_code:
                return outcome.exit_code
        return self._train(ranks)

    def _train(self, ranks: int) -> int:
        options, failed_step = self._options, -1
        for restart in range(options.max_restarts + 1):
            if self._requests.count:
                return self._report_stop()
            watch = self._new_watch(ranks)
            outcome = self._attempt(ranks, watch)
            if outcome.rank < 0:
                return outcome.exit_code
            step = watch.step() if watch else 0
            self._report_failure(outcome, step, ranks)
            if self._requests.count:
                return ResumableError.exit_code
            no_progress = restart > 0 and step <= failed_step
            # A rank that reports an error twice at the same step would report it again.
            if not outcome.restartable or restart == options.max_restarts or (no_progress and outcome.reported):
                break
            if no_progress:  # the node of one rank may be the cause
                ranks = max(options.min_np or options.np, ranks - 1)
            failed_step = step
            which = f"restart {restart + 1} of {options.max_restarts}"
            size = "1 rank" if ranks == 1 else f"{ranks} ranks"
            print(f"train: restarting {size} from the last checkpoint ({which})", file=sys.stderr)
        return outcome.exit_code

    def _new_watch(self, ranks: int) -> Watch | None:
        if self._training is None:
            return None
        predecessor.clear_heartbeats(self._training)
        return Watch(self._training.heartbeats, range(ranks), self._options.stall_seconds)

    def _run_check(self, ranks: int) -> AttemptOutcome:
        """Run the check on all ranks: it finds what separates them sooner than a training does."""
        self._new_watch(ranks)
        deadline = time.monotonic() + _CHECK_SECONDS

        def find_stall(ended: Collection[int]) -> Stall | None:
            is_late = time.monotonic() > deadline
            return Stall(0, f"did not finish an allreduce in {_CHECK_SECONDS:g} s") if is_late else None

        return replace(self._run_ranks(self._check, ranks, dict(os.environ), find_stall), restartable=False)

    def _attempt(self, ranks: int, watch: Watch | None) -> AttemptOutcome:
        environment = dict(os.environ)
        if self._training:
            environment[FOLDER] = str(self._training.heartbeats)
        find_stall: FindStall = watch.stall if watch else lambda ended: None
        return self._run_ranks(self._options.command, ranks, environment, find_stall)

    def _run_ranks(
        self, command: Sequence[str], ranks: int, environment: Mapping[str, str], find_stall: FindStall
    ) -> AttemptOutcome:
        self._memory = OutOfMemory()
        started = self._start(command, ranks, environment)
        try:
            outcome = self._wait(started, find_stall)
        finally:
            started.kill()
        if outcome.unlogged:  # the log is read for the reason, and rank 0 may have logged only the loss of its peer
            log_to_file_only(outcome.unlogged)
        return outcome

    def _wait(self, started: Ranks, find_stall: FindStall) -> AttemptOutcome:
        """Wait until all ranks have ended, one has failed or stalled, or a second request to stop comes."""
        is_stopping, looked = False, float("-inf")
        while True:
            codes = started.poll()
            # While ranks stop on request, one that has ended ends no other: that one may be writing a checkpoint.
            has_failed = any(code not in (None, 0, ResumableError.exit_code) for code in codes)
            if None not in codes or (has_failed and not is_stopping):
                return self._outcome_of_stop(started) if is_stopping else self._outcome(started)
            lost = _lost(started)
            if lost and not is_stopping:
                return _outcome_of_loss(started, lost[0])
            if is_stopping and len(lost) == codes.count(None):  # no word will come from those
                return self._outcome_of_stop(started)
            if self._requests.count > 1:  # a second request ends them at once
                return AttemptOutcome(exit_code=self._report_stop())
            if self._requests.count and not is_stopping:
                started.request_stop()
                is_stopping = True
            stall = None
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                stall = find_stall([rank for rank, code in enumerate(codes) if code is not None])
            if stall:
                return AttemptOutcome(
                    exit_code=IdxtrainError.exit_code,
                    rank=stall.rank,
                    host=started.host(stall.rank),
                    reason=stall.reason,
                    hint="; fix: if it is only slow, raise launch.stall_seconds",
                    restartable=True,
                )
            time.sleep(_POLL_SECONDS)

    def _outcome_of_stop(self, started: Ranks) -> AttemptOutcome:
        """Return the outcome once all ranks have ended after a request to stop."""
        failed = _failed(started)
        if not failed:
            return AttemptOutcome(exit_code=0)
        # Rank 0 alone reports a stop. A rank that was still starting is killed by the signal and reports nothing.
        silent = (PeerLostError.exit_code, ResumableError.exit_code)
        is_reported = failed.get(0) == ResumableError.exit_code or any(
            code > 0 and code not in silent for code in failed.values()
        )
        return AttemptOutcome(exit_code=ResumableError.exit_code if is_reported else self._report_stop())

    def _outcome(self, started: Ranks) -> AttemptOutcome:
        """Return the outcome once a rank has failed or all ranks have ended."""
        failed = _failed(started)
        if not failed:
            return AttemptOutcome(exit_code=0)
        # Ranks that lose a peer fail too: wait for the peer's own exit code, which is the one to report.
        deadline = time.monotonic() + started.peer_loss_seconds
        while set(failed.values()) == {PeerLostError.exit_code} and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            failed = _failed(started)
        if set(failed.values()) == {PeerLostError.exit_code}:
            lost, silent = _lost(started), [rank for rank, code in enumerate(started.poll()) if code is None]
            if lost:
                return _outcome_of_loss(started, lost[0])
            if silent:
                return _outcome_of_silence(started, silent[0])
        first = min(failed, key=lambda rank: (failed[rank] == PeerLostError.exit_code, started.ended_at(rank)))
        code, line = failed[first], started.last_line(first)
        if code == -signal.SIGTERM:  # Slurm may signal the ranks alone, and this one was still starting
            return AttemptOutcome(exit_code=self._report_stop())
        is_error_line = line.startswith("idxtrain: ")
        unlogged = line.removeprefix("idxtrain: ") if first > 0 and is_error_line else ""
        if code in (InputError.exit_code, ResumableError.exit_code):
            return AttemptOutcome(exit_code=code, unlogged=unlogged)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return AttemptOutcome(
            exit_code=IdxtrainError.exit_code,
            rank=first,
            host=started.host(first),
            reason=f"{how}; its last line: {line}" if line else how,
            hint=self._memory.likely_cause(-code),
            restartable=code < 0 or code in (UNEXPECTED, PeerLostError.exit_code),
            reported=code > 0 and is_error_line,
            unlogged=unlogged,
        )

    def _report_failure(self, outcome: AttemptOutcome, step: int, ranks: int) -> None:
        """Print which rank failed, where, when and how, unless it did so itself; append it to the restart history."""
        if not outcome.reported:
            stage = f"{self._options.stage}: " if self._run else ""  # without a run, this is doctor's allreduce
            last_step = "" if self._run and not self._training else f" (last step {step})"
            self._print_error(f"{stage}rank {outcome.rank} on {outcome.host} {outcome.reason}{last_step}{outcome.hint}")
        if self._training:
            entry = {"time": time.time(), "host": outcome.host, "rank": outcome.rank, "ranks": ranks, "step": step}
            # A full disk may be why the rank failed: the printed line has to do then.
            with suppress(OSError), self._training.restarts_file.open("a", encoding="utf-8") as history:
                history.write(json.dumps({**entry, "what": outcome.reason}) + "\n")

    def _report_stop(self) -> int:
        """Print that the stage stopped on request, as no rank could; return the exit code."""
        checkpoint = " from its last checkpoint" if self._training else ""
        hint = f"; {self._run.resumed_by} resumes it{checkpoint}" if self._run else ""
        self._print_error(f"{self._options.stage}: stopped on request{hint}")
        return ResumableError.exit_code

    def _print_error(self, message: str) -> None:
        log_to_file_only(message)
        print(f"idxtrain: {message}", file=sys.stderr)


def _lost(started: Ranks) -> list[int]:
    """Return the ranks that are lost with their hosts: by what srun says, or by a silence that their peers report.

    A host is alive if one of its ranks has reported its end; so is that of rank 0, which is this process's.
    """
    codes = started.poll()
    alive = {started.host(rank) for rank, code in enumerate(codes) if code is not None or rank == 0}
    losses = [started.ended_at(rank) for rank, code in enumerate(codes) if code == PeerLostError.exit_code]
    is_late = bool(losses) and time.monotonic() - min(losses) > started.peer_loss_seconds
    return [
        rank
        for rank, code in enumerate(codes)
        if code is None and (started.is_lost(rank) or (is_late and started.host(rank) not in alive))
    ]


def _outcome_of_silence(started: Ranks, rank: int) -> AttemptOutcome:
    """Return the outcome for a rank that its peers have lost, while its host is alive."""
    return AttemptOutcome(
        exit_code=IdxtrainError.exit_code,
        rank=rank,
        host=started.host(rank),
        reason="does not answer its peers",
        restartable=True,
    )


def _outcome_of_loss(started: Ranks, rank: int) -> AttemptOutcome:
    """Return the outcome for a rank that was lost with its host. A restart could not reach the host either."""
    reason = "was lost with its node"
    return AttemptOutcome(exit_code=ResumableError.exit_code, rank=rank, host=started.host(rank), reason=reason)


def _failed(started: Ranks) -> dict[int, int]:
    """Return the exit codes, by rank, of the ranks that ended with another code than 0."""
    return {rank: code for rank, code in enumerate(started.poll()) if code}
