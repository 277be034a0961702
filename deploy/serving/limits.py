"""What the server accepts: the options of `idxtrain serve` that limit size, number and time."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server. Memory for requests stays below about `requests` × 4 × `body` bytes.

    `batch`: images that the model computes at once. `queue`: images that may wait for it. `requests`: that are answered
    at the same time. `body`: bytes of a request. `pixels`: width × height of a picture, before it is decoded. `images`:
    of a request. `seconds`: for a client to send its headers, its body, and to take its answer; and for the model.
    """

    batch: int = 256
    queue: int = 1024
    requests: int = 256
    body: int = 4 << 20
    pixels: int = 1_000_000
    images: int = 1000
    seconds: float = 10.0

    @property
    def connections(self) -> int:
        """Open connections, idle ones included; below 1,024, the usual limit of open files."""
        return min(4 * self.requests + 16, 900)
