"""Dynamic batching: one thread computes, and a batch is whatever waits when it is free.

Nothing waits for a batch to fill up: at low load a request is computed at once, at high load the batches grow by
themselves. A request keeps the model that it came with, so that a batch, and an answer, never mixes two. A request of
more images than a batch holds is queued again after each batch, behind the others.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.serving.served import ServedModel
from jobs.errors import IdxtrainError, one_line

log = logging.getLogger("idxtrain")

_Slice = tuple["_Job", int, int]  # images [start, stop) of a job


class QueueFullError(IdxtrainError):
    """More images wait than the queue holds."""


class _Job:
    """The images of one request. `answer`: a future of the event loop."""

    def __init__(self, model: ServedModel, images: NDArray[Any], answer: "asyncio.Future[NDArray[Any]]") -> None:
        self.model, self.images, self.answer = model, images, answer
        self.taken = 0
        self.results: list[NDArray[Any]] = []


class Batches:
    """The queue, and the thread that owns the models."""

    def __init__(self, most_batch: int, most_waiting: int, observe: Callable[[int], None]) -> None:
        """Start the thread. `most_batch`, `most_waiting`: in images. `observe`: called with the size of each batch."""
        self._most_batch, self._most_waiting, self._observe = most_batch, most_waiting, observe
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._stops = False
        self._thread = threading.Thread(target=self._compute, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of images that wait."""
        return self._waiting

    def submit(self, model: ServedModel, images: NDArray[Any]) -> "asyncio.Future[NDArray[Any]]":
        """Queue images, float32 [n, height, width, channels]; return the future of their probabilities [n, classes].

        Call it in the event loop. Raises QueueFullError if more would wait than may, unless nothing waits.
        """
        job = _Job(model, images, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._stops:
                raise QueueFullError("the server stops")
            if self._waiting and self._waiting + len(images) > self._most_waiting:
                raise QueueFullError(f"found {self._waiting} images waiting, expected at most {self._most_waiting}")
            self._waiting += len(images)
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    def stop(self, seconds: float) -> None:
        """End the thread once the queue is empty, or leave it behind after `seconds`."""
        with self._changed:
            self._stops = True
            self._changed.notify()
        self._thread.join(seconds)

    def _compute(self) -> None:
        while batch := self._next_batch():
            model = batch[0][0].model
            images = [job.images[start:stop] for job, start, stop in batch]
            try:
                probabilities = model.probabilities(images[0] if len(images) == 1 else np.concatenate(images))
                if not np.isfinite(probabilities).all():
                    raise IdxtrainError(f"{model.file.title}: found an output that is not a number")
            except Exception as error:  # TensorFlow raises anything, e.g. without memory: the next batch may fit
                log.error("a batch of %d images failed: %s", sum(map(len, images)), one_line(error)[:300])
                with self._changed:
                    self._waiting -= sum(len(job.images) - stop for job, _, stop in batch)
                self._deliver([(job, error) for job, _, _ in batch])
            else:
                self._observe(len(probabilities))
                self._distribute(batch, probabilities)
            del batch, model, images  # or a replaced model would stay until the next request

    def _next_batch(self) -> list[_Slice]:
        """Wait for images; return those of the next batch, all for one model. Empty at the end."""
        batch: list[_Slice] = []
        with self._changed:
            while not batch:
                while not self._jobs:
                    if self._stops:
                        return []
                    self._changed.wait()
                room = self._most_batch
                while self._jobs and room:
                    job = self._jobs[0]
                    if batch and job.model is not batch[0][0].model:
                        break
                    self._jobs.popleft()
                    left = len(job.images) - job.taken
                    if job.answer.cancelled():  # its client was too slow, or left
                        self._waiting -= left
                        continue
                    count = min(left, room)
                    batch.append((job, job.taken, job.taken + count))
                    job.taken += count
                    room -= count
                    self._waiting -= count
        return batch

    def _distribute(self, batch: list[_Slice], probabilities: NDArray[Any]) -> None:
        position, finished, unfinished = 0, [], []
        for job, start, stop in batch:
            job.results.append(probabilities[position : position + stop - start])
            position += stop - start
            if stop == len(job.images):
                finished.append((job, job.results[0] if start == 0 else np.concatenate(job.results)))
            else:
                unfinished.append(job)
        if unfinished:
            with self._changed:
                self._jobs.extend(unfinished)
        self._deliver(finished)

    def _deliver(self, results: list[tuple[_Job, Any]]) -> None:
        if results:
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any longer
                results[0][0].answer.get_loop().call_soon_threadsafe(_settle, results)


def _settle(results: list[tuple[_Job, Any]]) -> None:
    for job, result in results:
        if not job.answer.done():
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)
