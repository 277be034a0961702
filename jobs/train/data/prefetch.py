"""Reading ahead: an iterator that runs in its own thread, a few items before its consumer."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

_AHEAD = 2  # items ready before the consumer asks for them

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the items of an iterator that runs in a thread of its own; raise here what it raises there.

    The thread ends once the consumer closes this generator.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_AHEAD)  # None: the end
    abandoned = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> None:
        while not abandoned.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item,))
                if abandoned.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    threading.Thread(target=work, name="read-ahead", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        abandoned.set()
