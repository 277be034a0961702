"""The speed of a training."""


class Throughput:
    """Images per second over all measurements but the first, in which TensorFlow builds its graph."""

    def __init__(self) -> None:
        self._measurements = 0
        self._images = 0
        self._seconds = 0.0
        self._last = 0.0

    def add(self, images: int, seconds: float) -> None:
        """Add a measurement: the images of all ranks, and wall time."""
        self._last = images / seconds
        self._measurements += 1
        if self._measurements > 1:
            self._images += images
            self._seconds += seconds

    @property
    def images_per_second(self) -> float:
        """Images per second of all ranks together; that of the first measurement if it is the only one."""
        return round(self._images / self._seconds if self._seconds else self._last, 1)
