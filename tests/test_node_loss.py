"""What the launcher makes of ranks that fall silent: a lost node, a rank that hangs, a loss while it stops."""

import time
from argparse import Namespace
from collections.abc import Collection

import pytest

from deploy.launcher.launcher import AttemptOutcome, Launcher
from deploy.launcher.watch import Stall
from jobs.errors import PeerLostError, ResumableError

LOST = PeerLostError.exit_code


class Silent:
    """Ranks 0 and 1 on n1, 2 and 3 on n2, with these exit codes; before `stops`, all run.

    `lost`: the hosts that srun calls lost.
    """

    peer_loss_seconds = 0.2

    def __init__(self, *codes: int | None, lost: Collection[str] = (), stops: bool = False) -> None:
        self._codes, self._lost = list(codes), lost
        self._begin = time.monotonic()
        self._runs = stops

    def poll(self) -> list[int | None]:
        return [None] * len(self._codes) if self._runs else self._codes

    def ended_at(self, rank: int) -> float:
        return self._begin if self._codes[rank] is not None else float("inf")

    def last_line(self, rank: int) -> str:
        return ""

    def host(self, rank: int) -> str:
        return "n1" if rank < 2 else "n2"

    def is_lost(self, rank: int) -> bool:
        return self.host(rank) in self._lost and not self._runs

    def request_stop(self) -> None:
        self._runs = False

    def kill(self) -> None:
        pass


def no_stall(ended: Collection[int]) -> Stall | None:
    return None


def outcome(ranks: Silent, *, stops: bool = False) -> AttemptOutcome:
    launcher = Launcher(Namespace(stage="train", run_dir=None, site=None, max_restarts=3), lambda *_: ranks)
    if stops:
        launcher._requests.note()
    return launcher._wait(ranks, no_stall)


def test_a_host_without_a_word_is_lost_and_the_job_goes_back() -> None:
    found = outcome(Silent(LOST, LOST, None, None))
    assert (found.exit_code, found.rank, found.host) == (ResumableError.exit_code, 2, "n2")
    assert (found.reason, found.restartable) == ("was lost with its node", False)


@pytest.mark.parametrize("codes", [(LOST, LOST, LOST, None), (LOST, None, LOST, LOST), (None, LOST, LOST, LOST)])
def test_a_silent_rank_of_a_living_host_is_no_lost_node(codes: tuple[int | None, ...]) -> None:
    found = outcome(Silent(*codes))
    assert (found.rank, found.reason, found.restartable) == (codes.index(None), "does not answer its peers", True)
    assert found.exit_code == 1


def test_a_host_that_srun_calls_lost_is_not_waited_for() -> None:
    found = outcome(Silent(None, None, None, None, lost=("n2",)))
    assert (found.exit_code, found.rank) == (ResumableError.exit_code, 2)


@pytest.mark.timeout(30)
def test_a_node_that_is_lost_while_the_ranks_stop_delays_nothing() -> None:
    for ranks in (Silent(75, 75, None, None, lost=("n2",), stops=True), Silent(LOST, LOST, None, None, stops=True)):
        assert outcome(ranks, stops=True).exit_code == ResumableError.exit_code
