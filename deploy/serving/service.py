"""The state of one server: the model that it serves now, and what answers requests with it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from deploy.serving.answers import encode
from deploy.serving.batches import Batches, QueueFullError
from deploy.serving.images import images, is_small
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.refusal import busy
from deploy.serving.served import ServedModel

_FEW = 100  # classes in an answer that take less time to write than to hand to another thread
_DECODERS = 2  # threads for large bodies: Pillow and NumPy release the interpreter meanwhile


class Service:
    """Answers with the model that is current when the body of a request has arrived."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.metrics = Metrics(lambda: self._batches.waiting)
        self._batches = Batches(limits.batch, limits.queue, self.metrics.batch)
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")
        self.model: ServedModel | None = None
        self.is_stopping = False

    def serve(self, model: ServedModel) -> None:
        """Answer requests with another model from now on. Those that are computed keep the old one."""
        self.metrics.model(model, replaces=self.model is not None)
        self.model = model

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.model is not None and not self.is_stopping

    async def answer(self, kind: str, body: bytes, *, top: int, resize: bool) -> bytes:
        """Return the JSON of an `Answer`. `kind`: the media type of the body. Raises a RefusalError."""
        model = self.model
        if model is None:
            raise busy("found no model yet: it is being loaded")
        limits, loop = self.limits, asyncio.get_running_loop()
        if is_small(kind, body):
            batch = images(kind, body, model, limits, resize=resize)
        else:
            decoding = loop.run_in_executor(self._decoders, lambda: images(kind, body, model, limits, resize=resize))
            try:
                batch = await asyncio.wait_for(decoding, limits.seconds)
            except TimeoutError as error:
                raise busy(f"body: not decoded after {limits.seconds:g} s (--timeout)") from error
        probabilities = await self._computed(model, batch)
        if len(batch) * top <= _FEW:
            return encode(model, probabilities, top)
        return await loop.run_in_executor(self._decoders, encode, model, probabilities, top)

    async def _computed(self, model: ServedModel, batch: NDArray[Any]) -> NDArray[Any]:
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self._batches.submit(model, batch)
        except QueueFullError as error:
            raise busy(f"queue: {error}") from error
        except TimeoutError as error:
            raise busy(f"queue: found no result after {self.limits.seconds:g} s, expected one (--timeout)") from error

    def stop(self) -> None:
        """End the threads. Requests must have been answered."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._batches.stop(self.limits.seconds)
