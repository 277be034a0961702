"""Collective operations of the ranks: sums, broadcasts, gathers. The only module of a training that imports Horovod."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.training.types import Tensor

# How often, in ms, Horovod's background thread looks for tensors to reduce; 1 by default. On CPUs it competes with the
# ranks' computing: two ranks of one thread train `lecture` 10 % faster with 3 than with 1, while the short steps of
# `fast`, 25 ms, take 4 % longer.
_CYCLE_TIME = "HOROVOD_CYCLE_TIME"
_CPU_CYCLE_TIME = "3"


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error of Horovod, or of Gloo below it, means that another rank is gone.

    Gloo's begin with a source line: […/gloo/transport/tcp/pair.cc:589] Read error: Connection reset by peer.
    """
    return any(word in str(error) for word in ("Horovod", "/gloo/transport/"))


class Collective:
    """The ranks of a training, through Horovod. With one rank, every operation is the identity and costs nothing."""

    def __init__(self) -> None:
        import horovod.tensorflow as hvd
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            os.environ.setdefault(_CYCLE_TIME, _CPU_CYCLE_TIME)
        hvd.init()
        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.world_size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.local_size: int = hvd.local_size()

    def sum(self, tensor: Tensor, name: str) -> Tensor:
        """Return the sum of a float tensor over all ranks."""
        if self.world_size == 1:
            return tensor
        return self._hvd.allreduce(tensor, op=self._hvd.Sum, name=name)

    def sum_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum over all ranks of each gradient. Each is sent as soon as it is computed."""
        if self.world_size == 1:
            return list(gradients)
        return [self.sum(gradient, f"gradient.{n}") for n, gradient in enumerate(gradients)]

    def allgather(self, tensor: Tensor, name: str) -> Tensor:
        """Return the tensors [1, …] of all ranks, in rank order, as one [ranks, …]."""
        return self._hvd.allgather(tensor, name=name)

    def alltoall(self, tensor: Tensor, name: str) -> Tensor:
        """Send row r of a tensor [ranks, …] to rank r; return the rows this rank received, in rank order [ranks, …]."""
        return self._hvd.alltoall(tensor, name=name)

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Set these tf.Variables on every rank to rank 0's values."""
        if self.world_size == 1:
            return
        for n, variable in enumerate(variables):
            variable.assign(self._hvd.broadcast(variable, root_rank=0, name=f"broadcast.{n}"))

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values [n, …] of all ranks, in rank order, as one array [ranks · n, …]."""
        if self.world_size == 1:
            return values
        return np.asarray(self._hvd.allgather(values, name="gather"))

    def barrier(self) -> None:
        """Wait until every rank gets here."""
        self.gather(np.zeros(1, np.int32))
