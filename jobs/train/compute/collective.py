"""What ranks do together: sums, broadcasts, agreement. The only horovod import."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Milliseconds between two looks of Horovod's own thread for what there is to exchange, 1 by default. On CPUs it takes
# its time from the ranks' computing: two ranks of one thread train the lecture's network a tenth faster with 3 than
# with 1, while the short steps of `fast`, 25 ms, take 4 % longer.
_CYCLE_TIME = "HOROVOD_CYCLE_TIME"
_CPU_CYCLE_TIME = "3"


def tells_of_a_lost_peer(error: BaseException) -> bool:
    """Tell whether an error means that another rank is gone, in Horovod's words or in those of Gloo below it.

    Gloo's begin with the place in its source: […/gloo/transport/tcp/pair.cc:589] Read error: Connection reset by peer.
    """
    return any(word in str(error) for word in ("Horovod", "/gloo/transport/"))


class Collective:
    """The ranks of a training, through Horovod. With one rank every operation is the identity and costs nothing."""

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

    def sum(self, tensor: Any, name: str) -> Any:
        """Return the sum of a float tensor over all ranks."""
        if self.world_size == 1:
            return tensor
        return self._hvd.allreduce(tensor, op=self._hvd.Sum, name=name)

    def sum_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        """Return the sum over all ranks of each gradient; each is sent as soon as it is ready."""
        if self.world_size == 1:
            return list(gradients)
        return [self.sum(gradient, f"gradient.{n}") for n, gradient in enumerate(gradients)]

    def rows_of_all(self, tensor: Any, name: str) -> Any:
        """Return the tensors [1, …] of all ranks, in rank order, as one [ranks, …]."""
        return self._hvd.allgather(tensor, name=name)

    def rows_for_me(self, tensor: Any, name: str) -> Any:
        """Give row r of a tensor [ranks, …] to rank r; return what this rank was given, in rank order [ranks, …]."""
        return self._hvd.alltoall(tensor, name=name)

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Give every rank the values that rank 0 has in these tf.Variables."""
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
        """Wait until every rank has come here."""
        self.gather(np.zeros(1, np.int32))
