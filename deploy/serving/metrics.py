"""What /metrics shows, in a registry of its own: https://prometheus.io/docs/practices/naming/"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from deploy.serving.served import ServedModel

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one server."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Make the counters. `waiting`: returns the number of images in the queue."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "idxtrain_requests", "Requests, by path and status.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "idxtrain_request_seconds",
            "Seconds from the headers of a request for predictions to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "idxtrain_batch_images", "Images of a batch.", buckets=_IMAGES, registry=self._registry
        )
        Gauge("idxtrain_queue_images", "Images that wait.", registry=self._registry).set_function(waiting)
        self._model = Gauge(
            "idxtrain_model_info", "The model that is served.", ("title", "run", "sha256"), registry=self._registry
        )
        self._version = Gauge(
            "idxtrain_model_version", "Its number in the registry; 0 of a run's.", registry=self._registry
        )
        self._swaps = Counter("idxtrain_model_swaps", "Models that replaced another.", registry=self._registry)
        self._failures = Counter(
            "idxtrain_model_failures", "New models that could not be served.", registry=self._registry
        )
        self._follows = Gauge(
            "idxtrain_registry_up", "1 if the registry answers, or none is followed; else 0.", registry=self._registry
        )
        self._follows.set(1)
        ProcessCollector(registry=self._registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(path, str(status)).inc()
        if path == "/predict":
            self._seconds.observe(seconds)

    def batch(self, images: int) -> None:
        """Count one batch."""
        self._batches.observe(images)

    def model(self, model: ServedModel, *, replaces: bool) -> None:
        """Show which model is served."""
        self._model.clear()
        self._model.labels(model.file.title, model.run_id, model.file.sha256).set(1)
        self._version.set(model.version or 0)
        if replaces:
            self._swaps.inc()

    def failure(self) -> None:
        """Count a new model that could not be served."""
        self._failures.inc()

    def registry_answers(self, answers: bool) -> None:
        """Show whether the registry answers."""
        self._follows.set(answers)

    def text(self) -> bytes:
        """Return the text format of Prometheus."""
        return generate_latest(self._registry)
