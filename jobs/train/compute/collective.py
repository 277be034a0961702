"""Collective operations of the ranks: sums, broadcasts, gathers. The only module of a training that imports Horovod."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.train.compute.shared_sum import PEER_LOST, SharedSum, shared_sum
from models.training.types import Tensor

# How often, in ms, Horovod's background thread looks for tensors to reduce; 1 by default. On CPUs it competes with the
# ranks' computing: two ranks of one thread train `lecture` 10 % faster with 3 than with 1, while the short steps of
# `fast`, 25 ms, take 4 % longer.
_CYCLE_TIME = "HOROVOD_CYCLE_TIME"
_CPU_CYCLE_TIME = "3"


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error of Horovod, of Gloo below it, or of a shared sum means that another rank is gone.

    Gloo's begin with a source line: […/gloo/transport/tcp/pair.cc:589] Read error: Connection reset by peer.
    """
    return any(word in str(error) for word in ("Horovod", "/gloo/transport/", PEER_LOST))


class Collective:
    """The ranks of a training, through Horovod. With one rank, every operation is the identity and costs nothing."""

    def __init__(self) -> None:
        import horovod.tensorflow as hvd
        import tensorflow as tf

        has_gpus = bool(tf.config.list_physical_devices("GPU"))
        if not has_gpus:
            os.environ.setdefault(_CYCLE_TIME, _CPU_CYCLE_TIME)
        hvd.init()
        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.world_size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.local_size: int = hvd.local_size()
        self._shares_memory = not has_gpus and self.local_size == self.world_size > 1
        self._shared_sums: dict[Any, SharedSum | None] = {}  # by what they add up

    def sum(self, tensor: Tensor, name: str) -> Tensor:
        """Return the sum of a float tensor over all ranks."""
        if self.world_size == 1:
            return tensor
        return self._hvd.allreduce(tensor, op=self._hvd.Sum, name=name)

    def sum_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum over all ranks of each gradient, all of one dtype.

        Ranks on one machine without GPUs add them up in memory that they share, if they can. All others send each as
        soon as it is computed.
        """
        if self.world_size == 1:
            return list(gradients)
        if self._shares_memory and (add_up := self._shared_sum(gradients)):
            import tensorflow as tf

            sums = tf.numpy_function(add_up, gradients, [gradient.dtype for gradient in gradients])
            return [tf.ensure_shape(total, gradient.shape) for total, gradient in zip(sums, gradients, strict=True)]
        return [self.sum(gradient, f"gradient.{n}") for n, gradient in enumerate(gradients)]

    def _shared_sum(self, gradients: Sequence[Tensor]) -> SharedSum | None:
        """Return the sum in shared memory of such gradients; None if there can be none, on any rank."""
        import tensorflow as tf

        dtype, shapes = gradients[0].dtype, tuple(tuple(gradient.shape) for gradient in gradients)
        if dtype not in (tf.float32, tf.float64):  # NumPy adds float16 value by value
            return None
        if (dtype, shapes) not in self._shared_sums:
            with tf.init_scope():  # ranks talk now, while the graph is only built
                self._shared_sums[dtype, shapes] = shared_sum(
                    self.rank, self.world_size, shapes, dtype.as_numpy_dtype, self.gather
                )
        return self._shared_sums[dtype, shapes]

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
